"""Read and write images as PNG."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lift3d_cli.errors import CacheError
from lift3d_cli.machine.reading import read_file

if TYPE_CHECKING:
    from torch import Tensor

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_BYTES = 2**30


def to_uint8(image: Tensor) -> np.ndarray:
    """Convert [3, H, W] in [0, 1] to [H, W, 3] uint8."""
    return (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def encode_png(image: np.ndarray) -> bytes:
    """Encode [H, W, 3] RGB or [H, W] grey, uint8 or uint16, as a PNG file."""
    import cv2

    return cv2.imencode(".png", image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def read_png(path: Path, hint: str = "lift3d render again") -> np.ndarray:
    """Read a PNG file that `encode_png` made as [H, W, 3] uint8 RGB.

    Args:
        path: the file.
        hint: what makes it.

    Raises:
        CacheError: if it is missing or damaged.
    """
    import cv2

    try:
        data = read_file(path, _MAX_BYTES)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if _is_whole(data) else None
    except (OSError, cv2.error):
        image = None
    if image is None:
        raise CacheError(f"{path}: damaged or missing. hint: {hint}")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def is_whole_png(path: Path) -> bool:
    """Tell if a file is there, and a PNG whose chunks all have the checksum that is beside them."""
    try:
        return _is_whole(read_file(path, _MAX_BYTES))
    except OSError:
        return False


def _is_whole(data: bytes) -> bool:
    """Compare the CRC of each chunk, up to the last one, as decoders do not all of them."""
    place, kind = len(_SIGNATURE), b""
    while data.startswith(_SIGNATURE) and kind != b"IEND" and place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        kind, end = data[place + 4 : place + 8], place + 8 + length
        if data[end : end + 4] != struct.pack(">I", zlib.crc32(data[place + 4 : end])):
            return False
        place = end + 4
    return kind == b"IEND" and place == len(data)
