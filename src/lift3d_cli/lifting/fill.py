"""Fill pixels that no source view sees."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def fill_unseen(
    data: Tensor,  # [C, h, w]
    coverage: Tensor,  # [h, w] in [0, 1]
) -> Tensor:  # [C, h, w]
    """Fill pixels without coverage smoothly from their surroundings; pixels with any coverage keep their value.

    Pull-push: the map is halved, weighted by coverage, until nothing is unseen, and each hole takes the value of
    the finest level that has one (Gortler et al. 1996, The Lumigraph, section 3.4.1).
    """
    seen = coverage > 0
    if bool(seen.all()) or not bool(seen.any()):
        return data
    weight = coverage[None, None].to(data.dtype)
    return _pull_push(data[None] * seen, weight)[0]


def _pull_push(data: Tensor, weight: Tensor) -> Tensor:
    """Fill `data` [1, C, h, w] where `weight` [1, 1, h, w] is 0."""
    if bool((weight > 0).all()) or data.shape[-2:] == (1, 1):
        return data
    # The same window for both, so that its size cancels out in the quotient.
    pool = {"kernel_size": 2, "ceil_mode": True}
    coarse_weight = F.avg_pool2d(weight, **pool)
    coarse = F.avg_pool2d(data * weight, **pool) / coarse_weight.clamp(min=1e-12)
    coarse = _pull_push(coarse, coarse_weight)
    # Blocks of 2, also at an odd border: upsample by 2 and cut.
    height, width = data.shape[-2:]
    up = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)[..., :height, :width]
    return torch.where(weight > 0, data, up)
