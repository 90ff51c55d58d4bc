"""How far a rendered pixel can be believed, from what rendering it measures anyway: no truth is needed."""

from __future__ import annotations

import torch
from torch import Tensor

# Where one of them alone takes the confidence to 1/e. Half or twice as much ranks errors about as well; that there are
# both was chosen by what they do on photos, see docs/limits.md.
_DISAGREEMENT = 0.1
_SPREAD = 0.5


def mean_square(images: Tensor) -> Tensor:  # [V, 3, H, W] to [V, 1, H, W]
    """What `confidence` needs of photos beside their colours: blended by the same weights, it tells these' variance."""
    return images.square().mean(1, keepdim=True)


def confidence(
    coverage: Tensor,  # [H, W] in [0, 1]
    color: Tensor,  # [3, H, W]
    square: Tensor,  # [H, W]
    spread: Tensor,  # [H, W]
) -> Tensor:  # [H, W] in [0, 1]
    """Coverage * exp(-disagreement / 0.1 - spread / 0.5).

    The disagreement is the standard deviation of the colours that were blended to a pixel, of all samples and photos by
    their weights, root mean square of red, green and blue: it is high where photos contradict each other, where one
    photo's colours change along the ray, and at edges finer than a pixel.

    Args:
        coverage: the share of a ray's samples that a photo sees.
        color: the blended colour, in [0, 1].
        square: the blended `mean_square`.
        spread: standard deviation of the ray's samples in 1/z, as a part of the range from near to far: how uncertain
            Stage I is of the depth. Samples that lie evenly all along the ray have 0.29.
    """
    disagreement = (square - color.square().mean(0)).clamp(min=0).sqrt()
    return coverage * torch.exp(-disagreement / _DISAGREEMENT - spread / _SPREAD)
