"""Stage II, weights of the source views at each sample of a ray (method step 4): interface and result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from lift3d_cli.geometry.epipolar import EpipolarLines
from lift3d_cli.lifting.proposal.protocol import DepthDistribution
from lift3d_cli.lifting.sources import SourceViews


@dataclass(frozen=True)
class BlendingWeights:
    """The weights for gathering; the same for colour and for the features of any model.

    Args:
        omega: [*B, V, R, S], not negative; sums to 1 over V and S, or is all 0 where no source view sees the ray.
        uv: [*B, V, R, S, 2] pixels of the source images.
        coverage: [*B, R] in [0, 1]: the share of the ray's samples that some source view sees.
    """

    omega: Tensor
    uv: Tensor
    coverage: Tensor


class Blending(Protocol):
    """The interface of Stage II, implemented by the training-free weights and by a learned network."""

    bytes_per_sample: int
    """Temporary memory per ray, sample and view."""

    def __call__(
        self, sources: SourceViews, lines: EpipolarLines, rays: Tensor, t: Tensor, distribution: DepthDistribution
    ) -> BlendingWeights: ...

    def photo_features(self, images: Tensor) -> Tensor | None:
        """Compute features of photos [V, 3, H, W], each on its own, for `SourceViews.features`; None for none."""

    def with_surface(self, sources: SourceViews, lines: EpipolarLines, distribution: DepthDistribution) -> SourceViews:
        """Add what Stage II needs of the whole surface to the source views, once per target."""

    def settings(self) -> Mapping[str, object]:
        """Return JSON values that differ between blendings with different results."""
