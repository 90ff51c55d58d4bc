"""The three JSON layouts of a camera path, converted from parsed JSON to cameras. No files are opened here.

Each reader returns (cameras, names, fps) and raises `PoseFileError` with a message without the file's name.
"""

from __future__ import annotations

import math
import posixpath
from collections.abc import Sequence
from typing import Any

import numpy as np

from lift3d_cli.errors import SceneError
from lift3d_cli.geometry.cameras import Camera

Parsed = tuple[tuple[Camera, ...], tuple[str, ...], float]
Size = tuple[int, int]

MAX_SIDE_PX = 16384
# File systems take 255 bytes, and `decode` appends suffixes such as .safetensors.
MAX_NAME_BYTES = 240
# Poses printed with few digits are rotations up to rounding; `Camera` rejects what deviates more than this.
_ROTATION_TOLERANCE = 1e-3
# OpenGL cameras look along -Z with +Y up, ours along +Z with +Y down.
_OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])


class PoseFileError(SceneError):
    """An error in the content of a pose file; the message lacks the file's name."""


def read_lift3d(data: dict[str, Any], version: int, default_fps: float) -> Parsed:
    """Read our own format: OpenCV axes, everything given per pose."""
    if data.get("version") != version:
        raise PoseFileError(f"has version {data.get('version')!r}, this lift3d reads {version}. hint: upgrade lift3d")
    cameras, names = [], []
    for index, pose in enumerate(_items(data, "poses")):
        where = f"pose {index}"
        size = (_side(pose, "w", where), _side(pose, "h", where))
        fx, fy, cx, cy = (_number(pose, key, where) for key in ("fx", "fy", "cx", "cy"))
        cameras.append(_camera((fx, fy, cx, cy), _matrix(pose, "c2w", where), size, where))
        names.append(_stated_name(pose, index, where))
    _check_unique(names)
    return tuple(cameras), tuple(names), _fps(data, default_fps)


def read_nerfstudio_path(data: dict[str, Any], default_size: Size | None, default_fps: float) -> Parsed:
    """Read the camera path that nerfstudio's viewer exports: OpenGL axes, vertical field of view in degrees."""
    kind = data.get("camera_type", "perspective")
    if kind != "perspective":
        raise PoseFileError(f'has camera_type {kind!r}, only "perspective" can be rendered')
    if "render_width" in data or "render_height" in data or default_size is None:
        width, height = _side(data, "render_width", "the file"), _side(data, "render_height", "the file")
    else:
        width, height = default_size
    cameras = []
    for index, pose in enumerate(_items(data, "camera_path")):
        where = f"pose {index}"
        fov = _number(pose, "fov", where)
        if not 0 < fov < 180:
            raise PoseFileError(f'{where}: "fov" is {fov:g}, needs degrees between 0 and 180')
        # `aspect` is the viewer's window; nerfstudio too renders render_width x render_height with square pixels.
        focal = height / 2 / math.tan(math.radians(fov) / 2)
        c2w = _matrix(pose, "camera_to_world", where) @ _OPENGL_FROM_OPENCV
        cameras.append(_camera((focal, focal, width / 2, height / 2), c2w, (width, height), where))
    return tuple(cameras), _numbered(len(cameras)), _fps(data, default_fps)


def read_transforms(data: dict[str, Any], default_size: Size | None, default_fps: float) -> Parsed:
    """Read the poses of a `transforms.json` (nerfstudio, instant-ngp, Blender): OpenGL axes, lens for all or per frame.

    Distortion is ignored: a novel view is a pinhole image.
    """
    cameras, names = [], []
    for index, frame in enumerate(_items(data, "frames")):
        where = f"pose {index}"
        merged = {**data, **frame}
        if "w" in merged or "h" in merged:
            size = (_side(merged, "w", where), _side(merged, "h", where))
        elif default_size is not None:
            size = default_size
        else:
            raise PoseFileError(f'{where}: has no image size. hint: add "w" and "h" to the file')
        c2w = _matrix(frame, "transform_matrix", where) @ _OPENGL_FROM_OPENCV
        cameras.append(_camera(_transforms_lens(merged, size, where), c2w, size, where))
        names.append(_frame_name(frame))
    if None in names or len(set(names)) < len(names):
        names = list(_numbered(len(names)))
    return tuple(cameras), tuple(names), _fps(data, default_fps)


def _transforms_lens(frame: dict[str, Any], size: Size, where: str) -> tuple[float, float, float, float]:
    """Return (fx, fy, cx, cy) in pixels from the focal lengths or angles of view that are given."""
    focals: list[float | None] = []
    for axis, side in zip("xy", size, strict=True):
        if f"fl_{axis}" in frame:
            focals.append(_number(frame, f"fl_{axis}", where))
        elif f"camera_angle_{axis}" in frame:
            angle = _number(frame, f"camera_angle_{axis}", where)
            if not 0 < angle < math.pi:
                raise PoseFileError(f'{where}: "camera_angle_{axis}" is {angle:g}, needs radians between 0 and pi')
            focals.append(side / 2 / math.tan(angle / 2))
        else:
            focals.append(None)
    fx, fy = focals
    if fx is None and fy is None:
        raise PoseFileError(f'{where}: has neither "fl_x" nor "camera_angle_x"')
    cx = _number(frame, "cx", where) if "cx" in frame else size[0] / 2
    cy = _number(frame, "cy", where) if "cy" in frame else size[1] / 2
    return fx if fx is not None else fy, fy if fy is not None else fx, cx, cy  # type: ignore[return-value]


