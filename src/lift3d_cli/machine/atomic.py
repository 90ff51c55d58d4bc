"""Atomic writes: every file that lift3d makes is written through here, so that an existing file is complete.

A file is written beside its place under a hidden name, and renamed. The first write of a process into a folder removes
what killed processes left there.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace

from lift3d_cli.errors import CacheError, Lift3dError, ResourceError

_TEMP = re.compile(r"\.(?P<host>[0-9a-f]{8})-(?P<pid>\d{1,7})-[0-9a-f]{8}\.tmp(\.\w+)?$")
_DAY_S = 24 * 3600

_state = SimpleNamespace(has_written=False)

Later = Callable[..., None]
"""Calls a function that writes something, `later(function, *args)`, perhaps on another thread; in the order given."""


def at_once(function: Callable[..., object], *args: object) -> None:
    """Call the function immediately: the `Later` that does not defer."""
    function(*args)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file of the cache atomically, creating folders as needed. The last of two writers wins.

    Raises:
        ResourceError: if the disk is full.
        CacheError: if the folder cannot be written.
    """
    try:
        replace_file(path, data)
    except OSError as error:
        raise storage_error(path, error) from error


def write_output(path: Path, data: bytes) -> None:
    """Write a file that the user asked for, as `write_atomic` does.

    Raises:
        ResourceError: if it cannot be written.
    """
    try:
        replace_file(path, data)
    except OSError as error:
        raise output_error(path, error) from error


def replace_file(path: Path, data: bytes) -> None:
    """Write as `write_atomic` does, but raise the operating system's errors."""
    with replacement(path) as temp:
        # Not `tempfile`: its files are private to their user, and a cache may be shared; here the umask decides.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        with open(os.open(temp, flags, 0o666), "wb") as file:
            file.write(data)
            file.flush()
            # Without it, a power failure after the rename can leave a file of the right length full of zeros.
            os.fsync(file.fileno())


@contextmanager
def replacement(path: Path, suffix: str = "") -> Iterator[Path]:
    """Yield the path of a file to write, which becomes `path` at the end; after an error there is none.

    Args:
        path: the file to make.
        suffix: what the temporary name must end in, for programs that look at it.

    Raises:
        OSError: if the folder cannot be made, or the file not be renamed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(os.path.abspath(path.parent))
    # The names of poses may be as long as file systems allow: only the beginning is repeated.
    temp = path.with_name(f".{path.name[:40]}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}.tmp{suffix}")
    try:
        yield temp
        os.replace(temp, path)
    except BaseException:  # Ctrl-C too
        with contextlib.suppress(OSError):
            temp.unlink()
        raise
    _state.has_written = True


def has_written() -> bool:
    """Tell if this process has finished a file."""
    return _state.has_written


def remove_leftovers(folder: Path) -> int:
    """Remove temporary files of killed processes in `folder` and below; return the bytes freed."""
    return _remove_stale(folder.rglob(".*.tmp*"))


@cache
def _sweep(folder: str) -> None:
    """Remove temporary files of killed processes in `folder`, once in a process."""
    _remove_stale(Path(folder).glob(".*.tmp*"))


def _remove_stale(temps: Iterable[Path]) -> int:
    freed = 0
    with contextlib.suppress(OSError):  # the folder vanishes, or cannot be listed
        for temp in temps:
            with contextlib.suppress(OSError):  # another process removes it too, or the folder is read-only
                if _is_stale(temp):
                    size = temp.lstat().st_size
                    temp.unlink()
                    freed += size
    return freed


def storage_error(path: Path, error: OSError) -> Lift3dError:
    """Return the error for the user when `path` cannot be read or written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(f"{path.parent}: the disk is full. hint: free space, or --cache DIR on another disk")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return CacheError(f"{path.parent}: no permission for {path.name}. hint: --cache DIR or LIFT3D_CACHE=DIR")
    return CacheError(f"{path}: {error.strerror or error}. hint: --cache DIR or LIFT3D_CACHE=DIR")


def output_error(path: Path, error: OSError) -> ResourceError:
    """Return the error for the user when a file that was asked for cannot be written."""
    return ResourceError(f"{path}: cannot be written ({error.strerror or error})")


def _is_stale(temp: Path) -> bool:
    """Return True if the process that was writing `temp` has ended."""
    match = _TEMP.search(temp.name)
    if match is None:
        return False
    # A day is far longer than any write: it covers files of other machines, and reused process ids.
    if time.time() - temp.lstat().st_mtime > _DAY_S:
        return True
    if match["host"] != _host() or os.name != "posix":  # elsewhere, os.kill(pid, 0) would end the process
        return False
    try:
        os.kill(int(match["pid"]), 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


@cache
def _host() -> str:
    """Name the machine, and the container on it, in which a process id is valid."""
    with contextlib.suppress(OSError):
        return _short(socket.gethostname() + os.readlink("/proc/self/ns/pid"))
    return _short(socket.gethostname())


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
