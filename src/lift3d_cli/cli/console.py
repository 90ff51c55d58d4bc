"""Standard output and standard error. Standard output has results only; everything else goes to standard error."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

quiet = False
debug = False


def result(path: Path) -> None:
    """Print an artefact's path to standard output."""
    print(path, flush=True)  # noqa: T201


def text(value: str) -> None:
    """Print a requested report to standard output."""
    print(value, flush=True)  # noqa: T201


def as_json(value: object) -> None:
    """Print JSON to standard output; null for NaN and infinite numbers, which JSON does not have."""
    print(json.dumps(_finite(value), indent=2, allow_nan=False), flush=True)  # noqa: T201


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def line(value: str) -> None:
    """Print one line to standard error, whatever the value contains."""
    print(" ".join(value.split()), file=sys.stderr, flush=True)  # noqa: T201


def warn(value: str | None) -> None:
    """Print a warning to standard error, even if it is not a terminal; nothing for None or ""."""
    if value and not quiet:
        line(f"warning: {value}")


def say(value: str) -> None:
    """Print a message, only if standard error is a terminal."""
    if not quiet and sys.stderr.isatty():
        line(value)


def progress(items: Iterable[T], description: str, total: int) -> Iterable[T]:
    """Show a progress bar around `items`, only if standard error is a terminal."""
    if quiet or total == 0 or not sys.stderr.isatty():
        return items
    from rich.console import Console
    from rich.progress import track

    return track(items, description, total, console=Console(stderr=True))


def human_bytes(count: float) -> str:
    """Format a size: `12.3 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def human_time(seconds: float) -> str:
    """Format a duration: `45 s`, `3 min`, `2.5 h`, `12 days`."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"
