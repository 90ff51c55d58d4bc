"""Read and write images as PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from lift3d_cli.errors import CacheError


def to_uint8(image: torch.Tensor) -> np.ndarray:
    """Convert [3, H, W] in [0, 1] to [H, W, 3] uint8."""
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def encode_png(image: np.ndarray) -> bytes:
    """Encode [H, W, 3] RGB or [H, W] grey, uint8 or uint16, as a PNG file."""
    import cv2

    return cv2.imencode(".png", image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def read_png(path: Path) -> np.ndarray:
    """Read a PNG file of a render as [H, W, 3] uint8 RGB.

    Raises:
        CacheError: if it is missing or damaged.
    """
    import cv2

    try:
        image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error):
        image = None
    if image is None:
        raise CacheError(f"{path}: damaged or missing. hint: delete the render's folder and run lift3d render")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
