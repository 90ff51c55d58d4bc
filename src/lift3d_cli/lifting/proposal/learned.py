"""Learned Stage I: a 3-D network adds to training-free logits, from fixed cues at each voxel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.geometry.epipolar import EpipolarLines
from lift3d_cli.lifting.proposal.network import NUM_CUES, NUM_PLAIN_CUES, DepthRegularizer
from lift3d_cli.lifting.proposal.protocol import DepthDistribution
from lift3d_cli.lifting.proposal.sweep import Frustum, VoxelViews, disparity, plane_sweep, smooth_volume, sweep_size
from lift3d_cli.lifting.proposal.training_free import PlaneSweepProposal, angle_weighted_mean
from lift3d_cli.lifting.sources import NO_VIEW, SourceViews
from lift3d_cli.lifting.surfaces import SurfaceEvidence

SURFACE_VOXELS, SURFACE_VOXELS_PER_PLANE, SURFACE_PLANES = 240, 1.6, 96
"""`LearnedProposal`'s `max_voxels`, `voxels_per_plane` and `num_planes` for the photos' own surfaces, found once.

They are refined: with finer planes, 1.25 and 128, in a third more time on wide baselines, nine scenes have 0.04 dB less
and 0.0004 SSIM more. Targets gain 0.08 dB by finer planes (two photos each of four scenes).
"""
MOST_VIEWS, SURFACE_MOST_VIEWS = 6, 9
"""`LearnedProposal.most_views` for targets and for the photos' own surfaces.

