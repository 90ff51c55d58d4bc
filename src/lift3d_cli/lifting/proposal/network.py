"""The network of Stage I: a 3-D U-Net over the sweep's voxels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lift3d_cli.lifting.precision import MixedPrecision, in_precision
from lift3d_cli.ops.conv3d import Conv3d

NUM_CUES = 24
"""Channels per voxel of Stage I's input, see `lifting/proposal/learned.py`."""
NUM_PLAIN_CUES = 13
"""The first ones of them, which say nothing of the photos' surfaces."""
# The plain ones that the last ones are equal to where surfaces say nothing; others between are 0 there.
_ALIKE = (1, 10, 11, 12)
NUM_LATENTS = 8
"""Channels per voxel that Stage I passes to Stage II."""
# Scale of the residual: a last layer moves by about the learning rate per step, and logits have to move by several.
_DEPTH_GAIN = 4.0


class DepthRegularizer(MixedPrecision):
    """A 3-D U-Net over the sweep's voxels that maps cues to depth logits and latents."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.encoder0 = _conv(NUM_CUES, width)
        self.encoder1 = nn.Sequential(_conv(width, 2 * width, 2), _conv(2 * width, 2 * width))
        self.encoder2 = nn.Sequential(_conv(2 * width, 4 * width, 2), _conv(4 * width, 4 * width))
        self.encoder3 = nn.Sequential(_conv(4 * width, 4 * width, 2), _conv(4 * width, 4 * width))
        self.decoder2 = _conv(8 * width, 4 * width)
        self.decoder1 = _conv(6 * width, 2 * width)
        self.decoder0 = _conv(3 * width, width)
        self.head = zeroed(Conv3d(width, 1 + NUM_LATENTS, 3, padding=1))

    @in_precision
    def forward(self, cues: Tensor) -> tuple[Tensor, Tensor]:  # [*B, NUM_CUES or NUM_PLAIN_CUES, D, h, w]
        """Return residual depth logits [*B, D, h, w] and latents [*B, NUM_LATENTS, D, h, w].

        From plain cues alone, they are those of surfaces that say nothing.
        """
        volume = cues.reshape(-1, *cues.shape[-4:])
        # Channels last: 3-D convolutions on CPU are several times faster in this layout.
        dtype = torch.bfloat16 if self.precision == "bf16" else volume.dtype
        volume = volume.to(dtype, memory_format=torch.channels_last_3d)
        of_plain = {"0.weight": self._weight_of_plain()} if volume.shape[1] == NUM_PLAIN_CUES else {}
        x0 = torch.func.functional_call(self.encoder0, of_plain, (volume,))
        x1 = self.encoder1(x0)
        x2 = self.encoder2(x1)
        x = self.decoder2(_up_and_join(self.encoder3(x2), x2))
        x = self.decoder1(_up_and_join(x, x1))
        out = self.head(self.decoder0(_up_and_join(x, x0))).reshape(*cues.shape[:-4], -1, *cues.shape[-3:])
        return _DEPTH_GAIN * out[..., 0, :, :, :], out[..., 1:, :, :, :]

    def _weight_of_plain(self) -> Tensor:
        """Return the first layer's weight for plain cues: of equal ones, the sum."""
        weight = self.encoder0[0].weight
        alike = torch.tensor(_ALIKE, device=weight.device)
        return weight[:, :NUM_PLAIN_CUES].index_add(1, alike, weight[:, -len(alike) :])


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    # No normalisation layer: its statistics would depend on how large a part of the frame is processed.
    return nn.Sequential(Conv3d(inputs, outputs, 3, stride, padding=1), nn.LeakyReLU(0.1, inplace=True))


def _up_and_join(coarse: Tensor, fine: Tensor) -> Tensor:
    joined = torch.cat([F.interpolate(coarse, size=fine.shape[2:], mode="nearest"), fine], 1)
    return joined.contiguous(memory_format=torch.channels_last_3d)


def zeroed(layer: nn.Module) -> nn.Module:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
