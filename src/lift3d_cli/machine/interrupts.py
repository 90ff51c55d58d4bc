"""Ctrl-C and SIGTERM, remembered: a library they stop in its import may hide them behind an error of its own."""

from __future__ import annotations

import signal

from lift3d_cli.errors import Terminated

_received: list[KeyboardInterrupt] = []


def listen() -> None:
    """Raise KeyboardInterrupt at SIGINT, unless it is ignored, and `Terminated` at SIGTERM."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _terminate)


def received() -> KeyboardInterrupt | None:
    """Return the last one, even if somebody caught it; None if there was none."""
    return _received[-1] if _received else None


def _interrupt(*_: object) -> None:
    _received.append(KeyboardInterrupt())
    raise _received[-1]


def _terminate(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends at once
    _received.append(Terminated())
    raise _received[-1]
