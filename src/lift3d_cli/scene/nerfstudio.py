"""Reader of `transforms.json` as nerfstudio and instant-ngp write it.

Poses are camera-to-world with OpenGL axes. `applied_transform` is not undone: poses and points agree without that.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from lift3d_cli.errors import SceneError
from lift3d_cli.scene.assemble import (
    OPENCV_FROM_OPENGL,
    Intrinsics,
    SceneBuilder,
    find_photo,
    read_json,
    w2c_from_c2w,
)
from lift3d_cli.scene.depth_formats import DEPTH_SUFFIXES, depth_suffix
from lift3d_cli.scene.distortion import check_camera_model, distortion_from_coeffs
from lift3d_cli.scene.photos import photo_size
from lift3d_cli.scene.ply import read_ply_points
from lift3d_cli.scene.scene import DepthFile, Scene

_COEFFS = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")


def load_nerfstudio(path: Path) -> Scene:
    """Read a `transforms.json`; photos are found relative to its folder.

    Raises:
        SceneError: if the file or a frame is broken, or no photo exists.
    """
    data = read_json(path)
    root = path.parent
    builder = SceneBuilder(root, path, "nerfstudio")
    for number, frame in enumerate(frames_of(data, path)):
        listed, pose = frame_pose(frame, f"{path}: frame {number}")
        where = f"{path}: frame {number} ({listed})"
        photo = find_photo(root, listed)
        if photo is None:
            builder.add(listed, None, None, None)
            continue
        intrinsics = frame_intrinsics({**data, **frame}, photo, where)
        mask_path = _mask_path(root, frame, where)
        depth_file = frame_depth_file(root, {**data, **frame}, where)
        builder.add(
            listed, photo, intrinsics, w2c_from_opengl_c2w(pose, where), mask_path=mask_path, depth_file=depth_file
        )
    return builder.scene(_points(root, data))


def frames_of(data: dict, path: Path) -> list[dict]:
    """Return the frames of a transforms file, checked to be a list of objects with at least one.

    Raises:
        SceneError: otherwise.
    """
    frames = data.get("frames")
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise SceneError(f'{path}: has no list "frames". hint: is it a transforms.json of nerfstudio or instant-ngp?')
    if not frames:
        raise SceneError(f'{path}: "frames" is empty. hint: a scene needs at least one posed photo')
    return frames


def frame_pose(frame: dict, where: str) -> tuple[str, np.ndarray]:
    """Return a frame's file_path and transform_matrix [4, 4] (c2w, OpenGL axes), as in the file.

    Raises:
        SceneError: if one is missing or not a matrix.
    """
    listed = frame.get("file_path")
    if not isinstance(listed, str) or not listed:
        raise SceneError(f'{where}: has no "file_path"')
    if "transform_matrix" not in frame:
        raise SceneError(f'{where}: {listed} has no "transform_matrix"')
    try:
        matrix = np.array(frame["transform_matrix"], dtype=np.float64)
    except (TypeError, ValueError) as e:
        raise SceneError(f"{where}: {listed}: transform_matrix is not 4x4 numbers") from e
    if matrix.shape not in ((4, 4), (3, 4)):
        raise SceneError(f"{where}: {listed}: transform_matrix has shape {matrix.shape}, needs (4, 4)")
    if matrix.shape == (4, 4) and not np.allclose(matrix[3], (0, 0, 0, 1), atol=1e-6):
        raise SceneError(f"{where}: {listed}: the last row of transform_matrix is {matrix[3].tolist()}, not 0 0 0 1")
    return listed, matrix


def w2c_from_opengl_c2w(c2w: np.ndarray, where: str) -> np.ndarray:
    """Convert a pose [3 or 4, 4] from camera-to-world with OpenGL axes to w2c [4, 4] with OpenCV axes."""
    opencv = c2w.copy()
    opencv[:3, :3] = opencv[:3, :3] @ OPENCV_FROM_OPENGL
    return w2c_from_c2w(opencv, where)


def frame_intrinsics(values: dict, photo: Path, where: str) -> Intrinsics:
    """Read one frame's intrinsics; `values` are the file's, overridden by the frame's."""
    width, height = _number(values, "w", where), _number(values, "h", where)
    if width is None or height is None:
        width, height = photo_size(photo)
    if width < 1 or height < 1:
        raise SceneError(f"{where}: the size w x h is {width:g} x {height:g}")
    fx, fy = _number(values, "fl_x", where), _number(values, "fl_y", where)
    fx = fx or _focal_from_angle(_number(values, "camera_angle_x", where), width)
    fy = fy or _focal_from_angle(_number(values, "camera_angle_y", where), height)
    if fx is None and fy is None:
        raise SceneError(f'{where}: no focal length. hint: the file needs "fl_x" or "camera_angle_x"')
    cx, cy = _number(values, "cx", where), _number(values, "cy", where)
    coeffs = {name: _number(values, name, where) or 0.0 for name in _COEFFS}
    fisheye = "OPENCV_FISHEYE" if values.get("is_fisheye") else "OPENCV"  # instant-ngp files have no model name
    model = str(values.get("camera_model") or fisheye)
    try:
        check_camera_model(model)
    except SceneError as e:
        raise SceneError(f"{where}: {e}") from e
    return Intrinsics(
        fx=fx or fy,
        fy=fy or fx,
        cx=width / 2 if cx is None else cx,
        cy=height / 2 if cy is None else cy,
        width=width,
        height=height,
        distortion=distortion_from_coeffs(model, coeffs),
    )


def frame_depth_file(root: Path, values: dict, where: str) -> DepthFile | None:
    """Return the depth file that a frame names, which may be absent.

    Args:
        root: folder of the scene.
        values: values of the whole file, overridden by those of the frame.
        where: what an error calls the frame.

    Raises:
        SceneError: if it is of no known format, or its unit is not positive.
    """
    listed = values.get("depth_file_path")
    if not isinstance(listed, str) or not listed:
        return None
    path = root / listed.replace("\\", "/")
    if not depth_suffix(path):
        raise SceneError(f"{where}: its depth {listed} is none of {', '.join(DEPTH_SUFFIXES)}. hint: convert it")
    unit = _number(values, "depth_unit_scale_factor", where)
    if unit is not None and unit <= 0:
        raise SceneError(f'{where}: "depth_unit_scale_factor" is {unit:g}. hint: 0.001 for millimetres')
    return DepthFile(path, unit)


def _number(values: dict, key: str, where: str) -> float | None:
    value = values.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise SceneError(f'{where}: "{key}" is {value!r}, not a finite number')
    return float(value)


def _focal_from_angle(
    angle: float | None,  # full field of view, radians
    size: float,  # pixels
) -> float | None:
    return 0.5 * size / math.tan(0.5 * angle) if angle else None


def _mask_path(root: Path, frame: dict, where: str) -> Path | None:
    listed = frame.get("mask_path")
    if not listed:
        return None
    mask = find_photo(root, str(listed))
    if mask is None:
        raise SceneError(f"{where}: its mask {listed} is not there. hint: add it, or take mask_path out of the frame")
    return mask


def _points(root: Path, data: dict) -> np.ndarray | None:
    """Read the points [N, 3] of the point cloud that the file names; it is optional, so a missing one is no error."""
    listed = data.get("ply_file_path")
    if not isinstance(listed, str) or not (root / listed).is_file():
        return None
    points = read_ply_points(root / listed)
    return points if len(points) else None
