"""The renderer: colour, depth, coverage and the features of any models at one target camera, in one pass.

The seams, each of which a learned network may take: proposal (Stage I), sampling, blending weights (Stage II), gather.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.geometry.epipolar import EpipolarLines
from lift3d_cli.geometry.grids import FeatureGrid
from lift3d_cli.lifting.aggregation import AngleAgreementBlending, Blending, BlendingWeights
from lift3d_cli.lifting.fill import fill_unseen
from lift3d_cli.lifting.proposal import DepthDistribution, PlaneSweepProposal, Proposal
from lift3d_cli.lifting.sampling import sample_depths
from lift3d_cli.lifting.sources import SourceViews, pad_maps
from lift3d_cli.ops.weighted_gather import WeightedGather


@dataclass(frozen=True)
class SourceFeatures:
    """One model's features of the V source views, and the grid to render.

    Args:
        maps: V maps [C, h_i, w_i]; sizes may differ.
        grids: V grids: where the cells lie in the source's image of `SourceViews`.
        target: grid of the rendered map in the target's image.
    """

    maps: Sequence[Tensor]
    grids: Sequence[FeatureGrid]
    target: FeatureGrid


@dataclass(frozen=True)
class RenderedFrame:
    """One target view.

    Args:
        image: [3, H, W] in [0, 1].
        depth: [H, W] z-depth, the mean in 1/z of the ray's samples by their weight.
        coverage: [H, W] in [0, 1]: share of the ray's samples that a source view sees.
        features: by model name, [C, h, w] on the model's target grid.
    """

    image: Tensor
    depth: Tensor
    coverage: Tensor
    features: Mapping[str, Tensor]


@dataclass(frozen=True)
class Renderer:
    """Two-stage epipolar rendering, training-free unless its parts are replaced.

    Args:
        proposal: Stage I.
        blending: Stage II.
        num_samples: S, importance samples per ray.
        memory_bytes: rough bound on temporaries; rays are rendered in chunks that fit.
    """

    proposal: Proposal = field(default_factory=PlaneSweepProposal)
    blending: Blending = field(default_factory=AngleAgreementBlending)
    num_samples: int = 8
    memory_bytes: int = 2 * 1024**3

    @torch.inference_mode()
    def render(
        self,
        target: Camera,
        sources: SourceViews,
        depth_range: tuple[float, float],
        features: Mapping[str, SourceFeatures] | None = None,
    ) -> RenderedFrame:
        """Render `target` from `sources`, on the device that the sources are on.

        Args:
            target: the camera; its size is the size of the image.
            sources: 1 or more photos.
            depth_range: (near, far) z-depth in the target camera.
            features: by model name.
        """
        distribution = self.proposal(target, sources, depth_range, self.memory_bytes)
        lines = EpipolarLines.between(target, sources.cameras, sources.images.device)
        grid = FeatureGrid(target.width, target.height, (1.0, 1.0))
        pixels = self._lift(sources.images, None, grid, distribution, sources, lines)
        rendered = {}
        for name, model in (features or {}).items():
            maps = pad_maps(model.maps).to(sources.images.device)
            rendered[name] = self._lift(maps, model.grids, model.target, distribution, sources, lines).data
        return RenderedFrame(pixels.data.clamp(0, 1), pixels.depth, pixels.coverage, rendered)

    def settings(self) -> dict[str, object]:
        """JSON values that tell apart two renderers with different results."""
        parts = {"proposal": dict(self.proposal.settings()), "blending": dict(self.blending.settings())}
        return {**parts, "num_samples": self.num_samples}

    def _lift(
        self,
        maps: Tensor,  # [V, C, h, w]
        grids: Sequence[FeatureGrid] | None,  # None: the maps are the images themselves
        target_grid: FeatureGrid,
        distribution: DepthDistribution,
        sources: SourceViews,
        lines: EpipolarLines,
    ) -> _Lifted:
        """Gather maps at the rays through the cells of the target grid, in chunks."""
        rays = target_grid.cell_centers().to(maps.device)
        chunk = self._rays_per_chunk(len(lines.H), maps.shape[1], maps.device)
        gather = WeightedGather(maps)
        values, depths, coverages = [], [], []
        for uv in rays.split(chunk):
            t = sample_depths(distribution, uv, self.num_samples)
            weights = self.blending(sources, lines, uv, t, distribution)
            values.append(gather(_on_maps(weights, grids), weights.omega))
            coverages.append(weights.coverage)
            share = weights.omega.sum(0)  # [R, S], of each sample
            share = torch.where(weights.coverage[:, None] > 0, share, 1 / self.num_samples)
            depths.append(1 / (share / t).sum(1))
        shape = (target_grid.height, target_grid.width)
        coverage = torch.cat(coverages).reshape(shape)
        data = torch.cat(values).T.reshape(-1, *shape)
        return _Lifted(fill_unseen(data, coverage), torch.cat(depths).reshape(shape), coverage)

    def _rays_per_chunk(self, num_views: int, num_channels: int, device: torch.device) -> int:
        # The gather adds positions and weights of four taps; few-channel maps are sampled and held as well.
        per_sample = self.blending.bytes_per_sample + 4 * 16 + 8 * min(num_channels, 16)
        most = self.memory_bytes // (num_views * self.num_samples * per_sample)
        # On CPU smaller chunks are faster, as more of them stays in the processor's cache.
        return max(1, min(most, 512) if device.type == "cpu" else most)


@dataclass(frozen=True)
class _Lifted:
    data: Tensor  # [C, h, w]
    depth: Tensor  # [h, w]
    coverage: Tensor  # [h, w]


def _on_maps(weights: BlendingWeights, grids: Sequence[FeatureGrid] | None) -> Tensor:
    """The samples' pixels in the source images as pixels of the source maps: [V, R, S, 2]."""
    if grids is None:
        return weights.uv
    scale, offset = (
        torch.tensor([getattr(grid, name) for grid in grids], device=weights.uv.device)[:, None, None]
        for name in ("scale", "offset")
    )
    return weights.uv * scale + offset
