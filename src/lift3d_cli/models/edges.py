"""Maps that are coarser than a picture, brought to its resolution with their edges where the picture has its own."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.models.base import FeatureMap, Segmentation

# Variance of a colour in [0, 1] below which it is no edge. Masks of four real scenes were alike from 1e-4 to 1e-2.
_FLAT = 5e-4
# How far `refined` looks, as part of the picture's longer side.
_REACH = 0.03


def at_picture(features: FeatureMap, image: Tensor) -> Tensor:  # [3, H, W] in [0, 1] to [C, H, W]
    """Interpolate a map at a picture's pixels, and move its edges to the picture's, within a cell."""
    values = features.at_pixels(image.shape[2], image.shape[1]).float()
    return guided_filter(values, image, _cell(features))


def class_scores(logits: FeatureMap, image: Tensor) -> Tensor:  # [K, H, W], >= 0, adding up to 1
    """Turn the cells' logits of K classes into the scores of a picture's pixels, as `at_picture` does."""
    scores = logits.at_pixels(image.shape[2], image.shape[1]).float().softmax(0)
    return _normalised(guided_filter(scores, image, _cell(logits)))


def refined(segmentation: Segmentation, image: Tensor) -> Segmentation:
    """Move the edges of masks to those of the picture, wherever one is near."""
    radius = max(2, round(_REACH * max(image.shape[1:])))
    return replace(segmentation, scores=_normalised(guided_filter(segmentation.scores, image, radius)))


def _cell(features: FeatureMap) -> int:
    """Return how many pixels a cell has across."""
    return round(1 / max(features.grid.scale))


def _normalised(scores: Tensor) -> Tensor:
    scores = scores.clamp(min=0)  # a linear function of the colours may leave [0, 1]
    return scores / scores.sum(0)


def guided_filter(values: Tensor, image: Tensor, radius: int) -> Tensor:  # [C, H, W]
    """Make each window of a map a linear function of the picture's colours (He, Sun and Tang 2010).

    Args:
        values: [C, H, W].
        image: [3, H, W] in [0, 1], on the same device.
        radius: a window has 2 radius + 1 pixels across; below 2, nothing is done.
    """
    if radius < 2:
        return values
    image = image.float()
    mean = _box(image, radius)
    covariance = _box((image[:, None] * image).flatten(0, 1), radius).unflatten(0, (3, 3)) - mean[:, None] * mean
    flat = _FLAT * torch.eye(3, device=image.device)[..., None, None]
    inverse = torch.linalg.inv((covariance + flat).permute(2, 3, 0, 1))
    # One channel after the other: all at once would take a dozen times the memory of the result.
    return torch.stack([_follow(channel, image, mean, inverse, radius) for channel in values])


def _follow(channel: Tensor, image: Tensor, mean: Tensor, inverse: Tensor, radius: int) -> Tensor:  # [H, W]
    level = _box(channel[None], radius)
    covariance = _box(image * channel, radius) - mean * level
    slope = torch.einsum("hwij,jhw->ihw", inverse, covariance)
    slope, level = _box(slope, radius), _box(level - (slope * mean).sum(0, keepdim=True), radius)
    return (slope * image).sum(0) + level[0]


def _box(maps: Tensor, radius: int) -> Tensor:
    """Average over windows; beyond the border nothing counts."""
    for size, pad in (((2 * radius + 1, 1), (radius, 0)), ((1, 2 * radius + 1), (0, radius))):
        maps = F.avg_pool2d(maps[None], size, 1, pad, count_include_pad=False)[0]
    return maps
