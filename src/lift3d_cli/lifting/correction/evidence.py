"""The inconsistency corrector's inputs: the cells of the source maps around the surface point of a ray."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from threading import Lock

import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.geometry.epipolar import EpipolarLines, ray_angles
from lift3d_cli.geometry.grids import FeatureGrid
from lift3d_cli.lifting.blending.protocol import BlendingWeights
from lift3d_cli.lifting.proposal.protocol import DepthDistribution
from lift3d_cli.ops.weighted_gather import WeightedGather

SKETCH_CHANNELS = 16
"""Number of random projections for measuring distances between features (Johnson-Lindenstrauss)."""
TAPS = tuple((x, y) for y in (-1, 0, 1) for x in (-1, 0, 1))
"""Offsets (x, y) of the cells around the nearest one."""
# The unit that the corrector was trained with, whatever the number of planes.
_SPREAD_UNITS = 64


def sketch_maps(
    blocks: Iterable[Tensor],  # [V, c, h, w] of some channels each
    channels: int,  # in all
) -> Tensor:  # [V, SKETCH_CHANNELS, h, w]
    """Project features on fixed random directions, scaled to a squared distance of about 2 between unlike cells."""
    generator = torch.Generator().manual_seed(channels)
    mixings = torch.randn(SKETCH_CHANNELS, channels, generator=generator)
    sketches, variance, first = None, 0.0, 0
    for maps in blocks:
        mixing = mixings[:, first : first + maps.shape[1]].to(maps)
        variances, mean = torch.var_mean(maps, (0, 2, 3), correction=0)
        # Equals the projection of (maps - mean), without a copy of the maps.
        sketch = F.conv2d(maps, mixing[:, :, None, None], -mixing @ mean)
        sketches = sketch if sketches is None else sketches.add_(sketch)
        variance, first = variance + variances.sum(), first + maps.shape[1]
    # 1e-12 keeps constant maps at 0.
    return sketches * (SKETCH_CHANNELS * variance + 1e-12).rsqrt()


@dataclass(frozen=True)
class Cells:
    """The source cells around the surface points of R rays, T = len(TAPS) in each of V views.

    Args:
        rows: [V, R, T] rows in a table of all V * h * w cells of the maps.
        distance: [V, R, T] in cells, squared, from the point to the cell's centre.
    """

    rows: Tensor
    distance: Tensor

    @classmethod
    def around(cls, uv: Tensor, height: int, width: int) -> Cells:
        """Find the cells nearest to `uv` [V, R, 2], in pixels of maps of this size; at a border, those inside."""
        point = torch.nan_to_num(uv)[:, :, None] - 0.5
        taps = torch.tensor(TAPS, device=uv.device)
        x, y = (
            (point[..., axis].round() + taps[:, axis]).clamp(0, size - 1) for axis, size in ((0, width), (1, height))
        )
        distance = (x - point[..., 0]) ** 2 + (y - point[..., 1]) ** 2
        first = (torch.arange(len(uv), device=uv.device) * (height * width))[:, None, None]
        return cls(first + y.long() * width + x.long(), distance)


@dataclass(frozen=True)
class Evidence:
    """Inputs of the corrector, for R rays, V source views and T cells in each.

    Args:
        cells: indices and distances of the cells.
        differences: [R, V, T, D] of the cells' descriptors from those blended by Stage II's weights.
        disagreement: [R, V, T] mean squared difference of the sketches of the cells' features from the blended ones.
        blended: [R, D] the source descriptors blended by Stage II's weights.
        target: [R, D] descriptors of the rendered target.
        share: [V, R] each view's share of Stage II's weights; 0 where it does not see the point.
        angle: [V, R] radians, between the lines of sight from the target and from the view.
        seen: [V, R] bool.
        spread: [R] standard deviation of the ray's samples in 1/z; `_SPREAD_UNITS` is the range from near to far.
        stride: image pixels per cell.
    """

    cells: Cells
    differences: Tensor
    disagreement: Tensor
    blended: Tensor
    target: Tensor
    share: Tensor
    angle: Tensor
    seen: Tensor
    spread: Tensor
    stride: float


class SourceCells:
    """One model's source maps as a table of cells, with their descriptors and sketches.

    Args:
        maps: [V, C, h, w] features.
        descriptors: [V, D, h, w] descriptors of the cells.
        grids: V grids, in pixels of the source images.
        stride: image pixels per cell, in the images that were encoded.
        sketches: [V, SKETCH_CHANNELS, h, w]; needed if `maps` are only some of the channels.
    """

    def __init__(
        self,
        maps: Tensor,
        descriptors: Tensor,
        grids: Sequence[FeatureGrid],
        stride: float,
        sketches: Tensor | None = None,
    ) -> None:
        sketches = sketch_maps([maps], maps.shape[1]) if sketches is None else sketches
        parts = (x.contiguous(memory_format=torch.channels_last) for x in (descriptors, sketches))
        table = torch.cat(list(parts), 1)  # in the memory layout that a gather uses
        self.size = maps.shape[2:]
        self.gather = WeightedGather(table)
        self.table = self.gather.maps.permute(0, 2, 3, 1).flatten(0, 2)
        self.parts = (descriptors.shape[1], SKETCH_CHANNELS)
        self.grids = grids
        self.stride = stride
        self._maps = maps
        self._slopes: Tensor | None = None
        self._lock = Lock()

    def slopes(self, ridge: Tensor) -> Tensor:  # [D, C]
        """Return the linear regression of features on descriptors, over all cells of all maps; computed once.

        Args:
            ridge: added to the descriptors' covariance, as a share of its mean variance.
        """
        with self._lock:  # one of the threads that render rays in parallel computes it
            if self._slopes is None:
                descriptors, features = self.table[:, : self.parts[0]], self._maps.permute(0, 2, 3, 1).flatten(0, 2)
                descriptors = descriptors - descriptors.mean(0)
                covariance = descriptors.T @ descriptors / len(descriptors)
                floor = ridge * covariance.diagonal().mean() + 1e-9  # 1e-9: maps of a constant colour
                covariance = covariance + floor * torch.eye(len(covariance), device=descriptors.device)
                # The descriptors have a mean of 0, so the features' mean drops out of the product.
                self._slopes = torch.linalg.solve(covariance, descriptors.T @ features / len(descriptors))
        return self._slopes


@dataclass(frozen=True)
class Blend:
    """R rays through cells of the target, with one model's features, blended by Stage II's weights.

    Args:
        features: [R, C] blended features.
        gather: gathers from the model's source maps.
        cells: the cells of the model's source maps.
        target: [R, D] descriptors of the rays' cells in the target.
        lines: epipolar lines of the rays in the source images.
        rays: [R, 2] target pixels.
        t: [R, S] z-depth of the samples.
        weights: blending weights of the samples.
        distribution: depth distribution of Stage I.
    """

    features: Tensor
    gather: WeightedGather
    cells: SourceCells
    target: Tensor
    lines: EpipolarLines
    rays: Tensor
    t: Tensor
    weights: BlendingWeights
    distribution: DepthDistribution

    def evidence(self) -> Evidence:
        """Read the source cells around each ray's surface point, at the mean depth (in 1/z) of its samples."""
        cells, weights = self.cells, self.weights
        of_sample = weights.omega.sum(0)
        of_sample = of_sample / of_sample.sum(1, keepdim=True).clamp(min=1e-9)  # 0 for rays that no view sees
        inverse = (of_sample / self.t).sum(1, keepdim=True)
        inverse = torch.where(inverse > 0, inverse, 1 / self.t[:, :1])
        parts = (1 / self.t - inverse) / (1 / self.distribution.near - 1 / self.distribution.far) * _SPREAD_UNITS
        point = self.lines.project(self.rays, 1 / inverse)[0]
        seen = (weights.omega > 0).any(2) & torch.isfinite(point).all(-1)[..., 0]
        around = Cells.around(on_maps(point, cells.grids)[:, :, 0], *cells.size)
        blended = cells.gather(on_maps(weights.uv, cells.grids), weights.omega).split(cells.parts, 1)
        rows = around.rows.transpose(0, 1)
        # By far the most data of a correction, which is passed over as few times as can be.
        differences, apart = (
            part.index_select(0, rows.flatten()).view(*rows.shape, -1).sub_(mean[:, None, None])
            for part, mean in zip(cells.table.split(cells.parts, 1), blended, strict=True)
        )
        return Evidence(
            around,
            differences,
            apart.square().mean(-1),
            blended[0],
            self.target,
            share=weights.omega.sum(2),
            angle=ray_angles(self.lines, self.rays, 1 / inverse)[..., 0],
            seen=seen,
            spread=(of_sample * parts.square()).sum(1).sqrt(),
            stride=cells.stride,
        )


def on_maps(uv: Tensor, grids: Sequence[FeatureGrid]) -> Tensor:
    """Convert pixels [V, R, S, 2] of the source images to pixels of the source maps."""
    scale, offset = (
        torch.tensor([getattr(grid, name) for grid in grids], device=uv.device)[:, None, None]
        for name in ("scale", "offset")
    )
    return uv * scale + offset
