"""Points of the photos' own surfaces that other photos see too: where two photos can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.geometry.epipolar import EpipolarLines
from lift3d_cli.geometry.grids import inside, pixel_centers, sample_map
from lift3d_cli.lifting.sources import SourceViews
from lift3d_cli.lifting.surfaces import SURFACE_STRIDE

# Points across a photo; the fewest points that tell anything about two photos.
_POINTS_ACROSS, _FEWEST_POINTS = 48, 50
# A point is on another view's surface within so many standard deviations, where both are as sure as this.
_ON, _SURE = 2.0, 0.5
# Longer side of the pictures that are compared, in pixels: they forgive poses that are off by a pixel of the photos.
_SIZE = 240


@dataclass(frozen=True)
class Covisible:
    """N points of one view's surface that are on another view's surface, too.

    Args:
        uv: [N, 2] pixels of the view.
        other_uv: [N, 2] pixels of the other view.
    """

    uv: Tensor
    other_uv: Tensor


@torch.no_grad()
def covisible_points(sources: SourceViews, most: int | None = None) -> Mapping[tuple[int, int], Covisible]:
    """Find, by (view, other view), the points of a view's surface that the other one sees, where they are enough.

    Args:
        sources: V views; without surfaces, no pair has any.
        most: of each view, the most other views to keep, those that see most of it; None for all.
    """
    found: dict[tuple[int, int], Covisible] = {}
    views = range(len(sources.cameras) if sources.surfaces is not None else 0)
    for view in views:
        others = [i for i in views if i != view]
        if others:
            seen = sorted(_seen_by(sources, view, others), key=lambda pair: -len(pair[1].uv))
            found |= {(view, other): points for other, points in seen[:most]}
    return found


def _seen_by(sources: SourceViews, view: int, others: list[int]) -> list[tuple[int, Covisible]]:
    camera, surfaces = sources.cameras[view], sources.surfaces
    columns, rows = (-(-n * _POINTS_ACROSS // max(camera.width, camera.height)) for n in (camera.width, camera.height))
    spacing = torch.tensor([camera.width / columns, camera.height / rows], device=surfaces.device)
    points = pixel_centers(columns, rows, surfaces.device) * spacing  # [R, 2]
    inverse, exactness, sure = sample_map(surfaces[view, None], points[None] / SURFACE_STRIDE, "nearest")[0]
    lines = EpipolarLines.between(camera, [sources.cameras[i] for i in others], surfaces.device)
    uv, z = lines.project(points, 1 / inverse.clamp(min=1e-9)[:, None])  # [V - 1, R, 1, ...]
    uv, z = uv[..., 0, :], z[..., 0]
    there = sample_map(surfaces[others], uv / SURFACE_STRIDE, "nearest")
    offset = (1 / z - there[:, 0]).abs() / torch.hypot(there[:, 1], exactness)
    is_on = (sure > _SURE) & (there[:, 2] > _SURE) & (z > 0) & (offset < _ON)
    found = []
    for i, other in enumerate(others):
        counts = is_on[i] & inside(uv[i], sources.cameras[other].width, sources.cameras[other].height)
        if int(counts.sum()) >= _FEWEST_POINTS:
            found.append((other, Covisible(points[counts], uv[i][counts])))
    return found


@dataclass(frozen=True)
class ComparedMaps:
    """Maps of the views' pictures at the size that is compared, sampled at pixels of the views.

    Args:
        maps: [V, C, h, w].
        scale: (x, y) pixels of the maps per pixel of the views.
    """

    maps: Tensor
    scale: Tensor

    @classmethod
    def of(cls, images: Tensor) -> ComparedMaps:
        """Make images [V, 3, H, W] as small as they are compared."""
        factor = min(1.0, _SIZE / max(images.shape[-2:]))
        size = [max(1, round(n * factor)) for n in images.shape[-2:]]
        maps = F.interpolate(images, size=size, mode="area") if factor < 1 else images
        scale = [a / b for a, b in zip(reversed(size), reversed(images.shape[-2:]), strict=True)]
        return cls(maps, torch.tensor(scale, device=images.device))

    def sample(self, view: int, uv: Tensor) -> Tensor:  # [N, 2] to [C, N]
        """Sample the map of a view."""
        return sample_map(self.maps[view, None], (uv * self.scale)[None])[0]
