"""Source views that contradict the others: their poses have drifted, or what they show has moved since.

Blended with the others, one such view spoils the whole picture. On `dorm_room`, a walk that comes back to where it
began, the photos of the second pass cost a view of the first one 10 dB.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.geometry.epipolar import EpipolarLines
from lift3d_cli.geometry.grids import inside, pixel_centers, sample_map
from lift3d_cli.lifting.sources import ENOUGH_VIEWS, SourceViews, contrast
from lift3d_cli.lifting.surfaces import SURFACE_STRIDE

# A view contradicts from this many times their own deviation, which counts as no less than this. Measured: photos of
# the same pass 0.10 to 0.18, of a wide baseline 0.15 to 0.28, of a pass with drifted poses 0.22 to 0.37 beside 0.10.
# Drifted views come in numbers, so that where one is found less is asked of the others: one left of four cost 8 dB.
_TIMES, _TIMES_BESIDE_ANOTHER, _LEAST_DEVIATION = 2.0, 1.5, 0.12
# Longer side of the pictures that are compared, in pixels; points across a photo; the fewest points that tell anything.
_SIZE, _POINTS_ACROSS, _FEWEST_POINTS = 240, 48, 50
# A point is on another view's surface within so many standard deviations, where both are as sure as this.
_ON, _SURE = 2.0, 0.5


@torch.no_grad()
def contradicting(sources: SourceViews) -> list[int]:
    """Find the views that contradict the first three, by the look of their own surfaces' points in those.

    Args:
        sources: V views of one target, the best first, with surfaces; without, none contradicts.

    Returns:
        Their indices, all from 3 on.
    """
    num_views = len(sources.cameras)
    if sources.surfaces is None or num_views <= ENOUGH_VIEWS:
        return []
    compared = _small_contrast(sources.images)
    deviations = [_least_deviation(sources, compared, view) for view in range(num_views)]
    usual = max(_LEAST_DEVIATION, sorted(deviations[:ENOUGH_VIEWS])[ENOUGH_VIEWS // 2])
    if max(deviations[ENOUGH_VIEWS:]) <= _TIMES * usual:
        return []
    return [view for view in range(ENOUGH_VIEWS, num_views) if deviations[view] > _TIMES_BESIDE_ANOTHER * usual]


def _small_contrast(images: Tensor) -> Tensor:  # [V, 3, H, W] to the same, smaller
    """Return the contrast at the size that is compared."""
    factor = min(1.0, _SIZE / max(images.shape[-2:]))
    if factor < 1:
        size = [max(1, round(n * factor)) for n in images.shape[-2:]]
        images = F.interpolate(images, size=size, mode="area")
    return contrast(images)


def _least_deviation(sources: SourceViews, compared: Tensor, view: int) -> float:
    """Compare a view with the first three that are others; 0 where too few points are in any of them."""
    camera, surfaces = sources.cameras[view], sources.surfaces
    others = [i for i in range(ENOUGH_VIEWS) if i != view]
    columns, rows = (-(-n * _POINTS_ACROSS // max(camera.width, camera.height)) for n in (camera.width, camera.height))
    spacing = torch.tensor([camera.width / columns, camera.height / rows], device=surfaces.device)
    points = pixel_centers(columns, rows, surfaces.device)[None] * spacing  # [1, R, 2]
    inverse, exactness, sure = sample_map(surfaces[view, None], points / SURFACE_STRIDE, "nearest")[0]
    lines = EpipolarLines.between(camera, [sources.cameras[i] for i in others], surfaces.device)
    uv, z = lines.project(points[0], 1 / inverse.clamp(min=1e-9)[:, None])  # [2, R, 1, ...]
    uv, z = uv[..., 0, :], z[..., 0]
    there = sample_map(surfaces[others], uv / SURFACE_STRIDE, "nearest")
    offset = (1 / z - there[:, 0]).abs() / torch.hypot(there[:, 1], exactness)
    is_on = (sure > _SURE) & (there[:, 2] > _SURE) & (z > 0) & (offset < _ON)
    factor = compared.shape[-1] / sources.images.shape[-1], compared.shape[-2] / sources.images.shape[-2]
    scale = torch.tensor(factor, device=uv.device)
    apart = (sample_map(compared[others], uv * scale) - sample_map(compared[view, None], points * scale)).abs().mean(1)
    found = []
    for i, other in enumerate(others):
        size = sources.cameras[other].width, sources.cameras[other].height
        counts = is_on[i] & inside(uv[i], *size)
        if int(counts.sum()) >= _FEWEST_POINTS:
            found.append(float(apart[i][counts].median()))
    return min(found, default=0.0)
