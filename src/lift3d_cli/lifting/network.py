"""The learned parts of the renderer: small networks whose every output is a scalar weight or a logit.

Both are residual: with their last layers at zero, as they begin, the renderer is exactly the training-free one.
"""

from __future__ import annotations

import math

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
        self.head = _zeroed(Conv3d(width, 1 + NUM_LATENTS, 3, padding=1))

    def forward(self, cues: Tensor) -> tuple[Tensor, Tensor]:  # [*B, NUM_CUES, D, h, w]
        """Residual depth logits [*B, D, h, w] and latents [*B, NUM_LATENTS, D, h, w]."""
        volume = cues.reshape(-1, *cues.shape[-4:])
        # Channels last: 3-D convolutions on CPU are several times faster so.
        x0 = self.encoder0(volume.contiguous(memory_format=torch.channels_last_3d))
        x1 = self.encoder1(x0)
        x2 = self.encoder2(x1)
        x = self.decoder2(_up_and_join(self.encoder3(x2), x2))
        x = self.decoder1(_up_and_join(x, x1))
        out = self.head(self.decoder0(_up_and_join(x, x0))).reshape(*cues.shape[:-4], -1, *cues.shape[-3:])
        return _DEPTH_GAIN * out[..., 0, :, :, :], out[..., 1:, :, :, :]


class BlendingNetwork(nn.Module):
    """An MLP per source view with pooling over the views (as in IBRNet), and a 1-D convolution along the ray."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.view_encoder = nn.Sequential(nn.Linear(NUM_VIEW_INPUTS, width), _Elu(), nn.Linear(width, width), _Elu())
        self.pool_encoder = nn.Sequential(nn.Linear(2 * width + NUM_LATENTS + 3, width), _Elu())
        self.view_head = nn.Sequential(nn.Linear(2 * width, width), _Elu(), _zeroed(nn.Linear(width, 1)))
        self.ray_head = nn.Sequential(
            nn.Conv1d(width, width, 3, padding=1),
            _Elu(),
            nn.Conv1d(width, width, 3, padding=1),
            _Elu(),
            _zeroed(nn.Conv1d(width, 1, 1)),
        )

    def forward(
        self,
        views: Tensor,  # [*B, V, NUM_VIEW_INPUTS, R, S], finite
        seen: Tensor,  # [*B, V, R, S] bool
        weight: Tensor,  # [*B, V, R, S] pooling weights, sum to 1 or are 0
        samples: Tensor,  # [*B, R, S, NUM_LATENTS + 3]
    ) -> tuple[Tensor, Tensor]:  # [*B, V, R, S], [*B, R, S]
        """Residual logits of each view at each sample, and logits of each sample on its ray.

        What a view says where it does not see the sample counts for nothing.
        """
        x = self.view_encoder(views.flatten(-2).mT).unflatten(-2, seen.shape[-2:])  # [*B, V, R, S, width]
        mean, variance = _pool(x, weight[..., None], seen[..., None])
        pooled = self.pool_encoder(torch.cat([mean, variance, samples], -1))  # [*B, R, S, width]
        # The head's first layer on [x, pooled], without writing `pooled` out once per view.
        first, *rest = self.view_head
        of_view, of_pooled = first.weight.split(x.shape[-1], 1)
        hidden = F.linear(x, of_view).add_(F.linear(pooled, of_pooled, first.bias)[..., None, :, :, :])
        for layer in rest:
            hidden = layer(hidden)
        along = self.ray_head(pooled.flatten(0, -3).mT)[:, 0].reshape(pooled.shape[:-1])
        return _VIEW_GAIN * hidden[..., 0], _RAY_GAIN * along


class Lift3DNetwork(nn.Module):
    """Everything that is learned, in one set of weights: 308,083 parameters.

    Attributes:
        precision: "fp32", or "bf16" after `to_bfloat16`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.precision = "fp32"
        self.pyramid = PhotoPyramid()
        self.regularizer = DepthRegularizer()
        self.blending = BlendingNetwork()
        self.corrector = InconsistencyCorrector()

    def to_bfloat16(self, device: torch.device) -> None:
        """Let what gains by it compute in bfloat16: on a CPU the 3-D U-Net (3 times as fast), but not Stage II."""
        self.precision = "bf16"
        for part in (self.regularizer,) if device.type == "cpu" else (self.regularizer, self.blending):
            compute_in_bfloat16(part, device)


def compute_in_bfloat16(module: nn.Module, device: torch.device) -> None:
    """Let a module compute in bfloat16, with results in float32; what is around it keeps its precision.

    Not all of a frame: half precision would move the epipolar lines by pixels.
    """
    forward = module.forward

    def in_bfloat16(*inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        # Without its cache, which threads that train side by side would share.
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            out = forward(*inputs)
        return tuple(x.float() for x in out) if isinstance(out, tuple) else out.float()

    module.forward = in_bfloat16


class Conv3d(nn.Conv3d):
    """A convolution that on a GPU has channels in whole eights, as its matrix units want them; the rest are zeros."""

    def forward(self, x: Tensor) -> Tensor:
        """See `nn.Conv3d`."""
        return self.in_eights(x) if x.is_cuda else super().forward(x)

    def in_eights(self, x: Tensor) -> Tensor:
        """The same, whatever the device."""
        more_in, more_out = -self.in_channels % 8, -self.out_channels % 8
        if more_in:
            x = F.pad(x, (0,) * 7 + (more_in,)).contiguous(memory_format=torch.channels_last_3d)
        weight = F.pad(self.weight, (0,) * 7 + (more_in, 0, more_out))
        bias = F.pad(self.bias, (0, more_out))
        return F.conv3d(x, weight, bias, self.stride, self.padding)[:, : self.out_channels]


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    # No normalisation layer: its statistics would depend on how large a part of the frame is looked at.
    return nn.Sequential(Conv3d(inputs, outputs, 3, stride, padding=1), nn.LeakyReLU(0.1))


class _Elu(nn.Module):
    """ELU in place. On CPUs torch's own takes twice as long: exp2 is far faster there than expm1."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or torch.is_grad_enabled():
            return F.elu_(x)
        below = torch.mul(x, math.log2(math.e)).clamp_(max=0).exp2_().sub_(1)
        return torch.maximum(x, below, out=x)


def _pool(x: Tensor, weight: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean and plain variance over the views, view by view: nothing of the size of `x` is written."""
    views = x.unbind(-4)
    mean = sum_of = torch.zeros_like(views[0])
    for of_view, share in zip(views, weight.unbind(-4), strict=True):
        mean = torch.addcmul(mean, of_view, share)
    for of_view, is_seen in zip(views, seen.unbind(-4), strict=True):
        deviation = of_view - mean
        sum_of = torch.addcmul(sum_of, deviation * is_seen, deviation)
    return mean, sum_of / seen.sum(-4).clamp(min=1)


def _up_and_join(coarse: Tensor, fine: Tensor) -> Tensor:
    joined = torch.cat([F.interpolate(coarse, size=fine.shape[2:], mode="nearest"), fine], 1)
    return joined.contiguous(memory_format=torch.channels_last_3d)


def _zeroed(layer: nn.Module) -> nn.Module:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
