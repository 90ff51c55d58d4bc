"""Depth refinement: each ray's depth is moved to where the photos agree, to a fraction of a pixel.

From one of Stage I's planes to the next, a point moves by several pixels in the photos, and Stage II weighs each ray by
itself. Here the rays of a small window tell together: Gauss-Newton steps on the depth of each, as Lucas & Kanade (1981)
take for the motion between two pictures, until what the photos show there deviates least from its blend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.geometry.epipolar import EpipolarLines
from lift3d_cli.geometry.grids import pixel_centers, sample_map
from lift3d_cli.lifting.chunks import ProposedSurface, RayChunks, WeightedRays
from lift3d_cli.lifting.propagation import SurfaceClues, SurfacePropagation
from lift3d_cli.lifting.proposal.protocol import Proposal
from lift3d_cli.lifting.sources import SourceViews, box, contrast, lightness
from lift3d_cli.lifting.surfaces import SURFACE_STRIDE, surface_at_size, surface_of
from lift3d_cli.machine.parallel import mapped
from lift3d_cli.ops.windows import window_max, window_mean

WINDOWS = (9, 7, 7)
"""Each step's window, in pixels along its side. The first step looks at the photos blurred, which reaches farther."""
SURFACE_WINDOWS = (7, 5, 5, 3)
"""The same for a photo's own surface, in its cells."""
CLOSER = 0.25
"""By how much a ray's samples are then drawn together: what is blended from several depths is blurred."""
# Those of the steps after propagation; and how far a photo that does not show a cell is taken to deviate.
_WINDOWS_AGAIN, _MAX_DEVIATION = (5, 3), 9.0
# Samples farther apart than about this many planes stay: they are of two surfaces.
_PLANES_APART = 2.0
# The longest step, in pixels of the photos.
_LONGEST = 1.0
# Both shorten steps: the squared slope of the locally normalised lightness, per pixel, that is noise, and the part of
# the photos' squared error that is, since at borders of occlusion they show different surfaces.
_NOISE, _DOUBT = 0.005, 0.3
# Depths move where the photos' squared error is less than this part of what it was.
_BETTER = 0.9
# Pixels along a photo's border whose surroundings, which are part of what is compared, are not all there; and the part
# of a ray's blend that has to be of other pixels.
_BORDER, _MOST = 5, 0.5
# Planes from the nearest to the farthest depth in a window that is taken for an edge: photos show two surfaces there.
_EDGE = 8.0
# Rows of the target that are refined at once, besides those around them that the windows reach.
_ROWS = 128
_MARGIN = sum(window // 2 for window in (*WINDOWS, WINDOWS[-1]))
# A photo's part in the blend that its own surface is refined by. Another one counts for 1/e if its squared error is
# that of the third of them that agree best, times the second, plus the last: it shows something else there.
_OWN, _DEVIATING, _DEVIATING_ANYWAY = 0.5, 1.0, 0.1


def refined(pixels: RayChunks, surface: ProposedSurface) -> RayChunks:
    """Refine the depths of the rays through all pixels of a target; their weights stay.

    Args:
        pixels: the rays.
        surface: result of Stage I that they come from.
    """

    def of_chunk(chunk: WeightedRays) -> Sequence[Tensor]:
        return chunk.inverse_depth, chunk.weights.omega.sum(-1).T

    before, share = pixels.map(of_chunk)  # [H, W] and [V, H, W]
    maps = _maps(surface.sources)
    rays = pixels.grid.cell_centers().to(pixels.device).unflatten(0, before.shape)

    def of_rows(top: int) -> Tensor:
        first = max(0, top - _MARGIN)
        part = slice(first, top + _ROWS + _MARGIN)
        found = _refine(surface, maps, rays[part], before[part], share[:, part], WINDOWS)
        return found[top - first :][:_ROWS]

    after = torch.cat(list(mapped(of_rows, range(0, len(before), _ROWS), pixels.device)))
    return pixels.moved(partial(_drawn_together, before.flatten(), after.flatten()))


@dataclass(frozen=True)
class SurfaceFinder:
    """Finds the surface that a photo sees, see `lifting.surfaces`.

    Args:
        proposal: Stage I.
        propagation: moves what Stage I found too wide, or None; Stage I has to keep its matches for it.
        identity: identifies its weights.
    """

    proposal: Proposal
    propagation: SurfacePropagation | None = None
    identity: str = ""

    def __call__(self, photos: SourceViews, near_far: tuple[float, float], memory_bytes: int) -> Tensor:
        """Find the surface of the first of some photos.

        Args:
            photos: one or more; the first is compared with itself, too: what it shows must be found in the others.
            near_far: z-depth in the first.
            memory_bytes: rough bound on temporaries of Stage I.

        Returns:
            [NUM_SURFACE_CHANNELS, h, w], one cell per `SURFACE_STRIDE` pixels along each side.
        """
        search = _Search.begin(self.proposal, photos, near_far, memory_bytes)
        inverse = search.inverse
        if len(photos.cameras) > 1:
            inverse = search.refined(inverse, SURFACE_WINDOWS)
            if self.propagation is not None:
                inverse = self.propagation.propagated(search.clues(inverse))[0, 0]
                inverse = search.refined(inverse, _WINDOWS_AGAIN)
        return torch.stack([inverse, search.exactness, search.sure])

    def clues(self, photos: SourceViews, near_far: tuple[float, float], memory_bytes: int) -> SurfaceClues:
        """Find what the propagation gets to see of the first of two or more photos, see `__call__`."""
        search = _Search.begin(self.proposal, photos, near_far, memory_bytes)
        return search.clues(search.refined(search.inverse, SURFACE_WINDOWS))

    def settings(self) -> Mapping[str, object]:
        """Return JSON values that differ between finders with different results."""
        return {
            "proposal": dict(self.proposal.settings()),
            "refinement": (SURFACE_WINDOWS, _WINDOWS_AGAIN),
            "propagation": self.identity,
        }


@dataclass(frozen=True)
class _Search:
    """A photo's own surface [h, w] as Stage I finds it, and all that is looked at to mend it."""

    surface: ProposedSurface
    maps: Sequence[Tensor]  # see `_maps`
    rays: Tensor  # [h, w, 2] pixels
    inverse: Tensor
    exactness: Tensor
    sure: Tensor

    @classmethod
    def begin(
        cls, proposal: Proposal, photos: SourceViews, near_far: tuple[float, float], memory_bytes: int
    ) -> _Search:
        camera = photos.cameras[0]
        distribution = proposal(camera, photos, near_far, memory_bytes)
        found = surface_at_size(surface_of(distribution), camera.width, camera.height)
        shape, device = found.shape[1:], found.device
        surface = ProposedSurface(photos, EpipolarLines.between(camera, photos.cameras, device), distribution)
        rays = pixel_centers(*reversed(shape), device).unflatten(0, shape) * SURFACE_STRIDE
        return cls(surface, _maps(photos), rays, *found)

    def seen(self, inverse: Tensor, step: int) -> _Seen:
        alike = torch.ones(len(self.surface.sources.cameras), *inverse.shape, device=inverse.device)
        return _Seen.at(self.surface, self.maps[step], self.rays, inverse, alike)

    def refined(self, inverse: Tensor, windows: Sequence[int]) -> Tensor:
        share = _agreeing(self.seen(inverse, 0))
        return _refine(self.surface, self.maps, self.rays, inverse, share, windows)

    def clues(self, inverse: Tensor) -> SurfaceClues:
        seen, distribution = self.seen(inverse, 1), self.surface.distribution
        own, *others = seen.error
        is_seen = seen.share[1:] > 0
        deviations = (torch.stack(others) - own).abs().masked_fill(~is_seen, _MAX_DEVIATION).sort(0)[0]
        ranks = [min(rank, len(others) - 1) for rank in (0, 1, 2, len(others) // 2)]
        photo = F.adaptive_avg_pool2d(self.surface.sources.images[:1], inverse.shape)
        planes = inverse.new_tensor([*distribution.inverse_range(), distribution.inverse_step]).view(3, 1, 1, 1, 1)
        num_views = is_seen.sum(0).to(inverse.dtype)
        maps = [x[None, None] for x in (inverse, self.sure)], [x[None] for x in (deviations[ranks], num_views[None])]
        volumes = [x[None] for x in (distribution.probability, distribution.matches)]
        return SurfaceClues(*maps[0], photo, *maps[1], *volumes, *planes)


def _agreeing(seen: _Seen) -> Tensor:  # [V, h, w]
    """Return how much the first of the views, whose surface it is, and those that show the same are to count."""
    own, *others = seen.error
    is_seen = seen.share[1:] > 0
    error = torch.stack([window_mean((other - own).square(), SURFACE_WINDOWS[0]) for other in others])
    error = error.masked_fill(~is_seen, torch.inf)
    least = error.kthvalue(-(-len(others) // 3), 0)[0]
    weight = torch.exp(-error / (_DEVIATING * least + _DEVIATING_ANYWAY)).nan_to_num()
    others = (1 - _OWN) * weight / weight.sum(0).clamp(min=1e-6)
    return torch.cat([torch.full_like(others[:1], _OWN), others])


def _maps(sources: SourceViews) -> list[Tensor]:  # [V, 4, H, W]
    """Return what is compared in the first step, blurred, and in the others: values, slopes, validity."""
    light, valid = lightness(sources.images), _inner(sources.valid)
    return [torch.cat([_with_slopes(contrast(each)), valid], -3) for each in (box(light), light)]


def _inner(valid: Tensor) -> Tensor:  # [V, 1, H, W]
    """Leave out what is near to a photo's border, or to what is not valid."""
    return 1 - window_max(F.pad(1 - valid, (1,) * 4, value=1.0), 2 * _BORDER + 1)[..., 1:-1, 1:-1]


def _with_slopes(maps: Tensor) -> Tensor:  # [V, 1, H, W] to [V, 3, H, W]
    """Append the slopes along u and v, per pixel."""
    padded = F.pad(maps, (1,) * 4, mode="replicate")
    along_u = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    along_v = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    return torch.cat([maps, along_u, along_v], 1)


def _refine(
    surface: ProposedSurface,
    maps: Sequence[Tensor],  # see `_maps`
    rays: Tensor,  # [h, w, 2] target pixels
    before: Tensor,  # [h, w] 1/z
    share: Tensor,  # [V, h, w] of the views in the blend
    windows: Sequence[int],
) -> Tensor:  # [h, w] 1/z
    """Take the steps; where the photos do not agree better in the end, nothing moves."""
    nearest, farthest = surface.distribution.inverse_range()
    plane = surface.distribution.inverse_step
    least, most = (before + way * _PLANES_APART * plane for way in (-1, 1))
    after = before
    for number, window in enumerate(windows):
        seen = _Seen.at(surface, maps[min(number, 1)], rays, after, share)
        # Of a plane, in the mean of the views.
        pixels = (seen.share * seen.pixels).sum(0).clamp(min=1e-6)
        rise = seen.rise / pixels
        rise = rise - (seen.share * rise).sum(0)
        downhill = window_mean(-(seen.share * rise * seen.error).sum(0), window)
        steepness = window_mean((seen.share * rise.square()).sum(0), window)
        by = downhill / (steepness + _NOISE + _DOUBT * seen.cost(window))
        # Where photos tell little of depth, as those of one place do, steps would go anywhere.
        after = after + by.clamp(-_LONGEST, _LONGEST) / pixels * plane
        after = after.clamp(least, most).clamp(farthest, nearest)
    was, now = (_Seen.at(surface, maps[1], rays, x, share) for x in (before, after))
    is_better = now.cost(windows[-1]) < _BETTER * was.cost(windows[-1])
    # Photos do not agree better by not seeing it; and what the windows tell of rays that none sees is not known.
    is_seen = (was.share > 0).any(0) & ((now.share > 0) == (was.share > 0)).all(0)
    between = window_max(before, windows[0]) + window_max(-before, windows[0])
    return torch.where(is_better & is_seen & (between < _EDGE * plane), after, before)


@dataclass(frozen=True)
class _Seen:
    """What the source views show at the depths of rays.

    Args:
        share: [V, h, w] of those that see it, in the blend; sums to 1, or is 0.
        error: [V, h, w] deviation from the blend.
        rise: [V, h, w] of what is shown, per plane.
        pixels: [V, h, w] per plane.
    """

    share: Tensor
    error: Tensor
    rise: Tensor
    pixels: Tensor

    @classmethod
    def at(cls, surface: ProposedSurface, maps: Tensor, rays: Tensor, inverse: Tensor, share: Tensor) -> _Seen:
        t = (1 / inverse).reshape(-1, 1)
        uv, z = surface.lines.project(rays.reshape(-1, 2), t)
        value, slope_u, slope_v, valid = sample_map(maps, uv)[..., 0].unflatten(-1, inverse.shape).unbind(1)
        e = (surface.lines.e * surface.distribution.inverse_step)[..., None, None].unbind(1)
        u, v, z = (x.unflatten(1, inverse.shape) for x in (*uv[:, :, 0].unbind(-1), z[..., 0]))
        # Along the epipolar line, u = (d_u + e_u / t) / (d_z + e_z / t), with the line of sight d and the epipole e.
        scale = 1 / (inverse * z)
        along_u, along_v = (e[0] - u * e[2]) * scale, (e[1] - v * e[2]) * scale
        share = share * (valid > 0.99) * (z > 0)
        total = share.sum(0)
        share = share / total.clamp(min=1e-6) * (total > _MOST)
        # NaN times a share of 0, behind a camera, would still be NaN.
        rise, pixels = slope_u * along_u + slope_v * along_v, torch.hypot(along_u, along_v)
        rise, pixels = (torch.where(share > 0, x, 0.0) for x in (rise, pixels))
        return cls(share, value - (share * value).sum(0), rise, pixels)

    def cost(self, window: int) -> Tensor:  # [h, w]
        """Return the mean squared error over a window."""
        return window_mean((self.share * self.error.square()).sum(0), window)


def _drawn_together(before: Tensor, after: Tensor, chunk: WeightedRays) -> Tensor:  # [R, S] z-depth
    """Move a chunk's samples with their rays' depths, [cells] in 1/z, and nearer to these."""
    apart = 1 / chunk.t - before[chunk.cells, None]
    reach = _PLANES_APART * chunk.surface.distribution.inverse_step
    drawn = apart * (1 - CLOSER * torch.exp(-((apart / reach) ** 2)))
    nearest, farthest = chunk.surface.distribution.inverse_range()
    return 1 / (after[chunk.cells, None] + drawn).clamp(farthest, nearest)
