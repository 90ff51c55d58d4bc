"""The renderer: colour, depth, coverage, confidence and the features of any models at one target camera, in one pass.

The seams, each of which a learned network may take: proposal (Stage I), sampling, blending weights (Stage II), gather.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial

import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.geometry.epipolar import EpipolarLines
from lift3d_cli.geometry.grids import FeatureGrid
from lift3d_cli.lifting.blending.protocol import Blending, BlendingWeights
from lift3d_cli.lifting.blending.training_free import AngleAgreementBlending
from lift3d_cli.lifting.confidence import confidence, mean_square
from lift3d_cli.lifting.correction.corrector import BYTES_PER_RAY, Corrector
from lift3d_cli.lifting.correction.evidence import Blend, SourceCells, on_maps, sketch_maps
from lift3d_cli.lifting.fill import fill_unseen
from lift3d_cli.lifting.proposal.protocol import DepthDistribution, Proposal
from lift3d_cli.lifting.proposal.sampling import sample_depths
from lift3d_cli.lifting.proposal.training_free import PlaneSweepProposal
from lift3d_cli.lifting.source_features import SourceFeatures
from lift3d_cli.lifting.sources import SourceViews, pad_maps
from lift3d_cli.machine.parallel import mapped, num_workers
from lift3d_cli.ops.weighted_gather import WeightedGather


@dataclass(frozen=True)
class RenderedFrame:
    """One target view.

    Args:
        image: [3, H, W] in [0, 1].
        depth: [H, W] z-depth, the mean in 1/z of the ray's samples by their weight.
        coverage: [H, W] in [0, 1]: share of the ray's samples that a source view sees.
        confidence: [H, W] in [0, 1], see `lifting.confidence`.
        features: by model name, [C, h, w] on the model's target grid.
    """

    image: Tensor
    depth: Tensor
    coverage: Tensor
    confidence: Tensor
    features: Mapping[str, Tensor]


@dataclass(frozen=True)
class Renderer:
    """Two-stage epipolar rendering, training-free unless its parts are replaced.

    Args:
        proposal: Stage I.
        blending: Stage II.
        num_samples: S, importance samples per ray.
        memory_bytes: rough bound on temporaries; rays are rendered in chunks that fit.
        corrector: of features, where their `SourceFeatures` do not say otherwise, or None.
    """

    proposal: Proposal = field(default_factory=PlaneSweepProposal)
    blending: Blending = field(default_factory=AngleAgreementBlending)
    num_samples: int = 8
    memory_bytes: int = 2 * 1024**3
    corrector: Corrector | None = None

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
        frame, features = self._find(target, sources, depth_range), features or {}
        grid = FeatureGrid(target.width, target.height, (1.0, 1.0))
        of_pixels = self._looks(frame, grid, [m for m in features.values() if m.target == grid])
        # A corrector needs the whole picture first: the weights of a model with a cell a pixel are kept, if they fit.
        is_kept = any(model.target == grid for model in features.values()) and self._is_small(sources, grid)
        if is_kept:
            of_pixels = [cache(look) for look in of_pixels]
        layer = _Layer(WeightedGather(torch.cat([sources.images, mean_square(sources.images)], 1)))
        pixels = self._lift(frame, [layer], grid, of_pixels)
        color, square = pixels.data[0].split((3, 1))
        image = color.clamp(0, 1)
        spread = pixels.spread / (1 / depth_range[0] - 1 / depth_range[1])
        believed = confidence(pixels.coverage, color, square[0], spread)
        rendered = self._features(frame, features, image, {grid: of_pixels} if is_kept else {})
        return RenderedFrame(image, pixels.depth, pixels.coverage, believed, rendered)

    @torch.inference_mode()
    def render_features(
        self,
        target: Camera,
        sources: SourceViews,
        depth_range: tuple[float, float],
        features: Mapping[str, SourceFeatures],
        image: Tensor,
    ) -> dict[str, Tensor]:
        """The features of `render` alone, of a target whose colour `image` [3, H, W] is there already."""
        return self._features(self._find(target, sources, depth_range), features, image, {})

    def settings(self) -> dict[str, object]:
        """JSON values that tell apart two renderers with different results."""
        parts = {"proposal": dict(self.proposal.settings()), "blending": dict(self.blending.settings())}
        return {**parts, "num_samples": self.num_samples}

    def _find(self, target: Camera, sources: SourceViews, depth_range: tuple[float, float]) -> _Frame:
        """Stage I."""
        if sources.features is None:
            sources = replace(sources, features=self.blending.photo_features(sources.images))
        distribution = self.proposal(target, sources, depth_range, self.memory_bytes)
        lines = EpipolarLines.between(target, sources.cameras, sources.images.device)
        sources = self.blending.with_surface(sources, lines, distribution)
        sources.texture  # noqa: B018, made here, so that not each of the threads makes them
        return _Frame(sources, distribution, lines)

    def _features(
        self,
        frame: _Frame,
        features: Mapping[str, SourceFeatures],
        image: Tensor,
        looks: Mapping[FeatureGrid, Sequence[Callable[[], _Look]]],
    ) -> dict[str, Tensor]:
        """Every model's features; `looks` of the grids that there are some of."""
        # As it is written to a file, so that features are the same when they are made later.
        image = (image * 255).round() / 255
        rendered: dict[str, Tensor] = {}
        # Models of one grid share its rays' weights, which do not depend on the model.
        for grid in {model.target: None for model in features.values()}:
            models = {name: model for name, model in features.items() if model.target == grid}
            of_grid = looks[grid] if grid in looks else self._looks(frame, grid, list(models.values()))
            if any(model.channels_at_once for model in models.values()) and self._is_small(frame.sources, grid):
                of_grid = [cache(look) for look in of_grid]
            whole = {name: model for name, model in models.items() if not model.channels_at_once}
            if whole:
                lifted = self._lift(frame, [_layer(model, image) for model in whole.values()], grid, of_grid)
                rendered |= zip(whole, lifted.data, strict=True)
            rendered |= {n: self._in_blocks(frame, m, image, of_grid) for n, m in models.items() if n not in whole}
        return {name: rendered[name] for name in features}

    def _in_blocks(
        self, frame: _Frame, model: SourceFeatures, image: Tensor, looks: Sequence[Callable[[], _Look]]
    ) -> Tensor:  # [C, h, w]
        """One model's features, some channels after the other; what is the same for all is told by all."""
        channels, sketches = model.maps[0].shape[0], None
        if model.corrector is not None:
            sketches = sketch_maps((model.read(block, image.device) for block in model.blocks()), channels)
        out = image.new_empty(channels, model.target.height, model.target.width)
        for block in model.blocks():
            out[block] = self._lift(frame, [_layer(model, image, block, sketches)], model.target, looks).data[0]
        return out

    def _looks(
        self, frame: _Frame, grid: FeatureGrid, models: Sequence[SourceFeatures]
    ) -> Sequence[Callable[[], _Look]]:
        """What makes Stage II's weights of the rays through a grid's cells, in chunks that fit what `models` need."""
        rays = grid.cell_centers().to(frame.sources.images.device)
        parts = torch.arange(len(rays), device=rays.device).split(self._rays_per_chunk(frame.sources, models))
        return [partial(self._look, frame, part, rays[part]) for part in parts]

    def _look(self, frame: _Frame, part: Tensor, rays: Tensor) -> _Look:
        t = sample_depths(frame.distribution, rays, self.num_samples)
        return _Look(part, rays, t, self.blending(frame.sources, frame.lines, rays, t, frame.distribution))

    def _lift(
        self,
        frame: _Frame,
        layers: Sequence[_Layer],
        target_grid: FeatureGrid,
        looks: Sequence[Callable[[], _Look]],
    ) -> _Lifted:
        """Gather maps at the rays through the cells of the target grid."""

        def lift(make: Callable[[], _Look]) -> list[Tensor]:
            look = make()
            share = look.weights.omega.sum(0)  # [R, S], of each sample
            share = torch.where(look.weights.coverage[:, None] > 0, share, 1 / self.num_samples)
            depth, spread = 1 / (share / look.t).sum(1), (1 / look.t).std(1, correction=0)
            return [depth, look.weights.coverage, spread, *(_gathered(frame, layer, look) for layer in layers)]

        parts = zip(*mapped(lift, looks, frame.sources.images.device), strict=True)
        shape = (target_grid.height, target_grid.width)
        depth, coverage, spread = (torch.cat(next(parts)).reshape(shape) for _ in range(3))
        data = [fill_unseen(torch.cat(values).T.reshape(-1, *shape), coverage) for values in parts]
        return _Lifted(data, depth, coverage, spread)

    def _is_small(self, sources: SourceViews, grid: FeatureGrid) -> bool:
        """True if the weights of all rays of a grid take no more than a quarter of the memory: (u, v, omega) each."""
        return 4 * 12 * len(sources.images) * self.num_samples * grid.width * grid.height <= self.memory_bytes

    def _rays_per_chunk(self, sources: SourceViews, models: Sequence[SourceFeatures]) -> int:
        num_views, device = len(sources.images), sources.images.device
        per_sample = self.blending.bytes_per_sample + 4 * 16  # the gather adds positions and weights of four taps
        is_corrected = any(model.corrector is not None for model in models)
        per_view = self.num_samples * per_sample + is_corrected * BYTES_PER_RAY
        most = self.memory_bytes // (num_views * per_view * num_workers(device))
        # On CPU smaller chunks are faster, as more of them stays in the processor's cache.
        return max(1, min(most, 512) if device.type == "cpu" else most)


