"""Learned Stage II: a network adds to the logarithm of the training-free weights, and weighs the samples of a ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.geometry.epipolar import EpipolarLines
from lift3d_cli.geometry.grids import sample_map, sample_volume
from lift3d_cli.lifting.blending.network import BlendingNetwork
from lift3d_cli.lifting.blending.protocol import BlendingWeights
from lift3d_cli.lifting.blending.pyramid import PYRAMID_STRIDE, PhotoPyramid
from lift3d_cli.lifting.blending.training_free import AngleAgreementBlending, SampleViews, normalized
from lift3d_cli.lifting.blending.visibility import depth_buffers, surface_inputs, visibility_inputs
from lift3d_cli.lifting.proposal.protocol import DepthDistribution
from lift3d_cli.lifting.sources import NO_VIEW, SourceViews


@dataclass(frozen=True)
class LearnedBlending:
    """Stage II with a network: a residual on the training-free weights' logarithm, and a learned weight of each sample.

    Args:
        pyramid: computes the photos' features.
        network: computes the residual, and the samples' weights.
        identity: identifies the weights, for example their sha256.
        precision: "fp32" or "bf16", for `settings`; on a CPU, the network stays in float32.
        prior: the training-free weights.
    """

    pyramid: PhotoPyramid
    network: BlendingNetwork
    identity: str
    precision: str = "fp32"
    prior: AngleAgreementBlending = field(default_factory=AngleAgreementBlending)
    bytes_per_sample = 4 * 380  # the widest layer's input, output and their copies

    def __call__(
        self,
        sources: SourceViews,
        lines: EpipolarLines,
        rays: Tensor,  # [*B, R, 2] target pixels
        t: Tensor,  # [*B, R, S] z-depth
        distribution: DepthDistribution,
    ) -> BlendingWeights:
        with torch.no_grad():
            views = self.prior.sample(sources, lines, rays, t)
            inputs = _view_inputs(views)
            position = _position(t, distribution)
            visibility = visibility_inputs(sources.depth_buffers, views.uv, views.z, distribution)
            surfaces = surface_inputs(sources.surfaces, views.uv, views.z, t, distribution)
        features = sample_map(sources.features, views.uv / PYRAMID_STRIDE)
        # The first and last plane are in the middle of their bins, while the volume extends to the bins' ends.
        num_planes = distribution.latent.shape[-3]
        bins = position * ((num_planes - 1) / num_planes)
        latent = sample_volume(distribution.latent, rays, bins, distribution.scale)  # [*B, R, S, L]
        spacing = F.pad(position.diff(dim=-1), (1, 0)) * 20
        count = views.seen.sum(-3) / 8
        samples = torch.cat([latent, *(x[..., None] for x in (spacing, position, count))], -1)
        view_weights, ray_logits = self.network(
            torch.cat([*inputs, features, visibility, surfaces], -3),
            views.seen,
            views.by_angle,
            torch.log(views.weight + 1e-12),  # finite
            samples,
        )
        seen = views.seen.any(-3)  # [*B, R, S]
        ray_weights = torch.softmax(torch.where(seen, ray_logits, -1e4), -1) * seen.any(-1, keepdim=True)
        return BlendingWeights(view_weights * ray_weights[..., None, :, :], views.uv, seen.float().mean(-1))

    def photo_features(self, images: Tensor) -> Tensor:
        """See `Blending`."""
        return self.pyramid(images)

    def with_surface(self, sources: SourceViews, lines: EpipolarLines, distribution: DepthDistribution) -> SourceViews:
        """See `Blending`."""
        return replace(sources, depth_buffers=depth_buffers(sources, lines, distribution))

    def settings(self) -> Mapping[str, object]:
        """See `Blending`."""
        return {"kind": "learned", "weights": self.identity, "precision": self.precision}


def _view_inputs(views: SampleViews) -> list[Tensor]:  # of [*B, V, n, R, S], 16 channels in all
    """Return the network's inputs per sample and view, each scaled to about 1."""
    deviation = views.colors - views.mean
    angle = views.angle.clamp(max=2)
    nearest = torch.where(views.seen, views.angle, NO_VIEW).amin(-3, keepdim=True)
    scalars = [
        deviation.abs().mean(-3) * 4,
        normalized(views.weight),
        angle * 3,
        (views.angle - nearest).clamp(max=2) * 3,
        views.seen.float(),
        (views.seen.sum(-3, keepdim=True) / 8).expand_as(angle),
        views.by_angle,
    ]
    return [views.colors, views.blurred - views.mean, deviation * 2, *(x[..., None, :, :] for x in scalars)]


def _position(t: Tensor, distribution: DepthDistribution) -> Tensor:
    """Map z-depths to [-1, 1], from the nearest to the farthest plane, linearly in 1/z."""
    near, far = distribution.inverse_range()
    return (1 / t - near) / (far - near) * 2 - 1
