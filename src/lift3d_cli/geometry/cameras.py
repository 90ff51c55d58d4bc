"""The camera: a value object in float64 numpy, so that reading scenes and paths needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lift3d_cli.errors import SceneError

MAX_DISTANCE = 1e12
"""World units from the origin, at most: squares and products of distances must stay finite, in float32 too."""
# Pixels: no lens has such a focal length, and its inverse and square must stay finite.
_LEAST_FOCAL, _MOST_PIXELS = 1e-3, 1e9
# The arrays of this many projected points stay in the processor's cache.
_POINTS_AT_ONCE = 2**14


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera. Axes: OpenCV (+X right, +Y down, +Z forward). Pixels: the top-left image corner is (0, 0).

    Args:
        K: [3, 3] intrinsics in pixels; the centre of the first pixel is (0.5, 0.5).
        w2c: [4, 4] rigid transform from world to camera.
        width, height: image size in pixels.

    Raises:
        SceneError: if a number is not finite or out of all bounds, a focal length not positive or the pose not rigid.
    """

    K: np.ndarray
    w2c: np.ndarray
    width: int
    height: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "K", np.array(self.K, dtype=np.float64))
        object.__setattr__(self, "w2c", np.array(self.w2c, dtype=np.float64))
        if self.K.shape != (3, 3) or self.w2c.shape != (4, 4):
            raise SceneError(f"camera has K {self.K.shape} and w2c {self.w2c.shape}, needs (3, 3) and (4, 4)")
        _check(self.K[None], self.w2c[None], np.array([[self.width, self.height]]))

    @classmethod
    def many(cls, K: np.ndarray, w2c: np.ndarray, sizes: np.ndarray) -> tuple[Camera, ...]:
        """Make N cameras at once, many times faster than one by one.

        Args:
            K, w2c: [N, 3, 3] and [N, 4, 4], float64.
            sizes: [N, 2] width and height in whole pixels.

        Raises:
            SceneError: as for one.
        """
        _check(K, w2c, sizes)
        cameras = []
        for k, pose, (width, height) in zip(K, w2c, sizes.tolist(), strict=True):
            camera = object.__new__(cls)
            camera.__dict__.update(K=k, w2c=pose, width=width, height=height)
            cameras.append(camera)
        return tuple(cameras)

    @property
    def c2w(self) -> np.ndarray:
        """[4, 4] camera to world."""
        out = np.eye(4)
        out[:3, :3] = self.w2c[:3, :3].T
        out[:3, 3] = self.position
        return out

    @property
    def position(self) -> np.ndarray:
        """[3] camera centre in the world."""
        return -self.w2c[:3, :3].T @ self.w2c[:3, 3]

    @property
    def forward(self) -> np.ndarray:
        """[3] unit viewing direction in the world."""
        return self.w2c[2, :3] / np.linalg.norm(self.w2c[2, :3])

    def resized(self, width: int, height: int) -> Camera:
        """Return the camera of an image resized to `width` x `height`: K scales, with no half-pixel term."""
        scale = np.diag([width / self.width, height / self.height, 1.0])
        return Camera(scale @ self.K, self.w2c, width, height)

    def project(self, xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Project world points [N, 3] to pixels uv [N, 2] and z-depth [N]; uv is NaN where z <= 0."""
        # Coordinate by coordinate in memory: several times faster with many points.
        cam = self.w2c[:3, :3] @ xyz.T + self.w2c[:3, 3:]
        z = cam[2]
        with np.errstate(divide="ignore", invalid="ignore"):
            uv = self.K[:2] @ cam / np.where(z > 0, z, np.nan)
        return uv.T, z

    def unproject(self, uv: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return the world points [N, 3] at pixels uv [N, 2] and z-depth [N]; the inverse of `project`."""
        rays = np.concatenate([uv, np.ones_like(uv[:, :1])], 1) @ np.linalg.inv(self.K).T
        return (rays * z[:, None]) @ self.w2c[:3, :3] + self.position


def _check(K: np.ndarray, w2c: np.ndarray, sizes: np.ndarray) -> None:
    """Raise a `SceneError` unless these are cameras: K [N, 3, 3], w2c [N, 4, 4], sizes [N, 2]."""
    if not (np.isfinite(K).all() and np.isfinite(w2c).all()):
        raise SceneError("camera has a NaN or infinite number")
    focal = K[:, [0, 1], [0, 1]]
    if focal.min() <= 0 or sizes.min() < 1:
        raise SceneError("camera has a focal length or image size that is not positive")
    if focal.min() < _LEAST_FOCAL or np.abs(K).max() > _MOST_PIXELS:
        raise SceneError("camera has a focal length or principal point that no lens has")
    if np.abs(w2c[:, :3, 3]).max() > MAX_DISTANCE:
        raise SceneError(f"camera is farther from the origin than {MAX_DISTANCE:g}. hint: scale the scene")
    rotation = w2c[:, :3, :3]
    # 1e-3 admits poses printed with four digits and rejects scaled, mirrored and singular ones.
    if np.abs(rotation @ rotation.swapaxes(1, 2) - np.eye(3)).max() > 1e-3 or np.linalg.det(rotation).min() < 0:
        raise SceneError("camera pose is not a rigid transform (its rotation is singular, scaled or mirrored)")


def seen_points(cameras: Sequence[Camera], points: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield for each camera the indices of the world points [N, 3] in its image, and their z-depths.

    The depths are, to the bit, those of `Camera.project`: numpy multiplies stacked matrices one by one.
    """
    at_once = max(1, _POINTS_AT_ONCE // max(1, len(points)))
    for i in range(0, len(cameras), at_once):
        some = cameras[i : i + at_once]
        K, w2c = np.stack([c.K for c in some]), np.stack([c.w2c for c in some])
        cam = w2c[:, :3, :3] @ points.T + w2c[:, :3, 3:]
        z = cam[:, 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            u, v = (K[:, :2] @ cam / np.where(z > 0, z, np.nan)[:, None]).swapaxes(0, 1)
            width, height = np.array([(c.width, c.height) for c in some]).T[..., None]
            inside = (z > 0) & (u >= 0) & (u <= width) & (v >= 0) & (v <= height)
        for mask, depths in zip(inside, z, strict=True):
            seen = np.flatnonzero(mask)
            yield seen, depths[seen]
