"""Stage I: where along each target ray the surface is (method step 2): what it gives, and what a proposal is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.lifting.sources import SourceViews


@dataclass(frozen=True)
class DepthDistribution:
    """Probability of the surface's depth on a coarse grid of target rays.

    Args:
        probability: [*B, D, h, w], sums to 1 over D; of B targets at once, or of one, without *B.
        near, far: z-depth of the first and last plane; the D planes lie evenly in 1/z between them. Of B targets, [B].
        scale: (x, y) cells per target pixel; the grid begins at the image's corner.
        latent: [*B, L, D, h, w] what a learned Stage I tells a learned Stage II, or None.
    """

    probability: Tensor
    near: float | Tensor
    far: float | Tensor
    scale: tuple[float, float]
    latent: Tensor | None = None

    @property
    def inverse_step(self) -> float | Tensor:  # [*B]
        """From plane to plane in 1/z."""
        return (1 / self.near - 1 / self.far) / max(self.probability.shape[-3] - 1, 1)

    def inverse_range(self) -> tuple[float | Tensor, float | Tensor]:
        """1/z of the first and of the last plane; of B targets as [B, 1, 1], to go with [B, R, S]."""
        near, far = (x[:, None, None] if isinstance(x, Tensor) else x for x in (self.near, self.far))
        return 1 / near, 1 / far


class Proposal(Protocol):
    """The seat of Stage I: the training-free plane sweep below, or a learned network."""

    def __call__(
        self, target: Camera, sources: SourceViews, depth_range: tuple[float, float], memory_bytes: int
    ) -> DepthDistribution: ...

    def volume_bytes(self, target: Camera, cameras: Sequence[Camera], depth_range: tuple[float, float]) -> int:
        """Memory for what it needs of a target as a whole, however few `memory_bytes` it gets for the rest."""

    def settings(self) -> Mapping[str, object]:
        """JSON values that tell apart two proposals with different results."""
