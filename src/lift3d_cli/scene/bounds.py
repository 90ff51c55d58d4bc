"""Near and far: the depth range that a target camera has to search, from surface points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.scene.scene import Scene, View
from lift3d_cli.scene.triangulation import triangulate_views

# The nearest and farthest half percent are mostly wrong matches.
_PERCENTILES = (0.5, 99.5)
# Surfaces without texture have no points: the ground in front of the camera, blurred things behind the last point.
# In front, a fifth of the depth is added. Behind, range is cheap, as samples are spread over inverse depth: a quarter
# of the inverse range is added, at least a quarter of the depth and at most as much again.
_NEAR_MARGIN = 0.8
_FAR_INVERSE_MARGIN, _FAR_MIN_MARGIN, _FAR_MAX_MARGIN = 0.25, 1.25, 2.0
# Fewer points than this say little about a view; a larger set is used instead.
_MIN_POINTS = 20
# Points right in front of a camera that moves among them must not pull near towards 0: the samples are spread over
# inverse depth, and most would be wasted there.
_MAX_FAR_OVER_NEAR = 1000.0
# Without points, the depth range around the place that the cameras look at, as factors of its distance.
_LOOK_AT_NEAR, _LOOK_AT_FAR = 0.25, 4.0
# Without a common place, factors of the camera path's extent: outward views of a room, or a far landscape.
_SPREAD_NEAR, _SPREAD_FAR = 0.5, 50.0


def surface_points(
    scene: Scene, *, views: Sequence[View] | None = None, max_points: int = 100_000
) -> np.ndarray:  # [N, 3] world
    """Return surface points: those of the scene's file, else triangulated from the photos (seconds, not cached).

    Args:
        scene: the scene.
        views: triangulate from these only, so that held-out photos are not used; None for all of them. Points from the
                scene's file are used whatever the views, like its poses.
        max_points: the most points; more are thinned out evenly.

    Returns:
        [N, 3]; N is 0 if the photos have nothing in common.

    Raises:
        SceneError: if a photo cannot be read.
    """
    points = scene.points
    if points is None or not len(points):
        points = triangulate_views(scene.views if views is None else views)
    return points[:: max(1, -(-len(points) // max_points))]


def depth_range(camera: Camera, points: np.ndarray | None, views: Sequence[View]) -> tuple[float, float]:
    """Find the depth range of a camera, see `sourced_depth_range`."""
    return sourced_depth_range(camera, points, views)[0]


def sourced_depth_range(
    camera: Camera, points: np.ndarray | None, views: Sequence[View], seen: np.ndarray | None = None
) -> tuple[tuple[float, float], str]:
    """Find the z-depths (near, far) between which a camera sees surfaces, with 0 < near < far, both finite.

    Uses the first of these with enough data: points in the image, points in an image three times as wide and high, all
    points in front; the depth ranges that the files give for the nearest views; the place that the views look at.

    Args:
        camera: any camera, not necessarily one of the scene.
        points: [N, 3] world, from `surface_points`, or None.
        views: the views of the scene.
        seen: [M] z-depths of the points in the camera's image, from `seen_points`, if they are known.

    Returns:
        (near, far), and what they come from: "points", "file" or "guess".
    """
    if seen is not None and len(seen) >= _MIN_POINTS:
        return _with_margins(*_outermost(seen)), "points"
    if points is not None and len(points):
        uv, z = camera.project(points)
        for widening in (0.0, 1.0, np.inf):
            chosen = z[_is_inside(uv, z, camera, widening)]
            if len(chosen) >= _MIN_POINTS:
                return _with_margins(*_outermost(chosen)), "points"
    stated = [view for view in views if view.depth_range is not None]
    if stated:
        near_views = sorted(stated, key=lambda v: float(np.linalg.norm(v.camera.position - camera.position)))[:4]
        ranges = [view.depth_range for view in near_views if view.depth_range is not None]
        return _with_margins(min(r[0] for r in ranges), max(r[1] for r in ranges)), "file"
    return _range_from_cameras(camera, [view.camera for view in views]), "guess"


def _outermost(depths: np.ndarray) -> tuple[float, float]:
    """Return the percentiles of at least two depths; what `np.percentile` returns, in a third of its time."""
    places = [(len(depths) - 1) * (percent / 100) for percent in _PERCENTILES]
    ranked = np.partition(depths, [n for place in places for n in (int(place), int(place) + 1)])
    low, high = (_between(*ranked[int(place) : int(place) + 2].tolist(), place - int(place)) for place in places)
    return low, high


def _between(low: float, high: float, share: float) -> float:
    """Interpolate as numpy does, to the bit."""
    return low + (high - low) * share if share < 0.5 else high - (high - low) * (1 - share)


def _is_inside(uv: np.ndarray, z: np.ndarray, camera: Camera, widening: float) -> np.ndarray:  # [N] bool
    """Return True for points in front that project into the image, widened on each side by this many image sizes."""
    inside = z > 0
    if np.isfinite(widening):
        for place, size in zip(uv.T, (camera.width, camera.height), strict=True):
            with np.errstate(invalid="ignore"):
                inside &= (place >= -widening * size) & (place <= (1 + widening) * size)
    return inside


def _with_margins(low: float, high: float) -> tuple[float, float]:
    """Widen the range [low, high] of surface depths, keeping it ordered and away from 0."""
    inverse_far = 1 / high - _FAR_INVERSE_MARGIN * (1 / low - 1 / high)
    far = max(high * _FAR_MIN_MARGIN, 1 / max(inverse_far, 1 / (high * _FAR_MAX_MARGIN)))
    near = max(low * _NEAR_MARGIN, far / _MAX_FAR_OVER_NEAR)
    return float(near), float(far)


def _range_from_cameras(camera: Camera, cameras: Sequence[Camera]) -> tuple[float, float]:
    """Guess a range from the cameras' positions and directions: wide, but including what they were pointed at."""
    positions = np.stack([c.position for c in cameras] or [camera.position])
    forwards = np.stack([c.forward for c in cameras] or [camera.forward])
    spread = float(np.linalg.norm(positions - positions.mean(axis=0), axis=1).max())
    # The point nearest to all optical axes: sum of (I - d d^T) (x - o) = 0. Parallel axes have none.
    across = np.eye(3) - forwards[:, :, None] * forwards[:, None, :]
    normal = across.sum(axis=0)
    if np.linalg.cond(normal) < 1e4:
        target = np.linalg.solve(normal, np.einsum("nij,nj->i", across, positions))
        # In a room photographed outwards, the axes meet among the cameras, behind half of them.
        depths = ((target - positions) * forwards).sum(axis=1)
        depth = float(camera.project(target[None])[1][0])
        if depths.min() > 0 and depth > 0.1 * spread and depth > 0:
            return depth * _LOOK_AT_NEAR, depth * _LOOK_AT_FAR
    spread = spread or 1.0
    return spread * _SPREAD_NEAR, spread * _SPREAD_FAR