@dataclass(frozen=True)
class _Look:
    """Some rays, their samples, and what Stage II says of them."""

    part: Tensor  # [R] which cells of the grid
    rays: Tensor  # [R, 2] target pixels
    t: Tensor  # [R, S] z-depth
    weights: BlendingWeights


@dataclass(frozen=True)
class _Lifted:
    data: list[Tensor]  # of each layer, [C, h, w]
    depth: Tensor  # [h, w]
    coverage: Tensor  # [h, w]
    spread: Tensor  # [h, w] standard deviation of the samples in 1/z


@dataclass(frozen=True)
class _Layer:
    """Maps that are rendered, and how what is blended of them is corrected."""

    gather: WeightedGather
    grids: Sequence[FeatureGrid] = ()  # none: the maps are the images themselves
    corrector: Corrector | None = None
    cells: SourceCells | None = None
    target: Tensor | None = None  # [R, D] descriptors of all cells of the target


def _gathered(frame: _Frame, layer: _Layer, look: _Look) -> Tensor:  # [R, C]
    """A layer's maps at some rays."""
    weights = look.weights
    value = layer.gather(on_maps(weights.uv, layer.grids) if layer.grids else weights.uv, weights.omega)
    if layer.corrector is None:
        return value
    rest = (frame.lines, look.rays, look.t, weights, frame.distribution)
    return layer.corrector.correct(Blend(value, layer.gather, layer.cells, layer.target[look.part], *rest))


