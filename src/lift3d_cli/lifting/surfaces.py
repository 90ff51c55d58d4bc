"""The photos' own surfaces: where each photo sees something, found once per photo, so that every target can use it.

A sample behind a photo's surface is hidden from it, one well before it lies in empty space, and one on it is where the
target most likely has its surface too (the geometric consistency of multi-view stereo: Schönberger et al. 2016).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.geometry.grids import sample_map
from lift3d_cli.lifting.proposal.protocol import DepthDistribution

SURFACE_STRIDE = 2
"""Pixels of a source photo per cell of its surface, as `SourceViews` have it."""
NUM_SURFACE_CHANNELS = 3
"""Of a surface: 1/z in the photo's camera, how exact that is (in the same unit), how sure (0 where it is unknown)."""
# Of a depth map that people have: how exact 1/z is, as part of itself.
_EXACTNESS = 0.002
# In standard deviations: beyond, a sample is off the surface; and how far off is still near.
_OFF, _NEAR = 2.0, 3.0


def surface_of(distribution: DepthDistribution) -> Tensor:  # [*B, NUM_SURFACE_CHANNELS, h, w]
    """Find the likeliest surface of each of Stage I's columns, to a fraction of a plane, and its probability.

    A mean across a depth edge would lie between the two surfaces; the likeliest one is one of them.
    """
    probability = distribution.probability
    num_planes = probability.shape[-3]
    columns = probability.movedim(-3, -1)
    mass = F.avg_pool1d(columns.flatten(0, -2)[:, None], 3, 1, 1)[:, 0].reshape(columns.shape) * 3
    sure, plane = mass.max(-1, keepdim=True)
    around = (plane + torch.arange(-1, 2, device=plane.device)).clamp(0, num_planes - 1)
    shares = columns.gather(-1, around)
    position = (shares * around).sum(-1) / shares.sum(-1).clamp(min=1e-9)
    near, far = (x[..., 0] if isinstance(x, Tensor) else x for x in distribution.inverse_range())
    if isinstance(near, Tensor):
        near, far = near[..., None], far[..., None]
    step = (near - far) / max(num_planes - 1, 1)
    return torch.stack([near - position * step, torch.zeros_like(position) + step, sure[..., 0].clamp(max=1)], -3)


def known_surface(depth: Tensor) -> Tensor:  # [h, w] z-depth, 0 where unknown, to [NUM_SURFACE_CHANNELS, h, w]
    """Make a surface of a depth map that is known to be right."""
    inverse = torch.where(depth > 0, 1 / depth, 0.0)
    return torch.stack([inverse, _EXACTNESS * inverse, (depth > 0).float()])


def surface_at_size(surface: Tensor, width: int, height: int) -> Tensor:
    """Give a photo's surface [NUM_SURFACE_CHANNELS, h, w] the cells that it has at a size in pixels; none is mixed."""
    rows, columns = (
        ((torch.arange(math.ceil(n / SURFACE_STRIDE)) + 0.5) * SURFACE_STRIDE / n * cells).long().clamp(max=cells - 1)
        for n, cells in ((height, surface.shape[-2]), (width, surface.shape[-1]))
    )
    return surface[:, rows.to(surface.device)[:, None], columns.to(surface.device)]


@dataclass(frozen=True)
class SurfaceEvidence:
    """What the source views' surfaces say about points, each [*B, V, *P] in [0, 1]; all 0 where one is unknown.

    Args:
        on: the point is on the surface.
        near: it is near to it.
        before: it is well before it, in empty space.
        behind: it is behind it, hidden.
        sure: how sure the surface is.
        offset: by how much it is before (> 0) or behind, in standard deviations, within 8 and times `sure`.
    """

    on: Tensor
    near: Tensor
    before: Tensor
    behind: Tensor
    sure: Tensor
    offset: Tensor

    def flattened(self) -> SurfaceEvidence:
        """Put the points' last two axes together."""
        return SurfaceEvidence(*(getattr(self, f.name).flatten(-2) for f in fields(self)))


def surface_evidence(
    surfaces: Tensor,  # [*B, V, NUM_SURFACE_CHANNELS, h, w]
    uv: Tensor,  # [*B, V, R, S, 2] pixels of the source photos
    z: Tensor,  # [*B, V, R, S] z-depth in the source's camera
    t: Tensor,  # [*B, R, S] z-depth in the target camera
    step: float | Tensor,  # of the target's planes in 1/z; of B targets, [B]
) -> SurfaceEvidence:
    """Compare points with the surface that each source view sees in their place."""
    inverse, exactness, sure = sample_map(surfaces, uv / SURFACE_STRIDE, "nearest").unbind(-3)
    z = z.clamp(min=torch.finfo(z.dtype).tiny)
    if isinstance(step, Tensor):
        step = step[:, None, None, None]
    # A plane of the target, seen from the source as if from the same direction; the two errors are independent.
    deviation = torch.hypot(exactness, step * (t[..., None, :, :] / z).square())
    offset = ((1 / z - inverse) / deviation).clamp_(-8, 8)
    squared = offset.square()
    return SurfaceEvidence(
        sure * torch.exp(-squared / 2),
        sure * torch.exp(-squared / (2 * _NEAR**2)),
        sure * torch.sigmoid(2 * (offset - _OFF)),
        sure * torch.sigmoid(2 * (-offset - _OFF)),
        sure,
        sure * offset,
    )
