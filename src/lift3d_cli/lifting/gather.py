"""Gather colours and features by the blending weights, correct the features, and fill what no source view sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.geometry.grids import FeatureGrid
from lift3d_cli.lifting.chunks import RayChunks, WeightedRays
from lift3d_cli.lifting.confidence import mean_square
from lift3d_cli.lifting.correction.evidence import Blend, SourceCells, on_maps, sketch_maps
from lift3d_cli.lifting.exposure import exposed, likely_exposure
from lift3d_cli.lifting.fill import fill_unseen
from lift3d_cli.lifting.source_features import SourceFeatures
from lift3d_cli.lifting.sources import SourceViews, pad_maps
from lift3d_cli.ops.weighted_gather import WeightedGather


@dataclass(frozen=True)
class GatheredColors:
    """Rendered colours and statistics of the rays through the pixels; colours are filled where no source view sees.

    Args:
        color: [3, H, W], from sharpened photos, with the exposure that a camera would likely have given.
        plain: [3, H, W], from the photos unsharpened, of the common exposure.
        square: [H, W], `mean_square` of the photos, blended.
        depth: [H, W] z-depth, the weighted mean in 1/z of the ray's samples.
        coverage: [H, W] in [0, 1], see `BlendingWeights`.
        spread: [H, W] standard deviation of the ray's samples in 1/z.
    """

    color: Tensor
    plain: Tensor
    square: Tensor
    depth: Tensor
    coverage: Tensor
    spread: Tensor


def gather_colors(pixels: RayChunks, sources: SourceViews) -> GatheredColors:
    """Gather the colours of the source views."""
    # Sharpening would count as disagreement, so confidence is computed from the photos' own colours.
    gather = WeightedGather(torch.cat([sources.sharpened, sources.images, mean_square(sources.images)], 1))

    def of_chunk(chunk: WeightedRays) -> Sequence[Tensor]:
        t, weights = chunk.t, chunk.weights
        depth, spread = 1 / chunk.inverse_depth, (1 / t).std(1, correction=0)
        return depth, weights.coverage, spread, gather(weights.uv, weights.omega), weights.omega.sum(-1).T

    depth, coverage, spread, colors, parts = pixels.map(of_chunk)
    color, plain, square = fill_unseen(colors, coverage).split((3, 3, 1))
    if sources.exposures is not None:
        part = parts.sum((1, 2)) / parts.sum().clamp(min=1)
        color = exposed(color.clamp(0, 1), likely_exposure(plain, sources, part))
    return GatheredColors(color, plain, square[0], depth, coverage, spread)


def gather_features(
    rays: RayChunks,
    models: Mapping[str, SourceFeatures],
    image: Tensor,  # [3, H, W] the rendered target
) -> dict[str, Tensor]:  # [C, h, w]
    """Gather and correct the features of all models whose target grid is that of the rays; by model name."""
    whole = {name: model for name, model in models.items() if not model.channels_at_once}
    gathered = dict(zip(whole, _corrected(rays, [_Layer(m, image) for m in whole.values()]), strict=True))
    return gathered | {name: _in_blocks(rays, m, image) for name, m in models.items() if name not in whole}


def _in_blocks(rays: RayChunks, model: SourceFeatures, image: Tensor) -> Tensor:  # [C, h, w]
    """Render one model's features a block of channels at a time; the corrector uses sketches of all channels."""
    channels, sketches = model.maps[0].shape[0], None
    if model.corrector is not None:
        sketches = sketch_maps((model.read(block, image.device) for block in model.blocks()), channels)
    out = image.new_empty(channels, model.target.height, model.target.width)
    for block in model.blocks():
        [out[block]] = _corrected(rays, [_Layer(model, image, block, sketches)])
    return out


def _corrected(rays: RayChunks, layers: Sequence[_Layer]) -> list[Tensor]:  # [C, h, w] each
    """Gather, correct and fill the features of some layers; without layers, no ray is sampled or blended."""
    if not layers:
        return []

    def of_chunk(chunk: WeightedRays) -> Sequence[Tensor]:
        return chunk.weights.coverage, *(layer.correct(layer.gather(chunk), chunk) for layer in layers)

    # One after the other: unfilled and filled copies of all of them together would be much of a render's memory.
    parts = rays.map(of_chunk)
    coverage = next(parts)
    return [fill_unseen(features, coverage) for features in parts]


class _Layer:
    """One model's source maps, or a block of their channels, to gather from, with the inputs of the corrector."""

    def __init__(
        self, model: SourceFeatures, image: Tensor, block: slice = slice(None), sketches: Tensor | None = None
    ) -> None:
        self._gather = WeightedGather(model.read(block, image.device))
        self._grids = model.grids
        self._corrector = model.corrector
        if model.corrector is not None:
            descriptors = pad_maps(model.descriptors).to(image.device)
            self._cells = SourceCells(self._gather.maps.float(), descriptors, model.grids, model.stride, sketches)
            self._target = model.corrector.describe(*_as_encoded(image, model)).flatten(1).T  # [cells, D]

    def gather(self, chunk: WeightedRays) -> Tensor:  # [R, C]
        return self._gather(on_maps(chunk.weights.uv, self._grids), chunk.weights.omega)

    def correct(self, blended: Tensor, chunk: WeightedRays) -> Tensor:  # [R, C]
        if self._corrector is None:
            return blended
        surface, target = chunk.surface, self._target[chunk.cells]
        rays = (surface.lines, chunk.rays, chunk.t, chunk.weights, surface.distribution)
        return self._corrector.correct(Blend(blended, self._gather, self._cells, target, *rays))


def _as_encoded(image: Tensor, model: SourceFeatures) -> tuple[Tensor, FeatureGrid]:
    """Return the target resized so that its cells have the encoder's stride, and their grid in it."""
    factors = [model.stride * scale for scale in model.target.scale]
    size = tuple(round(n * factor) for n, factor in zip((image.shape[2], image.shape[1]), factors, strict=True))
    if size != (image.shape[2], image.shape[1]):
        image = F.interpolate(image[None], size=size[::-1], mode="bilinear", antialias=True, align_corners=False)[0]
    return image, model.target.rescaled(*factors)
