"""Camera paths derived from the photos' cameras. Pure functions on lists of `Camera`, in numpy, to start fast.

Novel views are only as good as the photos around them, so every path stays where photos were taken. All paths are
equivariant: a rigid motion or a change of scale of the world does the same to the path.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lift3d_cli.errors import SceneError
from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.geometry.rigs import (
    focus_distance,
    focus_point,
    look_at,
    median_lens,
    up_direction,
    w2c_from_axes,
)
from lift3d_cli.geometry.routes import length_unit, route

# Photos around an object with no gap wider than this count as a full circle.
_FULL_CIRCLE_GAP = np.radians(60.0)
# Width of the window in which an orbit averages the photos' height and radius.
_ORBIT_WINDOW = np.radians(30.0)
# Photos that see a spiral's subject from a similar side: if wider, the average pose would be inside an arc's chord.
_SPIRAL_CONE = np.radians(40.0)
# Largest radius of a spiral, in focus depths.
_SPIRAL_REACH = 0.1
_FINE_STEPS = 24  # samples per spline segment from which constant speed is computed


def orbit(
    cameras: Sequence[Camera], num_poses: int, width: int, height: int, focus_depth: float | None = None
) -> list[Camera]:
    """Turn around the point that the photos look at, at the mean height and radius of the photos nearby.

    A full circle where the photos leave no gap wider than 60 degrees, else a sweep of the arc that they cover.

    Args:
        cameras: the photos' cameras, at least one.
        num_poses: number of poses, evenly spaced in angle.
        width, height: size of the pictures, in pixels; the field of view is the median photo's.
        focus_depth: z-depth of the content in world units, used where the optical axes do not meet.

    Raises:
        SceneError: if there is no point to turn around, or a number is out of range.
    """
    _check(cameras, num_poses)
    K, up, target = median_lens(cameras, width, height), up_direction(cameras), focus_point(cameras, focus_depth)
    offsets = np.stack([camera.position for camera in cameras]) - target
    heights = offsets @ up
    level = offsets - heights[:, None] * up
    radii = np.linalg.norm(level, axis=1)
    if radii.max() <= 1e-6 * np.linalg.norm(offsets, axis=1).max():
        raise SceneError("all photos look straight down at one point. hint: choose a spiral or interpolated path")
    sideways = radii >= 0.2 * np.median(radii)  # a photo from directly above has no meaningful azimuth
    heights, level, radii = heights[sideways], level[sideways], radii[sideways]
    east = level[np.argmax(radii)] / radii.max()
    north = np.cross(up, east)
    azimuths = np.arctan2(level @ north, level @ east)
    poses = []
    for azimuth in _sweep(azimuths, num_poses):
        difference = np.angle(np.exp(1j * (azimuths - azimuth)))
        weights = np.exp(-0.5 * (difference / _ORBIT_WINDOW) ** 2)
        radius, rise = weights @ radii / weights.sum(), weights @ heights / weights.sum()
        position = target + radius * (np.cos(azimuth) * east + np.sin(azimuth) * north) + rise * up
        poses.append(Camera(K, look_at(position, target, up), width, height))
    return poses


def spiral(
    cameras: Sequence[Camera],
    num_poses: int,
    width: int,
    height: int,
    focus_depth: float | None = None,
    turns: float = 2.0,
    scale: float = 1.0,
) -> list[Camera]:
    """Circle in front of the subject around the average pose of the photos that look in its direction.

    Radii are the 90th percentiles of those photos' offsets along their three principal directions: LLFF takes the
    image's axes, but then the path leaves the hull of photos that lie on a diagonal or recede to one side. A radius is
    at most a
    tenth of the focus depth, 6 degrees: within the hull of photos taken from everywhere, most places are near none of
    them.

    Args:
        cameras: the photos' cameras, at least one.
        num_poses: number of poses, evenly spaced in phase; the path closes on itself.
        width, height: size of the pictures, in pixels; the field of view is the median photo's.
        focus_depth: z-depth of the point that all poses look at, in world units; None guesses it from the poses.
        turns: number of turns.
        scale: factor on the radii.
    """
    _check(cameras, num_poses)
    if not turns > 0 or not scale > 0 or (focus_depth is not None and not focus_depth > 0):
        raise SceneError("turns, scale and focus depth of a spiral must be positive")
    K = median_lens(cameras, width, height)
    near = _similar_views(cameras)
    depth = focus_depth if focus_depth is not None else focus_distance(cameras)
    axes, centre = _average_axes(near), np.mean([camera.position for camera in near], axis=0)
    offsets = (np.stack([camera.position for camera in near]) - centre) @ axes.T
    # Photos in a row, or one photo: a slight movement shows depth without leaving what they see. As a minimum scatter,
    # it also gives a direction of movement where the photos do not.
    least = np.array([0.02, 0.01, 0.0]) * depth
    main = np.linalg.eigh(offsets.T @ offsets / len(near) + np.diag(least**2) / 2)[1].T[::-1]
    main *= np.sign(main[np.arange(3), np.abs(main).argmax(1)])[:, None]  # eigenvectors have arbitrary signs
    radii = np.minimum(np.percentile(np.abs(offsets @ main.T), 90, axis=0), _SPIRAL_REACH * depth)
    radii = scale * np.maximum(radii, least)
    target = centre + depth * axes[2]
    poses = []
    for phase in np.arange(num_poses) / num_poses * 2 * np.pi:
        swing = np.array([np.cos(turns * phase), np.sin(turns * phase), np.sin(phase)])
        position = centre + (radii * swing) @ main @ axes
        poses.append(Camera(K, look_at(position, target, -axes[1]), width, height))
    return poses


def interpolate(cameras: Sequence[Camera], num_poses: int, width: int, height: int) -> list[Camera]:
    """Fly through the photos' poses at constant speed, on a smooth curve from the first to the last of a short route.

    Catmull-Rom through positions and (sign-aligned, renormalised) quaternions: piecewise slerp would change the speed
    of turning abruptly at every photo.

    Args:
        cameras: the photos' cameras in name order, at least one. That order is kept where it is a walk.
        num_poses: number of poses, evenly spaced in pose distance; the first and last photo's poses are among them.
        width, height: size of the pictures, in pixels; the field of view is the median photo's.
    """
    _check(cameras, num_poses)
    K = median_lens(cameras, width, height)
    unit = length_unit(cameras)
    knots = _pose_vectors([cameras[index] for index in route(cameras)], unit)
    knots = knots[np.append(True, np.linalg.norm(np.diff(knots, axis=0), axis=1) > 1e-6)]
    curve = _catmull_rom(knots)
    curve[:, 3:] /= np.linalg.norm(curve[:, 3:], axis=1, keepdims=True)
    travelled = np.append(0.0, np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1)))
    stops = np.linspace(0.0, travelled[-1], num_poses)
    poses = []
    for column in np.stack([np.interp(stops, travelled, values) for values in curve.T], axis=1):
        axes = _axes_from_quaternion(column[3:])
        poses.append(Camera(K, w2c_from_axes(axes, column[:3] * unit), width, height))
    return poses


def views(
    cameras: Sequence[Camera], every: int = 1, width: int | None = None, height: int | None = None
) -> list[Camera]:
    """Return the photos' own cameras, each with its own lens: every `every`-th, resized where a size is given.

    A size of another aspect ratio crops or extends the photo around its principal point; pixels keep their shape.
    """
    if every < 1:
        raise SceneError(f"cannot take every {every}th photo: the step must be 1 or more")
    chosen = list(cameras)[::every]
    if width is None or height is None:
        return chosen
    resized = []
    for camera in chosen:
        factor = max(width / camera.width, height / camera.height)
        K = np.diag([factor, factor, 1.0]) @ camera.K
        K[:2, 2] += np.array([width - camera.width * factor, height - camera.height * factor]) / 2
        resized.append(Camera(K, camera.w2c, width, height))
    return resized


def _check(cameras: Sequence[Camera], num_poses: int) -> None:
    if not cameras:
        raise SceneError("a path needs at least one photo with a pose")
    if num_poses < 1:
        raise SceneError(f"a path of {num_poses} poses is empty. hint: ask for 1 or more")


def _sweep(azimuths: np.ndarray, num_poses: int) -> np.ndarray:
    """Return evenly spaced azimuths [num_poses] over the circle or arc that `azimuths` [N] cover, in radians."""
    ordered = np.sort(azimuths)
    gaps = np.diff(np.append(ordered, ordered[0] + 2 * np.pi))
    widest = int(np.argmax(gaps))
    if gaps[widest] <= _FULL_CIRCLE_GAP:
        return azimuths[0] + np.arange(num_poses) / num_poses * 2 * np.pi
    start, covered = ordered[(widest + 1) % len(ordered)], 2 * np.pi - gaps[widest]
    return start + covered * (np.linspace(0.0, 1.0, num_poses) if num_poses > 1 else np.array([0.5]))


def _similar_views(cameras: Sequence[Camera]) -> list[Camera]:
    """Return the cameras that look in a similar direction as the most central one."""
    origins = np.stack([camera.position for camera in cameras])
    central = cameras[int(np.argmin(np.linalg.norm(origins[:, None] - origins[None], axis=2).sum(1)))]
    return [camera for camera in cameras if camera.forward @ central.forward >= np.cos(_SPIRAL_CONE)]


def _average_axes(cameras: Sequence[Camera]) -> np.ndarray:
    """Return right, down and forward axes (rows) [3, 3] closest to all cameras' axes, in the least-squares sense."""
    u, _, vt = np.linalg.svd(np.mean([camera.w2c[:3, :3] for camera in cameras], axis=0))
    return u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt


