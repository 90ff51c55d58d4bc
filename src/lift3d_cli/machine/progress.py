"""How far a long work is: what wraps an iterable to show it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
Progress = Callable[[Iterable[T], str, int], Iterable[T]]
"""Wraps an iterable to show how far it is: (iterable, what is done, how many there are)."""


def no_progress(items: Iterable[T], description: str, total: int) -> Iterable[T]:
    """A `Progress` that shows nothing."""
    return items
