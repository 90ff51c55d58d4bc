"""Features of the photos as a target needs them: read from where they are kept, on which grids, at which size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.geometry.grids import FeatureGrid
from lift3d_cli.lifting.correction.corrector import Corrector
from lift3d_cli.lifting.source_features import SourceFeatures
from lift3d_cli.models.base import FeatureMap, Model
from lift3d_cli.pipeline.workspace import Recent

# A target whose pixels per angle are within a tenth of the encoded photos' gets the model's own grid for its size.
_SAME_SCALE = 0.1


class FeatureSource(Protocol):
    """Features of the scene's photos, from the cache or computed on demand."""

    model: Model

    def size(self, index: int) -> tuple[int, int]:
        """Return (width, height) of the image that photo `index` was encoded from."""

    def read(self, index: int, keep: bool = True) -> FeatureMap:
        """Return the features of photo `index`; the grid is in pixels of that image.

        Args:
            index: index of the photo.
            keep: keep them in memory for the next poses; otherwise the memory of the file is freed with the map.
        """


@dataclass(frozen=True)
class AtPixels:
    """Features of a cell per pixel, averaged to the size that the photos' colours are used in: a `FeatureSource`.

    As if smaller photos had been encoded, as they are where a target is smaller than the photos: finer cells than its
    pixels would alias, take many times as long, and have rays of their own. Like this they have those of the colours.

    Args:
        source: the features of the photos as they were encoded.
        sizes: by index, (width, height) of the photo to average to.
        kept: those made for the poses before.
    """

    source: FeatureSource
    sizes: Mapping[int, tuple[int, int]]
    kept: Recent[FeatureMap]

    @property
    def model(self) -> Model:
        """See `FeatureSource`."""
        return self.source.model

    def __hash__(self) -> int:  # one for all poses, since descriptors are kept by source
        return hash(self.source)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AtPixels) and self.source is other.source

    def size(self, index: int) -> tuple[int, int]:
        """See `FeatureSource`."""
        return self.sizes[index]

    def read(self, index: int, keep: bool = True) -> FeatureMap:
        """See `FeatureSource`."""
        width, height = self.sizes[index]

        def make() -> FeatureMap:
            data = self.source.read(index, keep=False).data
            grid = self.model.grid(width, height)
            small = F.interpolate(data[None].float(), (grid.height, grid.width), mode="area")[0]
            return FeatureMap(small.to(data.dtype), grid)

        return self.kept.get((index, width, height), make) if keep else make()


def is_finer(source: FeatureSource, chosen: Sequence[int], cameras: Sequence[Camera]) -> bool:
    """Tell if photos were encoded at a larger size than that of `cameras`, at which their colours are used."""
    sizes = [source.size(index)[0] / camera.width for index, camera in zip(chosen, cameras, strict=True)]
    return float(np.median(sizes)) > 1 + _SAME_SCALE


def source_features(
    source: FeatureSource,
    target: Camera,
    chosen: Sequence[int],
    cameras: Sequence[Camera],
    corrector: Corrector | None,
) -> SourceFeatures:
    """Collect the chosen photos' features, with grids in pixels of `cameras`, and the grid to render.

    Cells finer than the target's pixels are not corrected: what is rendered there shows nothing so fine to compare.
    """
    maps, grids, focals = [], [], []
    for index, camera in zip(chosen, cameras, strict=True):
        features, (width, height) = source.read(index), source.size(index)
        maps.append(features.data)
        grids.append(features.grid.rescaled(camera.width / width, camera.height / height))
        focals.append(camera.K[0, 0] * width / camera.width)
    grid = target_grid(source.model, target, float(np.median(focals)))
    return SourceFeatures(maps, grids, grid, source.model.spec.stride, corrector if max(grid.scale) <= 1 else None)


@dataclass(frozen=True)
class Reread:
    """A `StoredMap` that is read again at each access, so that it takes no memory in between."""

    source: FeatureSource
    index: int

    @property
    def shape(self) -> Sequence[int]:
        return self.source.read(self.index).data.shape

    def __getitem__(self, channels: slice) -> Tensor:
        return self.source.read(self.index, keep=False).data[channels]


def target_grid(model: Model, target: Camera, encoded_focal: float) -> FeatureGrid:
    """Return the model's grid for a target, with as many cells per angle as the photos' features have.

    A decoder was trained on cells of one size, so a target of another resolution must not change what a cell spans.

    Args:
        model: the model.
        target: its camera.
        encoded_focal: focal length, in pixels, of the images that the features were made from.
    """
    factor = encoded_focal / target.K[0, 0]
    if abs(factor - 1) < _SAME_SCALE:
        return model.grid(target.width, target.height)
    width, height = max(1, round(target.width * factor)), max(1, round(target.height * factor))
    return model.grid(width, height).rescaled(target.width / width, target.height / height)
