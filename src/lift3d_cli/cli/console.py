"""Standard output and standard error. Standard output has results only; everything else goes to standard error."""

from __future__ import annotations

import json
import math
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

quiet = False
debug = False


def escaped(value: str, stream: object = None) -> str:
    """Spell what is not printable as in Python's literals: a scene's names must not steer the terminal.

    Also what the encoding of the stream, by default standard error, lacks; ends of lines stay.
    """
    printable = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in value)
    encoding = getattr(stream or sys.stderr, "encoding", None) or "utf-8"
    return printable.encode(encoding, "backslashreplace").decode(encoding)


def result(path: Path) -> None:
    """Print an artefact's path to standard output; to a program byte by byte as the file system has it."""
    if sys.stdout.isatty() or not hasattr(sys.stdout, "buffer"):
        text(str(path))
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(os.fsencode(path) + b"\n")
    sys.stdout.buffer.flush()


def text(value: str) -> None:
    """Print a requested report to standard output."""
    print(escaped(value, sys.stdout), flush=True)  # noqa: T201


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
    print(escaped(" ".join(value.split())), file=sys.stderr, flush=True)  # noqa: T201


def trace(error: BaseException) -> None:
    """Print the traceback of an error to standard error."""
    print(escaped("".join(traceback.format_exception(error))), end="", file=sys.stderr, flush=True)  # noqa: T201


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
    from rich.markup import escape
    from rich.progress import track

    return track(items, escape(escaped(description)), total, console=Console(stderr=True))


def human_bytes(count: float) -> str:
    """Format a size: `12.3 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