def _layer(model: SourceFeatures, image: Tensor, block: slice = slice(None), sketches: Tensor | None = None) -> _Layer:
    gather = WeightedGather(model.read(block, image.device))
    if model.corrector is None:
        return _Layer(gather, model.grids)
    descriptors = pad_maps(model.descriptors).to(image.device)
    cells = SourceCells(gather.maps.float(), descriptors, model.grids, model.stride, sketches)
    target = model.corrector.describe(*_as_encoded(image, model)).flatten(1).T
    return _Layer(gather, model.grids, model.corrector, cells, target)


@dataclass(frozen=True)
class _Frame:
    """What was found out about a target once."""

    sources: SourceViews
    distribution: DepthDistribution
    lines: EpipolarLines


def _as_encoded(image: Tensor, model: SourceFeatures) -> tuple[Tensor, FeatureGrid]:
    """The target at the size at which its cells have the encoder's stride, and their grid in it."""
    factors = [model.stride * scale for scale in model.target.scale]
    size = tuple(round(n * factor) for n, factor in zip((image.shape[2], image.shape[1]), factors, strict=True))
    if size != (image.shape[2], image.shape[1]):
        image = F.interpolate(image[None], size=size[::-1], mode="bilinear", antialias=True, align_corners=False)[0]
    return image, model.target.rescaled(*factors)
