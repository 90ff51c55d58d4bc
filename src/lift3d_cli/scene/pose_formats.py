"""The three JSON layouts of a camera path, converted from parsed JSON to cameras. No files are opened here.

Each reader returns (cameras, names, fps) and raises `SceneError` with a message without the file's name.
"""

from __future__ import annotations

import math
import posixpath
from collections.abc import Sequence
from typing import Any

import numpy as np

from lift3d_cli.errors import SceneError
from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.scene.fields import angle, matrices, needed_number, number, short, w2cs_from_c2ws
from lift3d_cli.scene.lens import Intrinsics, pinhole_from_keys

Parsed = tuple[tuple[Camera, ...], tuple[str, ...], float]
Size = tuple[int, int]

MAX_SIDE_PX = 16384
# File systems take 255 bytes, and `decode` appends suffixes such as .safetensors.
MAX_NAME_BYTES = 240


def read_lift3d(data: dict[str, Any], version: int, default_fps: float) -> Parsed:
    """Read our own format: OpenCV axes, everything given per pose."""
    if data.get("version") != version:
        raise SceneError(f"has version {data.get('version')!r}, this lift3d reads {version}. hint: upgrade lift3d")
    lenses, names, poses = [], [], _items(data, "poses")
    for index, pose in enumerate(poses):
        where = f"pose {index}"
        size = (_side(pose, "w", where), _side(pose, "h", where))
        lenses.append(Intrinsics(*(needed_number(pose, key, where) for key in ("fx", "fy", "cx", "cy")), *size))
        names.append(_stated_name(pose, index, where))
    _check_unique(names)
    return _cameras(lenses, poses, "c2w"), tuple(names), _fps(data, default_fps)


def read_nerfstudio_path(data: dict[str, Any], default_size: Size | None, default_fps: float) -> Parsed:
    """Read the camera path that nerfstudio's viewer exports: OpenGL axes, vertical field of view in degrees."""
    kind = data.get("camera_type", "perspective")
    if kind != "perspective":
        raise SceneError(f'has camera_type {kind!r}, only "perspective" can be rendered')
    if data.get("crop"):
        raise SceneError('has a "crop", which cannot be rendered. hint: delete it, and the whole scene is')
    if "render_width" in data or "render_height" in data or default_size is None:
        width, height = _side(data, "render_width", "the file"), _side(data, "render_height", "the file")
    else:
        width, height = default_size
    lenses, poses = [], _items(data, "camera_path")
    for index, pose in enumerate(poses):
        where = f"pose {index}"
        needed_number(pose, "fov", where)
        # `aspect` is the viewer's window; nerfstudio too renders render_width x render_height with square pixels.
        focal = height / 2 / math.tan(angle(pose, "fov", where, degrees=True) / 2)
        lenses.append(Intrinsics(focal, focal, width / 2, height / 2, width, height))
    cameras = _cameras(lenses, poses, "camera_to_world", opengl=True)
    return cameras, _numbered(len(cameras)), _fps(data, default_fps)


def read_transforms(data: dict[str, Any], default_size: Size | None, default_fps: float) -> Parsed:
    """Read the poses of a `transforms.json` (nerfstudio, instant-ngp, Blender): OpenGL axes, lens for all or per frame.

    Distortion is ignored: a novel view is a pinhole image.
    """
    lenses, names, frames = [], [], _items(data, "frames")
    for index, frame in enumerate(frames):
        where = f"pose {index}"
        merged = {**data, **frame}
        if "w" in merged or "h" in merged:
            size = (_side(merged, "w", where), _side(merged, "h", where))
        elif default_size is not None:
            size = default_size
        else:
            raise SceneError(f'{where}: has no image size. hint: add "w" and "h" to the file')
        lenses.append(pinhole_from_keys(merged, size, where))
        names.append(_frame_name(frame))
    if None in names or len({name.casefold() for name in names}) < len(names):
        names = list(_numbered(len(names)))
    return _cameras(lenses, frames, "transform_matrix", opengl=True), tuple(names), _fps(data, default_fps)


def _items(data: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """Return the non-empty list of objects under `key`."""
    items = data.get(key)
    if not isinstance(items, list):
        raise SceneError(f'needs a list "{key}"')
    if not items:
        raise SceneError(f'"{key}" is empty. hint: a path needs at least one pose')
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise SceneError(f"pose {index}: is a JSON {type(item).__name__}, needs an object")
    return items


def _side(item: dict[str, Any], key: str, where: str) -> int:
    """Return an image side in pixels; 640.0 counts as 640, because instant-ngp writes sizes like this."""
    value = needed_number(item, key, where)
    if value < 1 or value != int(value):
        raise SceneError(f'{where}: "{key}" is {short(item[key])}, needs a positive whole number of pixels')
    if value > MAX_SIDE_PX:
        raise SceneError(f'{where}: "{key}" is {int(value)} pixels, the limit is {MAX_SIDE_PX}')
    return int(value)


def _cameras(
    lenses: Sequence[Intrinsics], poses: Sequence[dict[str, Any]], key: str, opengl: bool = False
) -> tuple[Camera, ...]:
    """Make the cameras of lenses, and of the camera-to-world matrices that the poses have under `key`."""
    wheres = [f"pose {index}" for index in range(len(poses))]
    for lens, where in zip(lenses, wheres, strict=True):
        lens.check(where)
    w2c = w2cs_from_c2ws(matrices(poses, key, wheres), wheres, opengl)
    K = np.tile(np.eye(3), (len(lenses), 1, 1))
    K[:, [0, 1, 0, 1], [0, 1, 2, 2]] = [(lens.fx, lens.fy, lens.cx, lens.cy) for lens in lenses]
    return Camera.many(K, w2c, np.array([(int(lens.width), int(lens.height)) for lens in lenses]))


def _stated_name(pose: dict[str, Any], index: int, where: str) -> str:
    """Return the pose's name, or its number. A name becomes a file name, so it must not lead out of the folder."""
    if "name" not in pose:
        return _number(index)
    name = pose["name"]
    if not isinstance(name, str) or not _is_safe_name(name):
        raise SceneError(
            f'{where}: "name" is {short(name)}, needs a relative path without ".." in it, '
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
            raise SceneError(f'pose {index}: has the name "{name}" of pose {first[name]}')
        first[name] = index


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(map(_number, range(count)))


def _number(index: int) -> str:
    return f"{index:04d}"


def _fps(data: dict[str, Any], default: float) -> float:
    fps = number(data, "fps", "the file")
    if fps is None:
        return default
    if not 0 < fps <= 1000:
        raise SceneError(f'"fps" is {fps:g}, needs a number above 0 and up to 1000')
    return fps
