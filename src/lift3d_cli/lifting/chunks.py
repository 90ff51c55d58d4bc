"""The rays of a target with their weights, in chunks that fit the memory."""

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
    """What Stage I finds out about a target, once.

    Args:
        sources: the V photos, with what Stage II is to know of each.
        lines: the target's rays in them.
        distribution: of the surface's depth.
    """

    sources: SourceViews
    lines: EpipolarLines
    distribution: DepthDistribution


@dataclass(frozen=True)
class WeightedRays:
    """R rays of a target, sampled and blended.

    Args:
        surface: where they were sampled.
        cells: [R] which cells of their grid they run through.
        rays: [R, 2] target pixels.
        t: [R, S] z-depth of the samples in the target camera.
        weights: of the samples in the photos.
    """

    surface: ProposedSurface
    cells: Tensor
    rays: Tensor
    t: Tensor
    weights: BlendingWeights


class RayChunks:
    """The rays through all cells of a grid; `map` has them weighed chunk by chunk, as memory allows.

    Args:
        grid: in the target's image.
        device: where to work.
        weigh: samples and blends the rays [R, 2], in target pixels, of some cells [R].
        memory_bytes: rough bound on temporaries, and on four times what is kept.
        bytes_per_ray: of temporaries.
        bytes_to_keep: of each ray's weights.
        is_reused: `map` will be called again: what `weigh` gives is kept, if it fits.
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
        self.grid, self._device = grid, device
        rays = grid.cell_centers().to(device)
        at_once = memory_bytes // (bytes_per_ray * num_workers(device))
        at_once = max(1, min(at_once, _MOST_RAYS_ON_CPU) if device.type == "cpu" else at_once)
        chunks = torch.arange(len(rays), device=device).split(at_once)
        made = [partial(weigh, cells, rays[cells]) for cells in chunks]
        is_kept = is_reused and 4 * bytes_to_keep * len(rays) <= memory_bytes
        self._chunks = [cache(make) for make in made] if is_kept else made

    def map(self, work: Callable[[WeightedRays], Sequence[Tensor]]) -> Iterator[Tensor]:
        """Do some work on every chunk, and put its results together.

        Args:
            work: gives any number of tensors [R] or [R, C].

        Returns:
            The same of all cells, [h, w] or [C, h, w].
        """
        parts = zip(*mapped(lambda make: work(make()), self._chunks, self._device), strict=True)
        for values in parts:
            yield torch.cat(values).movedim(0, -1).unflatten(-1, (self.grid.height, self.grid.width))
