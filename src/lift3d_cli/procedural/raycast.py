"""Cast rays at solids: first at a sphere around each solid, then at the exact shape for the remaining pairs.

With lists of (ray, solid) pairs, the cost follows the number of hits, and there is no loop over solids, so the same
code is fast on CPU and CUDA.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lift3d_cli.procedural.solids import Solids, unit_intervals

# Ray-solid tests at a time: keeps the working set near a CPU's cache, and bounds the memory.
_PAIRS_AT_ONCE = 4_000_000
# Points on a CPU that are tested for shadow together: few enough to be close together, enough to be worth a call.
_POINTS_AT_ONCE = 4096
# Spheres are enlarged by this share of their distance, for the rounding of the float32 test.
_SPHERE_SLACK = 2e-3
# A shadow starts this far from the surface (world units; scenes are about 1 in size).
_SHADOW_START = 1e-3


@dataclass(frozen=True)
class Hits:
    """The first hits of R rays.

    Args:
        t: [R] ray parameter; infinite where nothing is hit.
        solid: [R] int64 index; -1 where nothing is hit.
    """

    t: Tensor
    solid: Tensor


def first_hits(solids: Solids, origin: Tensor, directions: Tensor) -> Hits:
    """Cast rays from one point.

    Args:
        solids: N solids.
        origin: [3] camera centre in the world.
        directions: [R, 3] world, any length (unit camera-z makes t a z-depth).
    """
    t = torch.empty_like(directions[:, 0])
    solid = torch.empty_like(t, dtype=torch.int64)
    step = max(1, _PAIRS_AT_ONCE // max(1, len(solids)))
    offset = solids.centre - origin
    distance_squared = (offset**2).sum(1)
    reach = (solids.bound + _SPHERE_SLACK * distance_squared.sqrt()) ** 2
    for start in range(0, len(directions), step):
        part = slice(start, start + step)
        d = directions[part]
        along = offset @ torch.nn.functional.normalize(d, dim=1).T  # [N, R]
        meets = distance_squared[:, None] - along * along <= reach[:, None]
        behind = (along < 0) & (distance_squared > reach)[:, None]
        index, ray = (meets & ~behind).nonzero().unbind(1)
        t[part], solid[part] = _nearest(solids, index, ray, origin, d)
    return Hits(t, solid)


def is_shadowed(solids: Solids, points: Tensor, own: Tensor, direction: Tensor) -> Tensor:
    """Tell whether light from one direction is blocked before it reaches the points.

    Args:
        solids: N solids; hollow ones are ignored.
        points: [P, 3] world, on surfaces that face the light.
        own: [P] int64 solid that each point is on: being convex, it does not shadow its lit side.
        direction: [3] unit vector towards the light.

    Returns:
        [P] bool.
    """
    blocked = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    step = max(1, _PAIRS_AT_ONCE // max(1, len(solids)))
    if points.device.type == "cpu":
        step = min(step, _POINTS_AT_ONCE)
    reach = solids.bound * (1 + _SPHERE_SLACK) + _SPHERE_SLACK
    across = _plane_across(direction)  # [2, 3]
    centres, ends = solids.centre @ across.T, solids.centre @ direction + solids.bound
    for start in range(0, len(points), step):
        part = points[start : start + step]
        flat, along = part @ across.T, part @ direction
        # Neighbouring points share a small box across the light, and most solids are outside of it.
        apart = torch.maximum(flat.amin(0) - centres, centres - flat.amax(0)).amax(1)
        near = ((apart <= reach) & (ends > along.min()) & ~solids.hollow).nonzero()[:, 0]
        # Two explicit squares: the expanded form would lose small spheres to rounding.
        x, y = (centres[near, axis, None] - flat[None, :, axis] for axis in (0, 1))
        meets = (x * x + y * y <= reach[near, None] ** 2) & (ends[near, None] > along[None])
        index, point = meets.nonzero().unbind(1)
        index = near[index]
        other = index != own[start + point]
        index, point = index[other], point[other]
        o = part[point]
        t_in, t_out = _pair_intervals(solids, index, o, direction.expand_as(o))
        hit = t_out > t_in.clamp_min(_SHADOW_START)
        blocked[start + point[hit]] = True
    return blocked


def _nearest(solids: Solids, index: Tensor, ray: Tensor, origin: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Return the smallest t and its solid per ray, from the pairs (index, ray)."""
    t_in, t_out = _pair_intervals(solids, index, origin, directions[ray])
    hollow = solids.hollow[index]
    t = torch.where(hollow, t_out, t_in)
    t = torch.where((t_in <= t_out) & (t > 0), t, torch.full_like(t, torch.inf))
    best = torch.full_like(directions[:, 0], torch.inf).scatter_reduce(0, ray, t, "amin")
    # Among equal t the highest index wins, so that the result does not depend on the order of scattering.
    winner = torch.where((t == best[ray]) & t.isfinite(), index, torch.full_like(index, -1))
    solid = torch.full_like(best, -1, dtype=torch.int64).scatter_reduce(0, ray, winner, "amax")
    return best, solid


def _pair_intervals(solids: Solids, index: Tensor, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Return the interval of t for P pairs of a solid and a ray.

    The ray is first moved to its point nearest to the solid's centre, where the quadratic of a far thin rod keeps its
    precision in float32.
    """
    offset = origins - solids.centre[index]
    moved = -(offset * directions).sum(1) / (directions * directions).sum(1)
    to_unit = solids.unit_from_world[index]
    o = torch.einsum("pij,pj->pi", to_unit, offset + moved[:, None] * directions)
    d = torch.einsum("pij,pj->pi", to_unit, directions)
    t_in, t_out = unit_intervals(solids.kind[index], solids.taper[index], o, d)
    return t_in + moved, t_out + moved


def _plane_across(direction: Tensor) -> Tensor:
    """Return two unit vectors [2, 3] at right angles to a unit vector [3] and to each other."""
    helper = torch.zeros_like(direction)
    helper[int(direction.abs().argmin())] = 1.0
    first = torch.nn.functional.normalize(torch.linalg.cross(direction, helper), dim=0)
    return torch.stack([first, torch.linalg.cross(direction, first)])
