"""A fast renderer, stand-ins of Stage I and II that know the answer, features of noise, and how frames are compared."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lift3d_cli.geometry.grids import FeatureGrid
from lift3d_cli.lifting.blending.protocol import BlendingWeights
from lift3d_cli.lifting.proposal.protocol import DepthDistribution
from lift3d_cli.lifting.proposal.training_free import PlaneSweepProposal
from lift3d_cli.lifting.renderer import RenderedFrame, Renderer
from lift3d_cli.lifting.source_features import SourceFeatures
from lift3d_cli.lifting.sources import SourceViews

FAST = Renderer(PlaneSweepProposal(num_planes=16), num_samples=4)
RANGE = (2.0, 8.0)


@dataclass(frozen=True)
class KnownDepth:
    """A Stage I that knows: all probability on one plane, of so many that its bin is a point."""

    depth: float

    def __call__(self, target, sources, depth_range, memory_bytes) -> DepthDistribution:
        probability = torch.zeros(3, 1, 1)
        probability[1] = 1
        # The middle of three planes between near and far is at their harmonic mean.
        near, far = (1 / (1 / self.depth + step) for step in (1e-6, -1e-6))
        return DepthDistribution(probability, near, far, (1 / target.width, 1 / target.height))


@dataclass(frozen=True)
class OnlyView:
    """A Stage II that trusts one view."""

    index: int
    bytes_per_sample = 1

    def photo_features(self, images) -> None:
        pass

    def with_surface(self, sources, lines, distribution) -> SourceViews:
        return sources

    def __call__(self, sources, lines, rays, t, distribution) -> BlendingWeights:
        uv, _ = lines.project(rays, t)
        omega = torch.zeros(uv.shape[:-1])
        omega[self.index] = 1 / t.shape[1]
        return BlendingWeights(omega, uv, torch.ones(len(rays)))


def psnr(image: torch.Tensor, truth: torch.Tensor) -> float:
    return float(-10 * torch.log10(((image - truth) ** 2).mean()))


def all_finite(frame: RenderedFrame) -> bool:
    return all(torch.isfinite(x).all() for x in (frame.image, frame.depth, frame.coverage, *frame.features.values()))


def features(sources: SourceViews, channels: int = 18) -> dict[str, SourceFeatures]:
    grid = FeatureGrid.from_stride(96, 72, 8)
    maps = [
        torch.randn(channels, 9, 12, generator=torch.Generator().manual_seed(i)) for i in range(len(sources.cameras))
    ]
    return {"m": SourceFeatures(maps, [grid] * len(maps), grid)}


def assert_same(got: RenderedFrame, want: RenderedFrame, atol: float = 1e-4) -> None:
    for name in ("image", "depth", "coverage"):
        torch.testing.assert_close(getattr(got, name), getattr(want, name), atol=atol, rtol=atol)
    for name in want.features:
        torch.testing.assert_close(got.features[name], want.features[name], atol=atol, rtol=atol)
