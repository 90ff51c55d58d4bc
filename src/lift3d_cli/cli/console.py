"""Standard output and standard error. Standard output has results only; everything else goes to standard error."""

from __future__ import annotations

import ctypes
import json
import logging
import math
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO, TypeVar

T = TypeVar("T")

quiet = False
debug = False
_write: Callable[[str], object] | None = None
_stdout: TextIO | None = None


@contextmanager
def own_streams() -> Iterator[None]:
    """Keep standard output for results, whatever a model or a library prints: that goes to standard error.

    Warnings and log lines of libraries become our warnings: each once, on one line, and none if we are to be quiet.
    """
    global _write, _stdout
    said: set[str] = set()

    def warn_once(value: str) -> None:
        if value not in said:
            said.add(value)
            warn(value)

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            warn_once(f"{record.name}: {record.getMessage()}")

    handler, root = Handler(logging.WARNING), logging.getLogger()
    stdout, show = sys.stdout, warnings.showwarning
    warnings.showwarning = lambda message, category, *_, **__: warn_once(f"{category.__name__}: {message}")
    root.addHandler(handler)
    try:
        with _results_writer() as _write:
            _stdout, sys.stdout = stdout, sys.stderr
            yield
    finally:
        root.removeHandler(handler)
        _write, _stdout, sys.stdout, warnings.showwarning = None, None, stdout, show


@contextmanager
def _results_writer() -> Iterator[Callable[[str], object]]:
    """Yield what writes to standard output, whose number is standard error's meanwhile.

    What prints from C, and a process that is started, know only the number.
    """
    stdout = sys.stdout
    try:
        if stdout.fileno() != 1:
            raise OSError
        stdout.flush()
        kept = os.dup(1)
        os.dup2(2, 1)
    except (OSError, ValueError, AttributeError):  # no file, as in tests and notebooks
        yield lambda value: print(value, end="", file=stdout, flush=True)
        return

    def write(value: str) -> None:
        try:
            data = value.encode(stdout.encoding or "utf-8", "surrogateescape")
        except UnicodeEncodeError:  # a path that the terminal's encoding lacks
            data = os.fsencode(value)
        while data:
            data = data[os.write(kept, data) :]

    try:
        yield write
    finally:
        with suppress(OSError, AttributeError):  # what the C library has not written yet; there is none on Windows
            ctypes.CDLL(None).fflush(None)
        os.dup2(kept, 1)
        os.close(kept)


def escaped(value: str, stream: object = None) -> str:
    """Spell what is not printable as in Python's literals: a scene's names must not steer the terminal.

    Also what the encoding of the stream, by default standard error, lacks; ends of lines stay.
    """
    printable = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in value)
    encoding = getattr(stream or sys.stderr, "encoding", None) or "utf-8"
    return printable.encode(encoding, "backslashreplace").decode(encoding)


def result(path: Path) -> None:
    """Print an artefact's path to standard output; to a program as the file system has it."""
    stdout = _stdout or sys.stdout
    _print(escaped(str(path), stdout) if stdout.isatty() else str(path))


def text(value: str) -> None:
    """Print a requested report to standard output."""
    _print(escaped(value, _stdout or sys.stdout))


def _print(value: str) -> None:
    if _write is None:
        print(value, flush=True)  # noqa: T201
    else:
        _write(f"{value}\n")


def as_json(value: object) -> None:
    """Print JSON to standard output; null for NaN and infinite numbers, which JSON does not have."""
    text(json.dumps(_finite(value), indent=2, allow_nan=False))


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


def note(value: str) -> None:
    """Print a message to standard error, even if it is not a terminal: for what a log should have."""
    if not quiet:
        line(value)


def say(value: str) -> None:
    """Print a message, only if standard error is a terminal."""
    if sys.stderr.isatty():
        note(value)


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


def human_time(seconds: float) -> str:
    """Format a duration: `45 s`, `3 min`, `2.5 h`, `12 days`."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"