def _items(data: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """Return the non-empty list of objects under `key`."""
    items = data.get(key)
    if not isinstance(items, list):
        raise PoseFileError(f'needs a list "{key}"')
    if not items:
        raise PoseFileError(f'"{key}" is empty. hint: a path needs at least one pose')
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise PoseFileError(f"pose {index}: is a JSON {type(item).__name__}, needs an object")
    return items


def _number(item: dict[str, Any], key: str, where: str) -> float:
    value = item.get(key)
    if key not in item:
        raise PoseFileError(f'{where}: lacks "{key}"')
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _is_finite(value):
        raise PoseFileError(f'{where}: "{key}" is {_short(value)}, needs a finite number')
    return float(value)


def _side(item: dict[str, Any], key: str, where: str) -> int:
    """Return an image side in pixels; 640.0 counts as 640, because instant-ngp writes sizes like this."""
    value = _number(item, key, where)
    if value < 1 or value != int(value):
        raise PoseFileError(f'{where}: "{key}" is {_short(item[key])}, needs a positive whole number of pixels')
    if value > MAX_SIDE_PX:
        raise PoseFileError(f'{where}: "{key}" is {int(value)} pixels, the limit is {MAX_SIDE_PX}')
    return int(value)


def _matrix(item: dict[str, Any], key: str, where: str) -> np.ndarray:
    """Read a camera-to-world matrix [4, 4] from nested lists or 16 (or 12) numbers, row by row."""
    if key not in item:
        raise PoseFileError(f'{where}: lacks "{key}"')
    rows = item[key]
    try:
        flat = [value for row in rows for value in row] if isinstance(rows[0], list) else list(rows)
    except (TypeError, KeyError, IndexError) as e:
        raise PoseFileError(f'{where}: "{key}" is {_short(rows)}, needs a 4x4 matrix') from e
    ragged = isinstance(rows[0], list) and any(len(row) != 4 for row in rows)
    if ragged or len(flat) not in (12, 16):
        raise PoseFileError(f'{where}: "{key}" has {len(flat)} numbers, needs a 4x4 matrix')
    if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in flat):
        raise PoseFileError(f'{where}: "{key}" holds something that is not a number')
    if not all(_is_finite(value) for value in flat):
        raise PoseFileError(f'{where}: "{key}" has a NaN or infinite number')
    matrix = np.eye(4)
    matrix[: len(flat) // 4] = np.array(flat, dtype=np.float64).reshape(-1, 4)
    if np.abs(matrix[3] - [0, 0, 0, 1]).max() > 1e-6:
        raise PoseFileError(f'{where}: "{key}" has the last row {_short(flat[12:])}, needs [0, 0, 0, 1]')
    return matrix


def _camera(lens: tuple[float, float, float, float], c2w: np.ndarray, size: Size, where: str) -> Camera:
    """Make a camera with an exactly rigid pose; poses rounded to a few digits are replaced by the nearest rotation."""
    fx, fy, cx, cy = lens
    rotation, position = c2w[:3, :3], c2w[:3, 3]
    error = np.abs(rotation @ rotation.T - np.eye(3)).max()
    if error > 1e-12 and error <= _ROTATION_TOLERANCE:
        u, _, vt = np.linalg.svd(rotation)
        rotation = u @ vt
    w2c = np.eye(4)
    w2c[:3, :3], w2c[:3, 3] = rotation.T, -rotation.T @ position
    try:
        return Camera(np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]), w2c, *size)
    except SceneError as e:
        raise PoseFileError(f"{where}: {e}") from e


def _stated_name(pose: dict[str, Any], index: int, where: str) -> str:
    """Return the pose's name, or its number. A name becomes a file name, so it must not lead out of the folder."""
    if "name" not in pose:
        return _numbered(index + 1)[-1]
    name = pose["name"]
    if not isinstance(name, str) or not _is_safe_name(name):
        raise PoseFileError(
            f'{where}: "name" is {_short(name)}, needs a relative path without ".." in it, '
            f"of names of {MAX_NAME_BYTES} bytes at most"
        )
    return name


def _frame_name(frame: dict[str, Any]) -> str | None:
    """Return the photo's name as in the scene, or None where the frame has no usable one."""
    name = frame.get("file_path")
    if not isinstance(name, str):
        return None
    name = posixpath.normpath(name.replace("\\", "/"))
    name = name if _is_safe_name(name) else posixpath.basename(name)
    return name if _is_safe_name(name) else None


def _is_safe_name(name: str) -> bool:
    parts = name.split("/")
    return (
        0 < len(name) <= 255
        and name.isprintable()
        and "\\" not in name
        and not any(part in ("", ".", "..") or len(part.encode()) > MAX_NAME_BYTES for part in parts)
    )


def check_names(names: Sequence[str]) -> None:
    """Reject names that a reader would reject."""
    for index, name in enumerate(names):
        _stated_name({"name": name}, index, f"pose {index}")
    _check_unique(names)


def _check_unique(names: Sequence[str]) -> None:
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if name in first:
            raise PoseFileError(f'pose {index}: has the name "{name}" of pose {first[name]}')
        first[name] = index


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"{index:04d}" for index in range(count))


def _fps(data: dict[str, Any], default: float) -> float:
    if data.get("fps") is None:
        return default
    fps = _number(data, "fps", "the file")
    if not 0 < fps <= 1000:
        raise PoseFileError(f'"fps" is {fps:g}, needs a number above 0 and up to 1000')
    return fps


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except (TypeError, OverflowError):  # an integer too large for a float
        return False


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