def _pose_vectors(cameras: Sequence[Camera], unit: float) -> np.ndarray:
    """Return positions in units of `unit` and quaternions [N, 7], with signs chosen so that neighbours are close."""
    quaternions = [_quaternion_from_axes(camera.w2c[:3, :3]) for camera in cameras]
    for i in range(1, len(quaternions)):
        if quaternions[i] @ quaternions[i - 1] < 0:
            quaternions[i] = -quaternions[i]
    return np.stack([np.append(c.position / unit, q) for c, q in zip(cameras, quaternions, strict=True)])


def _quaternion_from_axes(R: np.ndarray) -> np.ndarray:
    """Convert a rotation [3, 3], even a slightly inexact one, to a unit quaternion [x, y, z, w] (Bar-Itzhack 2000)."""
    symmetric = np.zeros((4, 4))
    symmetric[:3, :3] = R + R.T - np.trace(R) * np.eye(3)
    symmetric[3, :3] = symmetric[:3, 3] = [R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]]
    symmetric[3, 3] = np.trace(R)
    return np.linalg.eigh(symmetric)[1][:, 3]


def _axes_from_quaternion(quaternion: np.ndarray) -> np.ndarray:
    """Convert a quaternion [x, y, z, w] to a rotation [3, 3]."""
    x, y, z, w = quaternion / np.linalg.norm(quaternion)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross


def _catmull_rom(knots: np.ndarray) -> np.ndarray:
    """Return points [M, D] on the centripetal Catmull-Rom curve through `knots` [N, D]; it hardly overshoots."""
    if len(knots) == 1:
        return knots.copy()
    steps = np.sqrt(np.linalg.norm(np.diff(knots, axis=0), axis=1))[:, None]
    slopes = np.diff(knots, axis=0) / steps
    inner = slopes[:-1] - (knots[2:] - knots[:-2]) / (steps[1:] + steps[:-1]) + slopes[1:]
    tangents = np.concatenate([slopes[:1], inner, slopes[-1:]])
    t = (np.arange(_FINE_STEPS) / _FINE_STEPS)[None, :, None]
    start, end, scale = knots[:-1, None], knots[1:, None], steps[:, None]
    curve = (
        (2 * t**3 - 3 * t**2 + 1) * start
        + (t**3 - 2 * t**2 + t) * scale * tangents[:-1, None]
        + (3 * t**2 - 2 * t**3) * end
        + (t**3 - t**2) * scale * tangents[1:, None]
    )
    return np.concatenate([curve.reshape(-1, knots.shape[1]), knots[-1:]])
