"""RGB features of the source photos: a small feature pyramid network, run once per photo (method step 1)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lift3d_cli.lifting.precision import MixedPrecision, in_precision

PYRAMID_STRIDE = 2
"""Photo pixels per cell of the features."""
NUM_PHOTO_FEATURES = 16
# Channels at strides 2, 4, 8 and 16.
_WIDTHS = (12, 24, 32, 48)


class PhotoPyramid(MixedPrecision):
    """A four-level feature pyramid (Lin et al. 2017), of which the finest level is used.

    Every convolution of stride 2 has a kernel of 4, centred on its cell: a point `uv` of the photo is at
    `uv / PYRAMID_STRIDE` in the features.
    """

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(_down(a, b) for a, b in pairwise((3, *_WIDTHS)))
        self.lateral = nn.ModuleList(nn.Conv2d(width, NUM_PHOTO_FEATURES, 1) for width in _WIDTHS)
        self.out = nn.Conv2d(NUM_PHOTO_FEATURES, NUM_PHOTO_FEATURES, 3, padding=1)

    @in_precision
    def forward(self, images: Tensor) -> Tensor:
        """Map photos [V, 3, H, W] in [0, 1] sRGB to features [V, NUM_PHOTO_FEATURES, ceil(H / 2), ceil(W / 2)]."""
        height, width = images.shape[2:]
        deepest = PYRAMID_STRIDE ** len(_WIDTHS)
        x = F.pad(images - 0.5, (0, -width % deepest, 0, -height % deepest), mode="replicate")
        x = x.contiguous(memory_format=torch.channels_last)
        levels = []
        for down in self.down:
            x = down(x)
            levels.append(x)
        out = self.lateral[-1](levels[-1])
        for lateral, level in zip(self.lateral[-2::-1], levels[-2::-1], strict=True):
            out = F.interpolate(out, scale_factor=2, mode="bilinear", align_corners=False) + lateral(level)
        return self.out(out)[:, :, : -(-height // PYRAMID_STRIDE), : -(-width // PYRAMID_STRIDE)]


def _down(inputs: int, outputs: int) -> nn.Sequential:
    """Build a level of half the resolution; all but the first, which has the most pixels, have a second convolution."""
    layers = [nn.Conv2d(inputs, outputs, 4, 2, padding=1), nn.LeakyReLU(0.1)]
    if inputs > 3:
        layers += [nn.Conv2d(outputs, outputs, 3, padding=1), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)
