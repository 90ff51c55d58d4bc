"""Random camera rigs for procedural scenes, as irregular as those of real hand-held captures."""

from __future__ import annotations

import numpy as np

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.geometry.rigs import look_at
from lift3d_cli.procedural.layouts import Arrangement

_UP = np.array([0.0, 0.0, 1.0])
# The smallest distance of a camera from a solid, world units.
_CLEARANCE = 0.25
_ATTEMPTS = 30


def random_rig(
    rig: str,
    arrangement: Arrangement,
    boxes: tuple[np.ndarray, np.ndarray, np.ndarray],
    size: tuple[int, int, int],
    rng: np.random.Generator,
) -> list[Camera]:
    """Place cameras that look at a scene's content, none inside or right in front of a solid.

    Args:
        rig: "forward" (one main direction), "arc" (around the content) or "walk" (ahead along +y).
        arrangement: where the content is and where cameras may be.
        boxes: centre [N, 3], axes [N, 3, 3] and half [N, 3] of the solids to keep clear of.
        size: number of views, width, height.
        rng: random numbers.
    """
    num_views, width, height = size
    place = {"forward": _forward, "arc": _arc, "walk": _walk}[rig]
    best: tuple[float, np.ndarray, np.ndarray] | None = None
    for _ in range(_ATTEMPTS):
        positions, targets = place(arrangement, num_views, rng)
        positions = np.clip(positions, arrangement.room[0] + _CLEARANCE, arrangement.room[1] - _CLEARANCE)
        clearance = float(_distances(positions, *boxes).min(initial=np.inf))
        if best is None or clearance > best[0]:
            best = (clearance, positions, targets)
        if clearance >= _CLEARANCE:
            break
    _, positions, targets = best
    focal = width / 2 / np.tan(np.radians(rng.uniform(42, 72)) / 2)
    middle = np.array([width, height]) * (0.5 + rng.normal(0, 0.005, 2))
    K = np.array([[focal, 0, middle[0]], [0, focal, middle[1]], [0, 0, 1]])
    roll = rng.normal(0, np.radians(2), (num_views, 3))
    poses = [look_at(p, t, _UP + r) for p, t, r in zip(positions, targets, roll, strict=True)]
    return [Camera(K, w2c, width, height) for w2c in poses]


def _direction(azimuth: np.ndarray | float, elevation: np.ndarray | float) -> np.ndarray:
    """Return unit vectors [..., 3]."""
    level = np.cos(elevation)
    return np.stack([level * np.cos(azimuth), level * np.sin(azimuth), np.sin(elevation) + 0 * np.asarray(azimuth)], -1)


def _forward(arrangement: Arrangement, num_views: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Place cameras in a disc across the viewing direction, a tenth to a third of the distance wide."""
    middle, spread = arrangement.azimuths
    away = _direction(middle + rng.uniform(-spread, spread), rng.uniform(0.1, 0.8))
    distance = rng.uniform(1.5, 3.2)
    right = np.cross(_UP, away)
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(away, right), away])
    radius = distance * rng.uniform(0.05, 0.18)
    phase = rng.permutation(num_views) / num_views * 2 * np.pi + rng.uniform(0, 2 * np.pi)
    reach = radius * np.sqrt(rng.uniform(0.1, 1, num_views))
    offsets = np.stack([reach * np.cos(phase), reach * np.sin(phase), 0.3 * rng.normal(0, radius, num_views)], 1)
    positions = arrangement.focus + distance * away + offsets @ axes
    turning = rng.uniform(0, 1)  # 0: axes parallel, 1: all look at one point
    targets = arrangement.focus + (1 - turning) * offsets @ axes + rng.normal(0, 0.08, (num_views, 3))
    return positions, targets


def _arc(arrangement: Arrangement, num_views: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Place cameras around the content, 4 to 14 degrees apart."""
    middle, spread = arrangement.azimuths
    step = np.radians(rng.uniform(4, 14))
    step = min(step, 2 * max(spread, 0.3) / max(num_views - 1, 1))
    along = (np.arange(num_views) - (num_views - 1) / 2) * step
    start = rng.uniform(-1, 1) * max(0.0, spread - np.abs(along).max())
    azimuths = middle + start + along + rng.normal(0, step / 6, num_views)
    elevations = rng.uniform(0.12, 0.9) + rng.normal(0, 0.05, num_views)
    radii = rng.uniform(1.5, 3.2) * np.exp(rng.normal(0, 0.04, num_views))
    positions = arrangement.focus + radii[:, None] * _direction(azimuths, elevations)
    return positions, arrangement.focus + rng.normal(0, 0.08, (num_views, 3))


def _walk(arrangement: Arrangement, num_views: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Place cameras along +y, each looking ahead."""
    step = rng.uniform(0.08, 0.3)
    count = np.arange(num_views)
    positions = np.stack([np.zeros(num_views), -1.2 + step * count, np.full(num_views, rng.uniform(0.3, 0.9))], 1)
    positions += rng.normal(0, 0.04, (num_views, 3))
    positions[:, 0] += rng.uniform(-0.2, 0.2)
    heading = rng.normal(0, 0.2) + rng.normal(0, 0.06, num_views)
    ahead = np.stack([np.sin(heading), np.cos(heading), rng.normal(-0.1, 0.05, num_views)], 1)
    return positions, positions + ahead


def _distances(points: np.ndarray, centre: np.ndarray, axes: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Return the distances [P, N] of points to the boxes around the solids; 0 inside."""
    local = np.einsum("pnj,njk->pnk", points[:, None] - centre[None], axes)
    return np.linalg.norm(np.maximum(np.abs(local) - half[None], 0), axis=2)
