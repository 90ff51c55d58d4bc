"""The order in which an interpolated path visits the photos."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lift3d_cli.geometry.cameras import Camera

# A given order of photos is a walk if it is not much longer than the short route found through the same photos.
_WALK_DETOUR = 1.5


def route(cameras: Sequence[Camera]) -> list[int]:
    """Order the cameras along a sensible route: as given if that is a walk, else a short one through all poses."""
    unit = length_unit(cameras)
    vectors = np.stack([np.append(camera.position / unit, camera.forward) for camera in cameras])
    distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    given = list(range(len(cameras)))
    short = _untangle(_nearest_first(distances), distances)
    return given if _length(given, distances) <= _WALK_DETOUR * _length(short, distances) else short


def length_unit(cameras: Sequence[Camera]) -> float:
    """Return the world length equivalent to turning by a radian: the cameras' spread (1 where they do not move)."""
    origins = np.stack([camera.position for camera in cameras])
    return float(np.sqrt(((origins - origins.mean(0)) ** 2).sum(1).mean())) or 1.0


def _length(order: Sequence[int], distances: np.ndarray) -> float:
    return float(distances[order[:-1], order[1:]].sum())


def _nearest_first(distances: np.ndarray) -> list[int]:
    """Build a greedy route over `distances` [N, N], from the camera farthest from all others (an end, if any)."""
    order = [int(np.argmax(distances.sum(1)))]
    left = np.ones(len(distances), dtype=bool)
    while len(order) < len(distances):
        left[order[-1]] = False
        order.append(int(np.argmin(np.where(left, distances[order[-1]], np.inf))))
    return order


def _untangle(order: list[int], distances: np.ndarray) -> list[int]:
    """Shorten an open route by 2-opt: reverse a section if that helps (greedy routes have long ways back)."""
    path = np.array(order)
    for _ in range(30):  # each round is O(N^2); a few hundred photos converge in about ten
        improved = False
        for i in range(len(path) - 2):
            ends = np.arange(i + 2, len(path) + 1)  # reverse path[i + 1 : end]
            last = path[ends - 1]
            after = path[np.minimum(ends, len(path) - 1)]
            has_after = ends < len(path)
            before = distances[path[i], path[i + 1]] + np.where(has_after, distances[last, after], 0.0)
            changed = distances[path[i], last] + np.where(has_after, distances[path[i + 1], after], 0.0)
            best = int(np.argmax(before - changed))
            if before[best] - changed[best] > 1e-9:
                path[i + 1 : ends[best]] = path[i + 1 : ends[best]][::-1].copy()
                improved = True
        if not improved:
            break
    return [int(index) for index in path]
