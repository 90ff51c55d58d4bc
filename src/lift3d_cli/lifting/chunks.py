"""Rays of a target view with their blending weights, in chunks that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from torch import Tensor

from lift3d_cli.geometry.epipolar import EpipolarLines
from lift3d_cli.geometry.grids import FeatureGrid
from lift3d_cli.lifting.blending.protocol import BlendingWeights
from lift3d_cli.lifting.proposal.protocol import DepthDistribution
from lift3d_cli.lifting.sources import SourceViews
from lift3d_cli.machine.parallel import mapped, num_workers

# On CPU smaller chunks are faster, as more of them stays in the processor's cache.
_MOST_RAYS_ON_CPU = 512


@dataclass(frozen=True)
class ProposedSurface:
    """The result of Stage I for one target view, computed once.

    Args:
        sources: V source views, with the surface that a learned Stage II needs.
        lines: epipolar lines of the target's rays in them.
        distribution: probability of the surface's depth.
    """

    sources: SourceViews
    lines: EpipolarLines
    distribution: DepthDistribution


@dataclass(frozen=True)
class WeightedRays:
    """R rays of a target, sampled and blended.

    Args:
        surface: result of Stage I that the samples come from.
        cells: [R] indices of the grid cells that the rays run through.
        rays: [R, 2] target pixels.
        t: [R, S] z-depth of the samples in the target camera.
        weights: blending weights of the samples in the source views.
    """

    surface: ProposedSurface
    cells: Tensor
    rays: Tensor
    t: Tensor
    weights: BlendingWeights

    @property
    def inverse_depth(self) -> Tensor:  # [R]
        """The weighted mean of the samples in 1/z; of all alike where no source view sees the ray."""
        share = self.weights.omega.sum(0)  # [R, S], per sample
        share = torch.where(self.weights.coverage[:, None] > 0, share, 1 / self.t.shape[1])
        return (share / self.t).sum(1)

    def at_depths(self, t: Tensor) -> WeightedRays:
        """Return the same rays with their samples at other depths [R, S], where they keep their weights."""
        uv, z = self.surface.lines.project(self.rays, t)
        weights = BlendingWeights(self.weights.omega * (z > 0), uv, self.weights.coverage)
        return replace(self, t=t, weights=weights)


@dataclass(frozen=True)
class RayChunks:
    """The rays through all cells of a grid; `map` samples and blends them in chunks that fit into memory.

    Args:
        grid: grid of cells in the target's image.
        device: where to compute.
        cells: for each chunk, the indices of its cells.
        chunks: each samples and blends the rays of a chunk.
    """

    grid: FeatureGrid
    device: torch.device
    cells: Sequence[Tensor]
    chunks: Sequence[Callable[[], WeightedRays]]

    @classmethod
    def weighed(
        cls,
        grid: FeatureGrid,
        device: torch.device,
        weigh: Callable[[Tensor, Tensor], WeightedRays],
        memory_bytes: int,
        bytes_per_ray: int,
        bytes_to_keep: int,
        is_reused: bool,
    ) -> RayChunks:
        """Divide the rays of a grid into chunks.

        Args:
            grid: the grid.
            device: where to compute.
            weigh: samples and blends rays, from cell indices [R] and target pixels [R, 2].
            memory_bytes: rough bound on temporaries, and on four times the size of the weights kept.
            bytes_per_ray: temporary memory per ray.
            bytes_to_keep: size of one ray's weights.
            is_reused: the rays are needed more than once: the weights are kept if they fit.
        """
        rays = grid.cell_centers().to(device)
        at_once = memory_bytes // (bytes_per_ray * num_workers(device))
        at_once = max(1, min(at_once, _MOST_RAYS_ON_CPU) if device.type == "cpu" else at_once)
        cells = torch.arange(len(rays), device=device).split(at_once)
        chunks = [partial(weigh, some, rays[some]) for some in cells]
        is_kept = is_reused and 4 * bytes_to_keep * len(rays) <= memory_bytes
        return cls(grid, device, cells, [cache(make) for make in chunks] if is_kept else chunks)

    def through(self, grid: FeatureGrid) -> RayChunks:
        """Return the rays through another grid's cells, with the depths and weights of the nearest rays of this one.

        Stage II, which takes most of a frame's time, does not run again for them.
        """
        rays = grid.cell_centers().to(self.device)
        scale, offset = (torch.tensor(x, device=self.device) for x in (self.grid.scale, self.grid.offset))
        column, row = (rays * scale + offset).long().unbind(-1)
        nearest = row.clamp(0, self.grid.height - 1) * self.grid.width + column.clamp(0, self.grid.width - 1)
        nearest, order = nearest.sort(stable=True)
        ends = torch.searchsorted(nearest, torch.stack([some[-1] for some in self.cells]), right=True).tolist()
        cells, chunks = [], []
        for make, own, first, end in zip(self.chunks, self.cells, [0, *ends], ends, strict=False):
            if first < end:
                cells.append(order[first:end])
                chunks.append(partial(_taken_over, make, cells[-1], rays[cells[-1]], nearest[first:end] - own[0]))
        return RayChunks(grid, self.device, cells, chunks)

    def moved(self, move: Callable[[WeightedRays], Tensor]) -> RayChunks:
        """Return the same rays with their samples at the depths [R, S] that `move` gives those of a chunk."""
        return replace(self, chunks=[partial(_moved, make, move) for make in self.chunks])

    def map(self, work: Callable[[WeightedRays], Sequence[Tensor]]) -> Iterator[Tensor]:
        """Apply a function to every chunk, and join its results.

        Args:
            work: returns any number of tensors [R] or [R, C].

        Returns:
            The same tensors for all cells, [h, w] or [C, h, w].
        """
        order = torch.cat(list(self.cells)).argsort()
        parts = zip(*mapped(lambda make: work(make()), self.chunks, self.device), strict=True)
        for values in parts:
            yield torch.cat(values)[order].movedim(0, -1).unflatten(-1, (self.grid.height, self.grid.width))


def _taken_over(make: Callable[[], WeightedRays], cells: Tensor, rays: Tensor, nearest: Tensor) -> WeightedRays:
    """Give other rays the depths and weights of the `nearest` ones of a chunk."""
    near = make()
    weights = BlendingWeights(near.weights.omega[:, nearest], near.weights.uv, near.weights.coverage[nearest])
    return replace(near, cells=cells, rays=rays, weights=weights).at_depths(near.t[nearest])


def _moved(make: Callable[[], WeightedRays], move: Callable[[WeightedRays], Tensor]) -> WeightedRays:
    chunk = make()
    moved = chunk.at_depths(move(chunk))
    # A sample does not leave a photo that it is blended from, nor go behind its camera, where `uv` is NaN.
    cameras = chunk.surface.sources.cameras
    size = torch.tensor([[c.width, c.height] for c in cameras], device=moved.t.device)[:, None, None]
    is_inside = ((moved.weights.uv >= 0) & (moved.weights.uv <= size)).all(-1)
    is_lost = ((chunk.weights.omega > 0) & ~is_inside).any(0)
    return chunk.at_depths(torch.where(is_lost, chunk.t, moved.t)) if is_lost.any() else moved
