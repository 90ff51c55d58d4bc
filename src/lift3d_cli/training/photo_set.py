"""Photos as training data for our own 2D models: the held-out split, and random crops."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from lift3d_cli.errors import SceneError
from lift3d_cli.geometry.grids import sample_map


def split_photos(folder: Path) -> tuple[list[Path], list[Path]]:
    """Split a folder's photos into training and held-out ones: those below a folder `val`, or every fifth."""
    photos = sorted(p for p in folder.rglob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png"})
    held_out = [p for p in photos if "val" in p.relative_to(folder).parts[:-1]] or photos[::5]
    return sorted(set(photos) - set(held_out)), held_out


def read_image(path: Path) -> np.ndarray:
    """Read an image file as sRGB uint8 [H, W, 3].

    Raises:
        SceneError: if it is not a readable image.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise SceneError(f"{path} is not a readable image")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


@dataclass(frozen=True)
class PhotoSet:
    """Photos for training and for scoring, each sRGB uint8 [H, W, 3].

    Args:
        learned: photos to train on.
        held_out: photos to score on.
        about: describes and counts them, for the manifest.
    """

    learned: Sequence[np.ndarray]
    held_out: Sequence[np.ndarray]
    about: str

    @classmethod
    def read(cls, folder: Path, dataset: str) -> PhotoSet:
        """Read all photos of a folder, split by `split_photos`.

        Raises:
            SceneError: if one cannot be read, or there is none to learn from.
        """
        learned, held_out = ([read_image(path) for path in paths] for paths in split_photos(folder))
        if not learned:
            raise SceneError(f"{folder}: has no photos to learn from. hint: --photos FOLDER of .jpg or .png files")
        return cls(learned, held_out, f"{dataset} ({len(learned)} photos; {len(held_out)})")


def to_tensor(photo: np.ndarray) -> Tensor:
    """Convert a photo, uint8 [H, W, 3], to [3, H, W] in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(photo.transpose(2, 0, 1))).float() / 255


def random_crop(photo: np.ndarray, size_px: int, rng: random.Random) -> np.ndarray:
    """Cut a random rectangle from a photo, at 0.6 to 1.4 times its scale, perhaps mirrored: [size_px, size_px, 3]."""
    height, width = photo.shape[:2]
    stretch = math.exp(rng.uniform(-0.1, 0.1))
    side = size_px / math.exp(rng.uniform(math.log(0.6), math.log(1.4)))
    side = min(side, height / stretch, width * stretch)
    crop_h, crop_w = max(1, int(side * stretch)), max(1, int(side / stretch))
    top, left = rng.randint(0, height - crop_h), rng.randint(0, width - crop_w)
    crop = photo[top : top + crop_h, left : left + crop_w]
    crop = cv2.resize(crop, (size_px, size_px), interpolation=cv2.INTER_AREA if crop_w > size_px else cv2.INTER_LINEAR)
    return crop[:, ::-1] if rng.random() < 0.5 else crop


def crops(photos: Sequence[np.ndarray], number: int, size_px: int, rng: random.Random) -> Tensor:
    """Cut random squares from random photos, mirrored and turned at random: [number, 3, size_px, size_px] in [0, 1]."""
    squares = []
    for photo in rng.choices(photos, k=number):
        top, left = (rng.randint(0, side - size_px) for side in photo.shape[:2])
        square = np.rot90(photo[top : top + size_px, left : left + size_px], rng.randrange(4))
        squares.append(np.ascontiguousarray(square[:, :: rng.choice((-1, 1))].transpose(2, 0, 1)))
    return torch.from_numpy(np.stack(squares)).float() / 255


def moved(features: Tensor, shift: tuple[float, float]) -> Tensor:
    """Sample features [B, C, h, w] `shift` cells (x, y) further right and down, between the cells as lifting does."""
    _, _, height, width = features.shape
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    uv = torch.stack([u + shift[0], v + shift[1]], -1)
    return sample_map(features, uv.expand(len(features), height, width, 2))