From ten photos at height 160, a target that Stage I finds from the best six has 0.15 dB more, in the mean of seven
scenes, and none less. Surfaces, which the photo itself helps to find, are farther off from six: 0.74 to 0.86 pixels.
"""
# The fewest planes that the network was trained on; and a multiple of its coarsest voxels.
_FEWEST_PLANES, _PLANES_AT_ONCE = 32, 8
# Peak memory of the sweep and the network per voxel, by precision: measured, 72 and 47 floats, and a margin.
_VOXEL_BYTES = {"fp32": 4 * 80, "bf16": 4 * 56}
_MAX_DEVIATION = 6.0
# Of `_best_matches` among the cues: the channels of the best two, and their scale.
_MATCHES, _MATCH_SCALE = slice(4, 6), 0.3
# A view whose surface hides a voxel counts for so much less: the surface may be wrong, and it may be the only view.
_MOST_HIDDEN = 0.95


@dataclass(frozen=True)
class Sweep:
    """The result of Stage I at the voxels of a target's frustum.

    Args:
        frustum: the voxels.
        logits: [*B, D, h, w] logits of the surface's depth.
        latent: [*B, L, D, h, w] latent features for Stage II.
        colors: [*B, 3, D, h, w] mean colour of the source views at each voxel.
        matches: see `DepthDistribution`.
    """

    frustum: Frustum
    logits: Tensor
    latent: Tensor
    colors: Tensor
    matches: Tensor | None = None

    @property
    def distribution(self) -> DepthDistribution:
        """The depth distribution: a softmax of the logits."""
        f = self.frustum
        return DepthDistribution(
            torch.softmax(self.logits, -3), f.near, f.far, (1 / f.step,) * 2, self.latent, self.matches
        )


@dataclass(frozen=True)
class LearnedProposal:
    """Stage I: fixed cues at each voxel, the training-free cost as a prior, and a 3-D network that adds to its logits.

    Args:
        regularizer: the 3-D network.
        identity: identifies the weights, for example their sha256.
        num_planes: D, the most planes, see `planes`.
        voxels_per_plane: disparity between neighbouring planes.
        max_voxels: along the longer side of the sweep, at most; the cost grows with the third power.
        most_views: source views that are looked at, the best ones, of those with a valid pixel.
        precision: "fp32" or "bf16", for `settings` and `volume_bytes`; the network knows its own.
        keeps_matches: the distribution gets its `matches`.
        prior: the training-free proposal.
    """

    regularizer: DepthRegularizer
    identity: str
    num_planes: int = 128
    voxels_per_plane: float = 1.0
    max_voxels: int = 160
    most_views: int = MOST_VIEWS
    precision: str = "fp32"
    keeps_matches: bool = False
    prior: PlaneSweepProposal = field(default_factory=PlaneSweepProposal)

    def __call__(
        self, target: Camera, sources: SourceViews, depth_range: tuple[float, float], memory_bytes: int
    ) -> DepthDistribution:
        num_planes = self.planes(target, sources.cameras, depth_range)
        sources = sources.best(self.most_views)
        frustum = Frustum.before(target, depth_range, num_planes, self._step(target))
        lines = EpipolarLines.between(target, sources.cameras, sources.images.device)
        return self.sweep(sources, lines, frustum, memory_bytes).distribution

    def sweep(self, sources: SourceViews, lines: EpipolarLines, frustum: Frustum, memory_bytes: int) -> Sweep:
        """Compute the cues and depth logits of every voxel.

        Args:
            sources: the photos.
            lines: epipolar lines of the target, or of several targets, in their sources.
            frustum: the voxels.
            memory_bytes: rough bound on temporaries.
        """
        shape = *sources.images.shape[:-4], frustum.num_planes, frustum.height, frustum.width
        num_cues = NUM_PLAIN_CUES if sources.surfaces is None else NUM_CUES
        # Channels last, as the network looks at them: there is no other copy of what is most of the memory.
        cues = torch.empty(*shape, num_cues, device=sources.images.device).movedim(-1, -4)
        plane_sweep(sources, lines, frustum, memory_bytes, self.cues, cues[..., 1:, :, :, :])
        # The first channel of `self.cues` is the cost minus 1, to be centred; the last ones are the mean colour.
        cues[..., :1, :, :, :] = smooth = smooth_volume(cues[..., 1:2, :, :, :], self.prior.num_smoothings)
        matches = cues[..., _MATCHES, :, :, :] / (_MATCH_SCALE * _MAX_DEVIATION) if self.keeps_matches else None
        logits, latent = self.regularizer(cues)
        logits = logits - self.prior.sharpness * (smooth[..., 0, :, :, :] + 1)
        return Sweep(frustum, logits, latent, cues[..., -3:, :, :, :], matches)

    def cues(self, views: VoxelViews) -> Tensor:  # [*B, NUM_CUES - 1, R], or NUM_PLAIN_CUES - 1 without surfaces
        """Compute fixed cues of each voxel, whatever the number and order of the source views."""
        weight, mean = angle_weighted_mean(views, self.prior.angle_floor)
        color, contrast = views.deviation(mean)
        cost = self.prior.cost(views, weight, color, contrast)
        angle = torch.where(views.seen, views.angle, NO_VIEW)
        best = _MATCH_SCALE * self._best_matches(views, angle)
        count, nearest = views.seen.sum(-2) / 8, angle.amin(-2).clamp(max=1)
        deviations = (weight * color).sum(-2) * self.prior.color_weight, (weight * contrast).sum(-2)
        scalars = [cost - 1, *deviations, *best.unbind(-2), count, nearest, (weight**2).sum(-2)]
        plain = torch.stack(scalars, -2), mean[..., :3, :]
        if views.evidence is None:
            return torch.cat(plain, -2)
        return torch.cat([*plain, self._surface_cues(views, views.evidence, weight)], -2)

    def _surface_cues(self, views: VoxelViews, evidence: SurfaceEvidence, weight: Tensor) -> Tensor:  # [*B, 11, R]
        """Return what the source views' own surfaces say, and the cost and mean colour of those that it is visible in.

        Where they say nothing, the cost and the colour are those of all views, and all else is 0.
        """
        shares = (evidence.on, evidence.near, evidence.before, evidence.behind, evidence.sure)
        weighted = [(weight * share).sum(-2) for share in shares]
        seen_on, seen_before = views.seen * evidence.on, views.seen * evidence.before
        visible = weight * (1 - _MOST_HIDDEN * evidence.behind)
        visible = visible / visible.sum(-2, keepdim=True).clamp(min=1e-9)
        mean = (visible[..., None, :] * views.appearance).sum(-3)
        cost = self.prior.cost(views, visible, *views.deviation(mean))
        scalars = [*weighted, seen_on.sum(-2) / 4, seen_before.amax(-2), cost - 1]
        return torch.cat([torch.stack(scalars, -2), mean[..., :3, :]], -2)

    def _best_matches(self, views: VoxelViews, angle: Tensor) -> Tensor:  # [*B, 3, R]
        """Return how far the best, second and fourth best other view deviate from the nearest view.

        Views in which the voxel is occluded sort to the end and do not count.
        """
        # Equally near views (copies of one photo) count as one. An argmin and a look-up take several times as long.
        nearest = angle == angle.amin(-2, keepdim=True)
        share = nearest / nearest.sum(-2, keepdim=True)
        color, contrast = views.deviation((share[..., None, :] * views.appearance).sum(-3))
        total = torch.add(contrast, color, alpha=self.prior.color_weight).clamp_(max=_MAX_DEVIATION)
        ordered = _smallest(total.masked_fill_(nearest | ~views.seen, _MAX_DEVIATION), 4)
        return torch.stack([ordered[min(rank, len(ordered) - 1)] for rank in (0, 1, 3)], -2)

    def planes(self, target: Camera, cameras: Sequence[Camera], depth_range: tuple[float, float], step: int = 0) -> int:
        """Return D for a target: a point moves by about `voxels_per_plane` voxels in the photos per plane.

        Coarser planes miss the surface between two of them. Finer ones cost time, are no more exact than the photos,
        and shorten the range of depths that the network's receptive field covers.
        """
        # Of the first ones, whatever is valid in them: before they are read, the memory must be known.
        best = cameras[: self.most_views]
        voxels = disparity(target, best, depth_range) / (step or self._step(target))
        needed = max(_FEWEST_PLANES, math.ceil(voxels / self.voxels_per_plane / _PLANES_AT_ONCE) * _PLANES_AT_ONCE)
        return min(self.num_planes, needed)

    def volume_bytes(self, target: Camera, cameras: Sequence[Camera], depth_range: tuple[float, float]) -> int:
        """See `Proposal`."""
        voxels = self.planes(target, cameras, depth_range) * math.prod(sweep_size(target, self._step(target)))
        return _VOXEL_BYTES[self.precision] * voxels

    def _step(self, target: Camera) -> int:
        return max(self.prior.step, math.ceil(max(target.width, target.height) / self.max_voxels))

    def settings(self) -> Mapping[str, object]:
        """See `Proposal`."""
        return {
            "kind": "learned",
            "weights": self.identity,
            "num_planes": self.num_planes,
            "voxels_per_plane": self.voxels_per_plane,
            "max_voxels": self.max_voxels,
            "most_views": self.most_views,
            "precision": self.precision,
        }


def _smallest(values: Tensor, count: int) -> list[Tensor]:  # [*B, V, R] to [*B, R] each
    """Return the `count` smallest values over V, in order. Sorting the few values of each column takes far longer."""
    found: list[Tensor] = []
    for value in values.unbind(-2):
        for i, other in enumerate(found):
            found[i], value = torch.minimum(other, value), torch.maximum(other, value)
        if len(found) < count:
            found.append(value)
    return found
