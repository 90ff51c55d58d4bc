"""Stage II: how much each source view says about each sample of a ray (method step 4), as plain scalar weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lift3d_cli.geometry.epipolar import EpipolarLines, ray_angles
from lift3d_cli.geometry.grids import inside, sample_map
from lift3d_cli.lifting.sources import SourceViews


@dataclass(frozen=True)
class BlendingWeights:
    """What the gather needs; the same for colour and for features of any model.

    Args:
        omega: [V, R, S], not negative; its sum over V and S is the ray's coverage, at most 1.
        uv: [V, R, S, 2] pixels of the source images.
    """

    omega: Tensor
    uv: Tensor

    @property
    def coverage(self) -> Tensor:
        """[R] in [0, 1]: the share of the ray's samples that some source view sees."""
        return self.omega.sum((0, 2))


class Blending(Protocol):
    """The seat of Stage II: the training-free weights below, or a learned network."""

    def __call__(self, sources: SourceViews, lines: EpipolarLines, rays: Tensor, t: Tensor) -> BlendingWeights: ...


@dataclass(frozen=True)
class AngleAgreementBlending:
    """Weights by the angle between the lines of sight, and by agreement with the other views' colour.

    Args:
        angle_floor: radians squared; keeps one view from taking all where it looks just like the target.
        agreement: inverse scale of a colour's mean absolute deviation from the angle-weighted mean.
    """

    angle_floor: float = 1e-4
    agreement: float = 10.0

    def __call__(
        self,
        sources: SourceViews,
        lines: EpipolarLines,
        rays: Tensor,  # [R, 2] target pixels
        t: Tensor,  # [R, S] z-depth
    ) -> BlendingWeights:
        uv, _ = lines.project(rays, t)
        height, width = sources.images.shape[2:]
        seen = inside(uv, width, height) & (sample_map(sources.valid, uv)[:, 0] > 0.99)  # [V, R, S]
        colors = sample_map(sources.images, uv)  # [V, 3, R, S]
        angle = ray_angles(lines, rays, t)
        weight = seen / (angle**2 + self.angle_floor)
        mean = (normalized(weight)[:, None] * colors).sum(0)
        weight = weight * torch.exp(-self.agreement * (colors - mean).abs().mean(1))
        return BlendingWeights(normalized(weight) / t.shape[1], uv)


def normalized(weight: Tensor) -> Tensor:
    """Weights [V, ...] that sum to 1 over the views; all 0 where no view has any."""
    # The smallest real sum is far above 1e-30, a single seen view at the widest angle having 0.1.
    return weight / weight.sum(0).clamp(min=1e-30)
