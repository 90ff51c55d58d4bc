"""The learned parts of the renderer: small networks whose every output is a scalar weight or a logit.

Both are residual: with their last layers at zero, as they begin, the renderer is exactly the training-free one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lift3d_cli.lifting.correction import InconsistencyCorrector
from lift3d_cli.lifting.pyramid import NUM_PHOTO_FEATURES, PhotoPyramid

NUM_CUES = 13
"""Channels per voxel that Stage I looks at, see `lifting/learned.py`."""
NUM_LATENTS = 8
"""Channels per voxel that Stage I hands to Stage II."""
NUM_VIEW_INPUTS = 16 + NUM_PHOTO_FEATURES
"""What Stage II looks at per sample and source view."""
# The residuals' scale: a last layer moves by about the learning rate a step, and logits have to move by several.
_DEPTH_GAIN, _VIEW_GAIN, _RAY_GAIN = 4.0, 3.0, 3.0


class DepthRegularizer(nn.Module):
    """A 3-D U-Net over the sweep's voxels: cues to depth logits and latents."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.encoder0 = _conv(NUM_CUES, width)
        self.encoder1 = nn.Sequential(_conv(width, 2 * width, 2), _conv(2 * width, 2 * width))
        self.encoder2 = nn.Sequential(_conv(2 * width, 4 * width, 2), _conv(4 * width, 4 * width))
        self.encoder3 = nn.Sequential(_conv(4 * width, 4 * width, 2), _conv(4 * width, 4 * width))
        self.decoder2 = _conv(8 * width, 4 * width)
        self.decoder1 = _conv(6 * width, 2 * width)
        self.decoder0 = _conv(3 * width, width)
        self.head = _zeroed(nn.Conv3d(width, 1 + NUM_LATENTS, 3, padding=1))

    def forward(self, cues: Tensor) -> tuple[Tensor, Tensor]:  # [NUM_CUES, D, h, w]
        """Residual depth logits [D, h, w] and latents [NUM_LATENTS, D, h, w]."""
        # Channels last: 3-D convolutions on CPU are several times faster so.
        x0 = self.encoder0(cues[None].contiguous(memory_format=torch.channels_last_3d))
        x1 = self.encoder1(x0)
        x2 = self.encoder2(x1)
        x = self.decoder2(_up_and_join(self.encoder3(x2), x2))
        x = self.decoder1(_up_and_join(x, x1))
        out = self.head(self.decoder0(_up_and_join(x, x0)))[0]
        return _DEPTH_GAIN * out[0], out[1:]


class BlendingNetwork(nn.Module):
    """An MLP per source view with pooling over the views (as in IBRNet), and a 1-D convolution along the ray."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.view_encoder = nn.Sequential(
            nn.Linear(NUM_VIEW_INPUTS, width), nn.ELU(), nn.Linear(width, width), nn.ELU()
        )
        self.pool_encoder = nn.Sequential(nn.Linear(2 * width + NUM_LATENTS + 3, width), nn.ELU())
        self.view_head = nn.Sequential(nn.Linear(2 * width, width), nn.ELU(), _zeroed(nn.Linear(width, 1)))
        self.ray_head = nn.Sequential(
            nn.Conv1d(width, width, 3, padding=1),
            nn.ELU(),
            nn.Conv1d(width, width, 3, padding=1),
            nn.ELU(),
            _zeroed(nn.Conv1d(width, 1, 1)),
        )

    def forward(
        self,
        views: Tensor,  # [V, R, S, NUM_VIEW_INPUTS], 0 where unseen
        seen: Tensor,  # [V, R, S] bool
        weight: Tensor,  # [V, R, S] pooling weights, sum to 1 or are 0
        samples: Tensor,  # [R, S, NUM_LATENTS + 3]
    ) -> tuple[Tensor, Tensor]:  # [V, R, S], [R, S]
        """Residual logits of each view at each sample, and logits of each sample on its ray."""
        x = self.view_encoder(views)
        count = seen.sum(0).clamp(min=1)[..., None]
        mean = (x * weight[..., None]).sum(0)
        variance = ((x - mean) ** 2 * seen[..., None]).sum(0) / count
        pooled = self.pool_encoder(torch.cat([mean, variance, samples], -1))  # [R, S, width]
        joined = torch.cat([x, pooled.expand_as(x)], -1)
        view_logits = _VIEW_GAIN * self.view_head(joined)[..., 0]
        return view_logits, _RAY_GAIN * self.ray_head(pooled.transpose(1, 2))[:, 0]


class Lift3DNetwork(nn.Module):
    """Everything that is learned, in one set of weights: 308,083 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.pyramid = PhotoPyramid()
        self.regularizer = DepthRegularizer()
        self.blending = BlendingNetwork()
        self.corrector = InconsistencyCorrector()


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    # No normalisation layer: its statistics would depend on how large a part of the frame is looked at.
    return nn.Sequential(nn.Conv3d(inputs, outputs, 3, stride, padding=1), nn.LeakyReLU(0.1))


def _up_and_join(coarse: Tensor, fine: Tensor) -> Tensor:
    return torch.cat([F.interpolate(coarse, size=fine.shape[2:], mode="nearest"), fine], 1)


def _zeroed(layer: nn.Module) -> nn.Module:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
