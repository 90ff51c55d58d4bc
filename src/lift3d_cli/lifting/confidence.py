"""Confidence of rendered pixels, from what rendering computes anyway: no ground truth is needed."""

from __future__ import annotations

import torch
from torch import Tensor

# Each one alone lowers the confidence to 1/e at this value. Half or twice as much ranks errors about as well; that both
# are used was decided by measuring on photos, see docs/limits.md.
_DISAGREEMENT = 0.1
_SPREAD = 0.5


def mean_square(images: Tensor) -> Tensor:  # [V, 3, H, W] to [V, 1, H, W]
    """Return the photos' mean squared colour; blended by the weights of the colours, it gives their variance."""
    return images.square().mean(1, keepdim=True)


def confidence(
    coverage: Tensor,  # [H, W] in [0, 1]
    color: Tensor,  # [3, H, W]
    square: Tensor,  # [H, W]
    spread: Tensor,  # [H, W]
) -> Tensor:  # [H, W] in [0, 1]
    """Return coverage * exp(-disagreement / 0.1 - spread / 0.5).

    The disagreement is the standard deviation of the colours blended to a pixel, over all samples and photos by their
    weights, as the root mean square over red, green and blue. It is high where photos contradict each other, where one
    photo's colours change along the ray, and at edges finer than a pixel.

    Args:
        coverage: share of a ray's samples that some source view sees.
        color: the blended colour, in [0, 1].
        square: the blended `mean_square`.
        spread: standard deviation of the ray's samples in 1/z, as a share of the range from near to far: how uncertain
                Stage I is about the depth. Samples spread evenly along the whole ray have 0.29.
    """
    disagreement = (square - color.square().mean(0)).clamp(min=0).sqrt()
    return coverage * torch.exp(-disagreement / _DISAGREEMENT - spread / _SPREAD)
