"""Pictures of classes: index PNGs with a palette, and overlays."""

from __future__ import annotations

import colorsys
import io

import numpy as np
import torch

from lift3d_cli.errors import ResourceError
from lift3d_cli.models.base import Segmentation

# Hues a golden angle apart: each class differs from the last ones.
_GOLDEN = 0.618034
_MAX_CLASSES = 256  # limit of an index PNG


def class_colors(names: tuple[str, ...]) -> tuple[tuple[int, int, int], ...]:
    """Choose a colour for each class; black for the class `other`, which an overlay does not show."""
    colors, hue = [], 0.0
    for name in names:
        if name == "other":
            colors.append((0, 0, 0))
            continue
        colors.append(tuple(round(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.75, 0.95)))
        hue = (hue + _GOLDEN) % 1
    return tuple(colors)


def overlay(image: np.ndarray, labels: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Tint a picture [H, W, 3] uint8 by classes [H, W]; pixels of black classes are unchanged."""
    tint = colors[labels]
    mixed = (image.astype(np.uint16) + tint) // 2
    return np.where(tint.any(2, keepdims=True), mixed, image).astype(np.uint8)


def index_png(labels: np.ndarray, colors: np.ndarray) -> bytes:
    """Encode classes [H, W] uint8 and their colours [K, 3] as a PNG with a palette."""
    from PIL import Image

    if len(colors) > _MAX_CLASSES:
        raise ResourceError(f"{len(colors)} classes: an index PNG has {_MAX_CLASSES}")
    image = Image.fromarray(labels).convert("P")
    image.putpalette(colors.flatten().tolist())
    file = io.BytesIO()
    image.save(file, "PNG", optimize=False)
    return file.getvalue()


def labels_and_colors(segmentation: Segmentation) -> tuple[np.ndarray, np.ndarray]:
    """Return the class of each pixel [H, W] uint8, and the colour of each class [K, 3] uint8."""
    labels = segmentation.scores.argmax(0).to(torch.uint8).cpu().numpy()
    return labels, np.array(segmentation.colors or class_colors(segmentation.names), dtype=np.uint8)
