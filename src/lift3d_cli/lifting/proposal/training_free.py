"""Training-free Stage I: a plane sweep over the source views' colours, or a uniform distribution."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.geometry.epipolar import EpipolarLines
from lift3d_cli.lifting.proposal.protocol import DepthDistribution
from lift3d_cli.lifting.proposal.sweep import Frustum, VoxelViews, plane_sweep, smooth_volume, sweep_size
from lift3d_cli.lifting.sources import SourceViews

# The costs of a voxel, their smoothed copies and the probability.
_VOXEL_BYTES = 4 * 8


@dataclass(frozen=True)
class PlaneSweepProposal:
    """A plane sweep in the target frustum by photo-consistency, smoothed in the volume; nothing is learned.

    At each voxel the source colours, plain and locally normalised, are compared with their mean; each view's weight
    falls with the angle between its line of sight and the target's. The mean and not the median: with the weights it is
    2 dB better on `fox` (23.6 against 21.4).

    Args:
        num_planes: D.
        step: target pixels per cell of the sweep.
        color_weight: weight of the plain colours' deviation relative to the normalised ones'.
        max_cost: limits the cost of an occluded view.
        unseen_cost: cost where fewer than two views see the voxel: worse than a match, better than a contradiction.
        sharpness: inverse temperature of the softmax over depth.
        num_smoothings: passes of a 3x3x3 box over the volume.
        angle_floor: radians; views closer than this to the target's direction have about equal weight.
    """

    num_planes: int = 64
    step: int = 2
    color_weight: float = 8.0
    max_cost: float = 3.0
    unseen_cost: float = 2.0
    sharpness: float = 8.0
    num_smoothings: int = 3
    angle_floor: float = 0.1

    def __call__(
        self, target: Camera, sources: SourceViews, depth_range: tuple[float, float], memory_bytes: int
    ) -> DepthDistribution:
        def cost(views: VoxelViews) -> Tensor:
            weight, mean = angle_weighted_mean(views, self.angle_floor)
            return self.cost(views, weight, *views.deviation(mean))[None]

        lines = EpipolarLines.between(target, sources.cameras, sources.images.device)
        frustum = Frustum.before(target, depth_range, self.num_planes, self.step)
        shape = 1, self.num_planes, frustum.height, frustum.width
        volume = torch.empty(shape, device=sources.images.device)
        plane_sweep(sources, lines, frustum, memory_bytes, cost, volume)
        volume = smooth_volume(volume, self.num_smoothings)
        probability = torch.softmax(-self.sharpness * volume[0], 0)
        return DepthDistribution(probability, *depth_range, (1 / self.step, 1 / self.step))

    def cost(self, views: VoxelViews, weight: Tensor, color: Tensor, contrast: Tensor) -> Tensor:  # [*B, R]
        """Return each voxel's photo-inconsistency, from weights and deviations of the views, all [*B, V, R]."""
        deviation = torch.add(contrast, color, alpha=self.color_weight)
        cost = (weight * deviation.clamp_(max=self.max_cost)).sum(-2)
        return torch.where(views.seen.sum(-2) >= 2, cost, self.unseen_cost)

    def volume_bytes(self, target: Camera, cameras: Sequence[Camera], depth_range: tuple[float, float]) -> int:
        """See `Proposal`."""
        return _VOXEL_BYTES * self.num_planes * math.prod(sweep_size(target, self.step))

    def settings(self) -> Mapping[str, object]:
        """See `Proposal`."""
        return {"kind": "plane-sweep", **asdict(self)}


@dataclass(frozen=True)
class UniformProposal:
    """No Stage I: a uniform distribution in 1/z, which a single-stage renderer samples.

    Args:
        num_latents: number of latent channels, all zero, that a learned Stage II gets.
    """

    num_latents: int

    def __call__(
        self, target: Camera, sources: SourceViews, depth_range: tuple[float, float], memory_bytes: int
    ) -> DepthDistribution:
        whole = Frustum(1, 1, 2, max(target.width, target.height), *depth_range)
        return uniform_distribution(self.num_latents, whole, sources.images.device)

    def volume_bytes(self, target: Camera, cameras: Sequence[Camera], depth_range: tuple[float, float]) -> int:
        """See `Proposal`."""
        return 0

    def settings(self) -> Mapping[str, object]:
        """See `Proposal`."""
        return {"kind": "uniform"}


def uniform_distribution(num_latents: int, frustum: Frustum, device: torch.device) -> DepthDistribution:
    """Return a uniform distribution between near and far, the same for all pixels; see `UniformProposal`."""
    batch = frustum.near.shape if isinstance(frustum.near, Tensor) else ()
    anywhere = torch.full((*batch, 2, 1, 1), 0.5, device=device)
    latent = torch.zeros(*batch, num_latents, 2, 1, 1, device=device)
    scale = 1 / (frustum.step * max(frustum.width, frustum.height))
    return DepthDistribution(anywhere, frustum.near, frustum.far, (scale, scale), latent)


def angle_weighted_mean(views: VoxelViews, angle_floor: float) -> tuple[Tensor, Tensor]:
    """Return weights [*B, V, R] of the views that see a voxel, and their weighted mean appearance [*B, 6, R].

    The weights fall with the angle to the target's line of sight. They sum to 1, or are all 0 where no view sees the
    voxel.
    """
    weight = views.seen / (views.angle + angle_floor)
    weight = weight / weight.sum(-2, keepdim=True).clamp(min=1e-9)
    return weight, (weight[..., None, :] * views.appearance).sum(-3)
