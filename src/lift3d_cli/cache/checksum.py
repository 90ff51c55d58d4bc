"""Checksums: sha256 of photos; CRC-32 of each file of the cache, kept in the file itself. Needs no torch.

The CRC-32 is the first field of the file's document, eight hex digits that count as zeros:
`{"checksum":"89abcdef",...`. In a safetensors file, the document is a string in the header, so its quotes are escaped.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from pathlib import Path

from lift3d_cli.errors import SceneError

BLANK = "00000000"
"""Stands for the checksum in what it is computed from."""

_FIELD = re.compile(rb'\{\\?"checksum\\?":\\?"([0-9a-f]{8})\\?"')
# The document begins behind the length of a safetensors header and the name of its entry.
_FIELD_WITHIN = 64
_BLOCK = 2**22

_intact: dict[Path, tuple[int, int, int]] = {}
"""Inode, time and size of files that this process found intact: features are opened for each block of channels."""


def sealed(data: bytes) -> bytes:
    """Fill in the checksum of a file's bytes, which have `BLANK` in its place."""
    begin, end = _place(data)
    return b"".join((data[:begin], f"{zlib.crc32(data):08x}".encode(), data[end:]))


def check_bytes(data: bytes) -> None:
    """Compare the checksum in a file's bytes with that of the bytes.

    Raises:
        ValueError: if it is another one, or there is none.
    """
    begin, end = _place(data)
    crc = zlib.crc32(data[end:], zlib.crc32(BLANK.encode(), zlib.crc32(data[:begin])))
    _compare(crc, data[begin:end])


def check_file(path: Path) -> None:
    """Do as `check_bytes` with a file that may be larger than memory; once, as long as it stays as it is.

    Raises:
        ValueError: as `check_bytes`.
        OSError: if it cannot be read.
    """
    status = path.stat()
    identity = (status.st_ino, status.st_mtime_ns, status.st_size)
    if _intact.get(path) == identity:
        return
    with path.open("rb") as file:
        head = file.read(_FIELD_WITHIN)
        begin, end = _place(head)
        crc = zlib.crc32(head[:begin] + BLANK.encode() + head[end:])
        while block := file.read(_BLOCK):
            crc = zlib.crc32(block, crc)
    _compare(crc, head[begin:end])
    _intact[path] = identity


def file_sha256(path: Path) -> str:
    """Hash a file's bytes: sha256, as hex."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except OSError as error:
        raise SceneError(f"{path}: cannot be read ({error.strerror or error})") from error
    return digest.hexdigest()


def _place(head: bytes) -> tuple[int, int]:
    match = _FIELD.search(head, 0, _FIELD_WITHIN)
    if match is None:
        raise ValueError("damaged: it has no checksum")
    return match.span(1)


def _compare(crc: int, stored: bytes) -> None:
    if f"{crc:08x}".encode() != stored:
        raise ValueError("damaged: its checksum is not that of its content")
