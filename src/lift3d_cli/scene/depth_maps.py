"""The depth map of a photo, in the pixels of the undistorted photo: read, turned, undistorted like the photo."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lift3d_cli.errors import SceneError
from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.scene.depth_formats import read_stored_depth
from lift3d_cli.scene.distortion import opencv_from_corner_pixels, undistortion_map
from lift3d_cli.scene.mesh import MESH_SUFFIXES, draw_depth
from lift3d_cli.scene.photos import quarter_turn
from lift3d_cli.scene.scene import View

DEPTH_KINDS = ("z-depth", "distance", "inverse depth")
"""What a map may hold: z-depth; the distance along the ray; the inverse of the z-depth, as disparity is."""
# Whole numbers are millimetres unless the file says otherwise: so are those of nerfstudio and of RGB-D cameras.
INTEGER_UNIT = 1e-3
# As for photos: resizing to whole pixels changes the shape by 1 pixel in 50 at worst, cropping by more.
_SHAPE_TOLERANCE = 0.02


@dataclass(frozen=True)
class DepthMap:
    """A map as stored, before its scale and meaning are settled.

    Args:
        values: [h, w] float32, 0 where unknown; in the camera of the undistorted photo, resized to w x h.
        unit: world units of a value of 1, as declared or usual.
    """

    values: np.ndarray
    unit: float


@dataclass(frozen=True)
class Meaning:
    """How stored values are understood.

    Args:
        kind: one of `DEPTH_KINDS`.
        scale: factor of the z-depth in the declared unit; 1 if the unit is right.
    """

    kind: str = DEPTH_KINDS[0]
    scale: float = 1.0


def read_depth_map(view: View) -> DepthMap | None:
    """Read a view's depth file; None if it has none.

    Nothing is interpolated: a value between a surface and the one behind it would be on neither.

    Raises:
        SceneError: if the file cannot be read or shows something of another shape than the photo.
        ResourceError: if a library for its format is not installed.
    """
    file = view.depth_file
    if file is None:
        return None
    if file.path.suffix.lower() in MESH_SUFFIXES:
        return DepthMap(draw_depth(file.path, view.camera), 1.0)
    values, is_integer = read_stored_depth(file.path)
    unit = file.unit or (INTEGER_UNIT if is_integer else 1.0)
    if file.camera is not None:
        return DepthMap(_seen_from(view.camera, file.camera, values), unit)
    values = _in_shape(view, values)
    if view.distortion is not None and not file.is_undistorted:
        values = _undistorted(view, values)
    return DepthMap(values, unit)


def z_depth(stored: DepthMap, meaning: Meaning, camera: Camera) -> np.ndarray:  # [h, w] float32
    """Convert a map of a photo of this camera, of any size, to z-depth in world units; 0 where unknown."""
    known = stored.values > 0
    depth = np.zeros_like(stored.values)
    rays = ray_lengths(camera, depth.shape)[known]
    depth[known] = meaning.scale * unscaled_depth(stored.values[known], rays, stored.unit, meaning.kind)
    return depth


def unscaled_depth(values: np.ndarray, rays: np.ndarray, unit: float, kind: str) -> np.ndarray:
    """Convert known stored values of one of `DEPTH_KINDS` to z-depth, as if the declared unit were right.

    Args:
        values: stored values, all known.
        rays: length of the rays of unit z through their pixels.
        unit: declared world units of a value of 1; for inverse depth, z-depth is 1 / (value * unit).
        kind: one of `DEPTH_KINDS`.
    """
    if kind == "inverse depth":
        return 1 / (values * unit)
    return values * unit / (rays if kind == "distance" else 1.0)


def ray_lengths(camera: Camera, shape: tuple[int, int]) -> np.ndarray:  # [h, w]
    """Return the lengths of the rays of unit z through the pixel centres of an image of this (height, width)."""
    K = camera.resized(shape[1], shape[0]).K
    v, u = np.arange(shape[0])[:, None] + 0.5, np.arange(shape[1])[None] + 0.5
    y = (v - K[1, 2]) / K[1, 1]
    x = (u - K[0, 2] - K[0, 1] * y) / K[0, 0]
    return np.sqrt(x * x + y * y + 1)


def _in_shape(view: View, values: np.ndarray) -> np.ndarray:
    """Turn a map as its photo was turned, and check that it has the photo's shape."""
    width, height = view.camera.width, view.camera.height

    def fits(map_height: int, map_width: int) -> bool:
        return abs(map_width / map_height * height / width - 1) <= _SHAPE_TOLERANCE + 1 / min(map_width, map_height)

    if fits(*values.shape):
        return values
    turned = quarter_turn(view.image_path, values) if fits(*values.shape[::-1]) else None
    if turned is not None:
        return np.ascontiguousarray(turned)
    raise SceneError(
        f"{view.depth_file.path}: is {values.shape[1]}x{values.shape[0]}, which is another shape than the "
        f"{width}x{height} of {view.name}. hint: depth must show what the photo shows"
    )


def _undistorted(view: View, values: np.ndarray) -> np.ndarray:
    height, width = values.shape
    source_x, source_y, has_source = undistortion_map(view.camera.resized(width, height), view.distortion)
    return np.where(has_source, _nearest(values, source_x, source_y), np.float32(0))


def _seen_from(photo: Camera, made_for: Camera, values: np.ndarray) -> np.ndarray:
    """Move a map of another pinhole camera at the same pose to the photo's pixels, at the map's density."""
    height, width = values.shape
    lens = made_for.resized(width, height)
    density = lens.K[0, 0] / photo.K[0, 0]
    camera = photo.resized(max(1, round(photo.width * density)), max(1, round(photo.height * density)))
    back = lens.K @ np.linalg.inv(camera.K)
    u, v = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    x = opencv_from_corner_pixels(back[0, 0] * u + back[0, 1] * v + back[0, 2]).astype(np.float32)
    y = opencv_from_corner_pixels(back[1, 1] * v + back[1, 2]).astype(np.float32)
    return _nearest(values, x, y)


def _nearest(values: np.ndarray, source_x: np.ndarray, source_y: np.ndarray) -> np.ndarray:
    import cv2

    return cv2.remap(values, source_x, source_y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
