"""Properties of all cameras of one capture: the up direction, the point they look at, their lens.

Everything here moves with the scene: rotate, shift or scale the world and the results do the same. So no constant below
is a length; each is an angle or a ratio.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lift3d_cli.errors import SceneError
from lift3d_cli.geometry.cameras import Camera

# Pulls the estimated up direction to the photos' mean image-up where their right axes leave it open (all photos face
# one way). Small, so that an arc of photos that all look down is still not tilted by it (0.01 tilts it by a degree).
_UP_PRIOR = 0.01
# Sine of the roll from which on a photo counts as rolled (portrait next to landscape) and loses its vote on "up".
_ROLL_SCALE = 0.2
# Optical axes meet if they pass the common point closer than this share of the distance between the cameras:
# for parallel axes with jitter the ratio is about 1, for photos taken around an object 0.05 to 0.3.
_MEETING_RATIO = 0.6
# Distance of the focus, in units of the cameras' spread, where nothing else tells it. Hand-held forward-facing
# captures have a baseline of about a quarter of the distance.
_FALLBACK_FOCUS = 4.0


def up_direction(cameras: Sequence[Camera]) -> np.ndarray:
    """Estimate which way is up: [3] unit vector in the world, orthogonal to most cameras' right axes.

    People hold a camera tilted up or down but seldom rolled, so the right axes are level, while the mean of the
    image-up axes would lean wherever an arc of photos leans.
    """
    rights = np.stack([camera.w2c[0, :3] for camera in cameras])
    image_up = -np.mean([camera.w2c[1, :3] for camera in cameras], axis=0)
    weights = np.ones(len(cameras))
    up = image_up
    for _ in range(5):  # reweighting: each round trusts rolled photos less; it converges in 2 or 3
        scatter = (rights * weights[:, None]).T @ rights / weights.sum()
        up = np.linalg.eigh(scatter - _UP_PRIOR * np.outer(image_up, image_up))[1][:, 0]
        weights = 1.0 / (1.0 + (rights @ up / _ROLL_SCALE) ** 2)
    return up if up @ image_up >= 0 else -up


def look_at_point(cameras: Sequence[Camera]) -> np.ndarray | None:
    """Find the world point [3] that the optical axes pass closest to, or None where they do not meet in front.

    Least squares over the distances to the axes, reweighted so that a few stray photos do not pull it.
    """
    origins = np.stack([camera.position for camera in cameras])
    directions = np.stack([camera.forward for camera in cameras])
    across = np.eye(3) - directions[:, :, None] * directions[:, None, :]  # projects onto each axis' normal plane
    spread = float(np.median(np.linalg.norm(origins - np.median(origins, axis=0), axis=1)))
    if spread <= 0:
        return None
    weights = np.ones(len(cameras))
    for _ in range(10):
        system = (weights[:, None, None] * across).sum(0)
        values, vectors = np.linalg.eigh(system / weights.sum())
        if values[0] < np.sin(np.radians(1.0)) ** 2:  # axes within a degree of parallel do not fix a depth
            return None
        target = (weights[:, None] * np.einsum("nij,nj->ni", across, origins)).sum(0) / weights.sum()
        point = vectors @ ((vectors.T @ target) / values)
        misses = np.linalg.norm(np.einsum("nij,nj->ni", across, point - origins), axis=1)
        weights = 1.0 / (1.0 + (misses / (np.median(misses) + 1e-9 * spread)) ** 2)
    in_front = np.einsum("ni,ni->n", point - origins, directions) > 0
    if np.median(misses) > _MEETING_RATIO * spread or in_front.mean() < 0.5:
        return None
    return point


def focus_distance(cameras: Sequence[Camera]) -> float:
    """Guess the distance from the mean camera to what the photos show, in world units, from the poses alone."""
    origins = np.stack([camera.position for camera in cameras])
    point = look_at_point(cameras)
    if point is not None:
        return float(np.median(np.linalg.norm(origins - point, axis=1)))
    spread = float(np.sqrt(((origins - origins.mean(0)) ** 2).sum(1).mean()))
    return _FALLBACK_FOCUS * spread if spread > 0 else 1.0


def focus_point(cameras: Sequence[Camera], focus_depth: float | None = None) -> np.ndarray:
    """Return the point [3] to turn around: where the axes meet, else a point ahead of the mean camera.

    Args:
        cameras: at least one.
        focus_depth: z-depth of the content in world units, for cameras whose axes do not meet; None guesses it.

    Raises:
        SceneError: if the photos face in all directions, so that there is nothing to turn around.
    """
    point = look_at_point(cameras)
    if point is not None:
        return point
    ahead = np.mean([camera.forward for camera in cameras], axis=0)
    if np.linalg.norm(ahead) < 0.5:  # the mean of directions spread over more than a half circle
        raise SceneError("the photos do not look at a common point. hint: choose a path that interpolates the photos")
    origin = np.mean([camera.position for camera in cameras], axis=0)
    return origin + ahead / np.linalg.norm(ahead) * (focus_depth or focus_distance(cameras))


def median_lens(cameras: Sequence[Camera], width: int, height: int) -> np.ndarray:
    """Return K [3, 3] in pixels of the median photo, for an image of another size; square pixels, centred.

    Where the aspect differs from the photos', the picture is a crop of what the photos see, never more.
    """
    if width < 1 or height < 1:
        raise SceneError(f"image size {width}x{height} is not positive")
    relative_x = np.median([camera.K[0, 0] / camera.width for camera in cameras])
    relative_y = np.median([camera.K[1, 1] / camera.height for camera in cameras])
    focal = max(relative_x * width, relative_y * height)
    return np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])


def look_at(position: np.ndarray, target: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Return w2c [4, 4] of a level camera at `position` [3] that looks at `target` [3]; world up is `up` [3]."""
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, up)
    if np.linalg.norm(right) < 1e-6 * np.linalg.norm(up):  # straight up or down: any right axis is level
        right = np.cross(forward, np.eye(3)[np.argmin(np.abs(forward))])
    right /= np.linalg.norm(right)
    return w2c_from_axes(np.stack([right, np.cross(forward, right), forward]), position)


def w2c_from_axes(axes: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Build w2c [4, 4] from the camera's right, down and forward axes (rows of `axes` [3, 3]) and its centre [3]."""
    w2c = np.eye(4)
    w2c[:3, :3] = axes
    w2c[:3, 3] = -axes @ position
    return w2c
