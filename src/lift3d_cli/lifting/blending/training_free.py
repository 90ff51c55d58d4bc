"""Training-free Stage II: weights by the angle between the lines of sight, and by agreement of the colours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from lift3d_cli.geometry.epipolar import EpipolarLines, ray_angles
from lift3d_cli.geometry.grids import inside, sample_map
from lift3d_cli.lifting.blending.protocol import BlendingWeights
from lift3d_cli.lifting.proposal.protocol import DepthDistribution
from lift3d_cli.lifting.sources import SourceViews


@dataclass(frozen=True)
class SampleViews:
    """The samples of R rays as seen by the source views, with the training-free weights; *B as in `SourceViews`.

    Args:
        uv: [*B, V, R, S, 2] pixels of the source images.
        z: [*B, V, R, S] z-depth in the source's camera.
        seen: [*B, V, R, S] bool.
        colors: [*B, V, 3, R, S].
        blurred: [*B, V, 3, R, S] mean colour of the surrounding 5x5 pixels.
        angle: [*B, V, R, S] radians, between the lines of sight from the target and from the view.
        by_angle: [*B, V, R, S] weights by angle only; sum to 1 over V, or are 0 where no view sees the sample.
        mean: [*B, 1, 3, R, S] mean colour by these weights.
        weight: [*B, V, R, S] weights by angle and by agreement with that mean, not normalised.
    """

    uv: Tensor
    z: Tensor
    seen: Tensor
    colors: Tensor
    blurred: Tensor
    angle: Tensor
    by_angle: Tensor
    mean: Tensor
    weight: Tensor


@dataclass(frozen=True)
class AngleAgreementBlending:
    """Weights by the angle between the lines of sight, and by agreement with the other views' colours.

    Args:
        angle_floor: radians squared; limits the weight of a view in exactly the target's direction.
        agreement: inverse scale of a colour's mean absolute deviation from the angle-weighted mean.
    """

    angle_floor: float = 1e-4
    agreement: float = 10.0
    bytes_per_sample = 4 * 40  # measured: positions, colours, angles, weights and their copies

    def __call__(
        self,
        sources: SourceViews,
        lines: EpipolarLines,
        rays: Tensor,  # [R, 2] target pixels
        t: Tensor,  # [R, S] z-depth
        distribution: DepthDistribution,
    ) -> BlendingWeights:
        views = self.sample(sources, lines, rays, t)
        # The samples stand for equal probability: the ray's weight is shared equally among the seen ones.
        seen = views.seen.any(-3)
        share = (seen / seen.sum(-1, keepdim=True).clamp(min=1))[..., None, :, :]
        return BlendingWeights(normalized(views.weight) * share, views.uv, seen.float().mean(-1))

    def sample(self, sources: SourceViews, lines: EpipolarLines, rays: Tensor, t: Tensor) -> SampleViews:
        """Sample the photos at z-depths `t` [*B, R, S] of `rays` [*B, R, 2]; a learned Stage II uses it too."""
        uv, z = lines.project(rays, t)
        height, width = sources.images.shape[-2:]
        texels = sample_map(sources.texture, uv)
        seen = inside(uv, width, height) & (texels[..., 3, :, :] > 0.99)
        colors = texels[..., :3, :, :]
        angle = ray_angles(lines, rays, t)
        weight = seen / (angle**2 + self.angle_floor)
        by_angle = normalized(weight)
        mean = (by_angle[..., None, :, :] * colors).sum(-4, keepdim=True)
        weight = weight * torch.exp(-self.agreement * (colors - mean).abs().mean(-3))
        return SampleViews(uv, z, seen, colors, texels[..., 4:, :, :], angle, by_angle, mean, weight)

    def photo_features(self, images: Tensor) -> None:
        """See `Blending`."""

    def with_surface(self, sources: SourceViews, lines: EpipolarLines, distribution: DepthDistribution) -> SourceViews:
        """See `Blending`."""
        return sources

    def settings(self) -> Mapping[str, object]:
        """See `Blending`."""
        return {"kind": "angle-agreement", **asdict(self)}


def normalized(weight: Tensor) -> Tensor:
    """Normalise weights [*B, V, R, S] to sum to 1 over the views; all 0 where no view has any."""
    # The smallest real sum, of a single view at the widest angle, is 0.1, far above 1e-30.
    return weight / weight.sum(-3, keepdim=True).clamp(min=1e-30)
