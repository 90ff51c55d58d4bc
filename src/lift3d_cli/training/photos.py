"""Plain photos as training data: which are held out, and random crops of the others."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np

from lift3d_cli.errors import SceneError


def split_photos(folder: Path) -> tuple[list[Path], list[Path]]:
    """The photos to train on and the held-out ones: those below a folder `val`, or else every fifth; sorted by path."""
    photos = sorted(p for p in folder.rglob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png"})
    held_out = [p for p in photos if "val" in p.relative_to(folder).parts[:-1]] or photos[::5]
    return sorted(set(photos) - set(held_out)), held_out


def read_photo(path: Path) -> np.ndarray:
    """A photo as sRGB uint8 [H, W, 3].

    Raises:
        SceneError: if it is not a readable image.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise SceneError(f"{path} is not a readable image")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def random_crop(photo: np.ndarray, size_px: int, rng: np.random.Generator) -> np.ndarray:
    """A random rectangle of the photo, of 0.6 to 1.4 times its scale, perhaps mirrored: [size_px, size_px, 3]."""
    height, width = photo.shape[:2]
    stretch = math.exp(rng.uniform(-0.1, 0.1))
    side = size_px / math.exp(rng.uniform(math.log(0.6), math.log(1.4)))
    side = min(side, height / stretch, width * stretch)
    crop_h, crop_w = max(1, int(side * stretch)), max(1, int(side / stretch))
    top, left = rng.integers(height - crop_h + 1), rng.integers(width - crop_w + 1)
    crop = photo[top : top + crop_h, left : left + crop_w]
    crop = cv2.resize(crop, (size_px, size_px), interpolation=cv2.INTER_AREA if crop_w > size_px else cv2.INTER_LINEAR)
    return crop[:, ::-1] if rng.random() < 0.5 else crop
