"""Read files that others made or that may be damaged: regular ones, of a size that fits their kind."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_file(path: Path, max_bytes: int) -> bytes:
    """Read a regular file; a pipe or a device, which may never end, is not opened for long enough to wait for it.

    Raises:
        OSError: if it cannot be read, is no regular file, or has more than `max_bytes`.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if status.st_size > max_bytes:
            raise OSError(errno.EFBIG, f"larger than {max_bytes >> 20} MiB", str(path))
        return file.read(status.st_size)  # pseudo-files have none, and no end
