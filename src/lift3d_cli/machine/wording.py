"""How numbers of things are said."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """Say how many there are: `1 frame`, `2 frames`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
