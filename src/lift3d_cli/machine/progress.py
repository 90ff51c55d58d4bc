"""Progress of long work: the type of what wraps an iterable to show it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
Progress = Callable[[Iterable[T], str, int], Iterable[T]]
"""Wraps an iterable to show progress: (iterable, description, total)."""


def no_progress(items: Iterable[T], description: str, total: int) -> Iterable[T]:
    """Show nothing: the default `Progress`."""
    return items
