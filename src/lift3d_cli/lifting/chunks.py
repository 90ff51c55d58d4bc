"""Rays of a target view with their blending weights, in chunks that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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


class RayChunks:
    """The rays through all cells of a grid; `map` samples and blends them in chunks that fit into memory.

    Args:
        grid: grid of cells in the target's image.
        device: where to compute.
        weigh: samples and blends rays, from cell indices [R] and target pixels [R, 2].
        memory_bytes: rough bound on temporaries, and on four times the size of the weights kept.
        bytes_per_ray: temporary memory per ray.
        bytes_to_keep: size of one ray's weights.
        is_reused: `map` will be called more than once: the weights are kept if they fit.
    """

    def __init__(
        self,
        grid: FeatureGrid,
        device: torch.device,
        weigh: Callable[[Tensor, Tensor], WeightedRays],
        memory_bytes: int,
        bytes_per_ray: int,
        bytes_to_keep: int,
        is_reused: bool,
    ) -> None:
        self.grid = grid
        self._device = device
        rays = grid.cell_centers().to(device)
        at_once = memory_bytes // (bytes_per_ray * num_workers(device))
        at_once = max(1, min(at_once, _MOST_RAYS_ON_CPU) if device.type == "cpu" else at_once)
        chunks = torch.arange(len(rays), device=device).split(at_once)
        made = [partial(weigh, cells, rays[cells]) for cells in chunks]
        is_kept = is_reused and 4 * bytes_to_keep * len(rays) <= memory_bytes
        self._chunks = [cache(make) for make in made] if is_kept else made

    def map(self, work: Callable[[WeightedRays], Sequence[Tensor]]) -> Iterator[Tensor]:
        """Apply a function to every chunk, and join its results.

        Args:
            work: returns any number of tensors [R] or [R, C].

        Returns:
            The same tensors for all cells, [h, w] or [C, h, w].
        """
        parts = zip(*mapped(lambda make: work(make()), self._chunks, self._device), strict=True)
        for values in parts:
            yield torch.cat(values).movedim(0, -1).unflatten(-1, (self.grid.height, self.grid.width))
