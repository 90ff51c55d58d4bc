"""The network of Stage II: an MLP per source view with pooling over the views, and a convolution along the ray."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lift3d_cli.lifting.blending.pyramid import NUM_PHOTO_FEATURES
from lift3d_cli.lifting.blending.visibility import NUM_SURFACE_INPUTS, NUM_VISIBILITY_INPUTS
from lift3d_cli.lifting.precision import MixedPrecision, in_precision
from lift3d_cli.lifting.proposal.network import NUM_LATENTS, zeroed

NUM_VIEW_INPUTS = 16 + NUM_PHOTO_FEATURES + NUM_VISIBILITY_INPUTS + NUM_SURFACE_INPUTS
"""Channels of Stage II's input per sample and source view."""
# Scale of the residuals, as in Stage I.
_VIEW_GAIN, _RAY_GAIN = 3.0, 3.0


class BlendingNetwork(MixedPrecision):
    """An MLP per source view with pooling over the views (as in IBRNet), and a 1-D convolution along the ray."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.view_encoder = nn.Sequential(nn.Linear(NUM_VIEW_INPUTS, width), _Elu(), nn.Linear(width, width), _Elu())
        self.pool_encoder = nn.Sequential(nn.Linear(2 * width + NUM_LATENTS + 3, width), _Elu())
        self.view_head = nn.Sequential(nn.Linear(2 * width, width), _Elu(), zeroed(nn.Linear(width, 1)))
        self.agreeing_encoder = zeroed(nn.Linear(2 * width, width))
        self.ray_head = nn.Sequential(
            nn.Conv1d(width, width, 3, padding=1),
            _Elu(),
            nn.Conv1d(width, width, 3, padding=1),
            _Elu(),
            zeroed(nn.Conv1d(width, 1, 1)),
        )

    @in_precision
    def forward(
        self,
        views: Tensor,  # [*B, V, NUM_VIEW_INPUTS, R, S], finite
        seen: Tensor,  # [*B, V, R, S] bool
        weight: Tensor,  # [*B, V, R, S] pooling weights, sum to 1 or are 0
        prior: Tensor,  # [*B, V, R, S] logarithm of the training-free weights, finite
        samples: Tensor,  # [*B, R, S, NUM_LATENTS + 3]
    ) -> tuple[Tensor, Tensor]:  # [*B, V, R, S], [*B, R, S]
        """Return each view's weight at each sample (sum to 1 over V, or 0), and each sample's logit on its ray.

        A view that does not see a sample does not count. A sample's logit depends on all views that see it, and once
        more
        on those that it is blended from: views in which it is occluded would describe another surface.
        """
        x = self.view_encoder(views.flatten(-2).mT).unflatten(-2, seen.shape[-2:])  # [*B, V, R, S, width]
        mean, variance = _pool(x, weight[..., None], seen[..., None])
        pooled = self.pool_encoder(torch.cat([mean, variance, samples], -1))  # [*B, R, S, width]
        # The head's first layer on [x, pooled], without a copy of `pooled` per view.
        first, *rest = self.view_head
        of_view, of_pooled = first.weight.split(x.shape[-1], 1)
        hidden = F.linear(x, of_view).add_(F.linear(pooled, of_pooled, first.bias)[..., None, :, :, :])
        for layer in rest:
            hidden = layer(hidden)
        # -1e9 is finite; views that do not see the sample get a weight of exactly 0.
        logits = torch.where(seen, prior + _VIEW_GAIN * hidden[..., 0], -1e9)
        view_weights = torch.softmax(logits, -3) * seen.any(-3)[..., None, :, :]
        of_agreeing = torch.cat(_pool(x, view_weights[..., None], view_weights[..., None]), -1)
        pooled = pooled + self.agreeing_encoder(of_agreeing)
        along = self.ray_head(pooled.flatten(0, -3).mT)[:, 0].reshape(pooled.shape[:-1])
        return view_weights, _RAY_GAIN * along


class _Elu(nn.Module):
    """ELU in place. On CPUs torch's own takes twice as long: exp2 is far faster there than expm1."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or torch.is_grad_enabled():
            return F.elu_(x)
        below = torch.mul(x, math.log2(math.e)).clamp_(max=0).exp2_().sub_(1)
        return torch.maximum(x, below, out=x)


def _pool(x: Tensor, weight: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean by `weight` and variance by `counts` over the views; view by view, without a copy of `x`."""
    views = x.unbind(-4)
    mean = sum_of = torch.zeros_like(views[0])
    for of_view, share in zip(views, weight.unbind(-4), strict=True):
        mean = torch.addcmul(mean, of_view, share)
    for of_view, share in zip(views, counts.unbind(-4), strict=True):
        deviation = of_view - mean
        sum_of = torch.addcmul(sum_of, deviation * share, deviation)
    return mean, sum_of / counts.sum(-4).clamp(min=1)
