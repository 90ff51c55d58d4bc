"""Stage I, where the surface is along each target ray (method step 2): interface and result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.lifting.sources import SourceViews


@dataclass(frozen=True)
class DepthDistribution:
    """Probability of the surface's depth, on a coarse grid of target rays.

    Args:
        probability: [*B, D, h, w], sums to 1 over D; *B is [B] for B targets at once, and empty for one.
        near, far: z-depth of the first and last plane; the D planes lie evenly in 1/z between them. [B] for B targets.
        scale: (x, y) cells per target pixel; the grid begins at the image's corner.
        latent: [*B, L, D, h, w] latent features from a learned Stage I for a learned Stage II, or None.
        matches: [*B, NUM_MATCHES, D, h, w] in [0, 1], how far those views deviate from the nearest one that agree best
            with it, for `lifting.propagation`, or None.
    """

    probability: Tensor
    near: float | Tensor
    far: float | Tensor
    scale: tuple[float, float]
    latent: Tensor | None = None
    matches: Tensor | None = None

    @property
    def inverse_step(self) -> float | Tensor:  # [*B]
        """From plane to plane in 1/z."""
        return (1 / self.near - 1 / self.far) / max(self.probability.shape[-3] - 1, 1)

    def inverse_range(self) -> tuple[float | Tensor, float | Tensor]:
        """Return 1/z of the first and last plane; for B targets as [B, 1, 1], to broadcast with [B, R, S]."""
        near, far = (x[:, None, None] if isinstance(x, Tensor) else x for x in (self.near, self.far))
        return 1 / near, 1 / far


class Proposal(Protocol):
    """The interface of Stage I, implemented by the training-free plane sweep and by a learned network."""

    def __call__(
        self, target: Camera, sources: SourceViews, depth_range: tuple[float, float], memory_bytes: int
    ) -> DepthDistribution: ...

    def volume_bytes(self, target: Camera, cameras: Sequence[Camera], depth_range: tuple[float, float]) -> int:
        """Return the bytes needed for a target as a whole, on top of the `memory_bytes` for temporaries."""

    def settings(self) -> Mapping[str, object]:
        """Return JSON values that differ between proposals with different results."""
