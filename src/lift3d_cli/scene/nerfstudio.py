"""Reader of `transforms.json` as nerfstudio and instant-ngp write it, and of several such files together.

Poses are camera-to-world with OpenGL axes. `applied_transform` and `applied_scale` are not undone: poses and points
agree without that.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lift3d_cli.errors import SceneError
from lift3d_cli.scene.assemble import SceneBuilder
from lift3d_cli.scene.depth_formats import DEPTH_SUFFIXES, depth_suffix
from lift3d_cli.scene.fields import matrix, number, read_json, w2c_from_c2w
from lift3d_cli.scene.lens import Intrinsics, lens_from_keys, unread_keys
from lift3d_cli.scene.photo_files import PhotoFinder, reduction
from lift3d_cli.scene.photos import photo_size
from lift3d_cli.scene.ply import read_ply_points
from lift3d_cli.scene.scene import DepthFile, Scene

_KNOWN_KEYS = (
    "frames", "file_path", "transform_matrix", "transform_matrix_start", "transform_matrix_end", "mask_path",
    "depth_file_path", "depth_unit_scale_factor", "ply_file_path", "applied_transform", "applied_scale",
)  # fmt: skip
# instant-ngp leaves pixels of these colours out; here they count as any others.
_COLOUR_KEYS = ("mask_color", "white_transparent", "black_transparent")


def load_nerfstudio(path: Path) -> Scene:
    """Read a `transforms.json`; photos are found relative to its folder.

    Raises:
        SceneError: if the file or a frame is broken, or no photo exists.
    """
    return load_transforms(path.parent, [path], path, "nerfstudio")


def load_transforms(root: Path, paths: Sequence[Path], source: Path, scene_format: str) -> Scene:
    """Read transforms files as one scene; a file without frames is passed over if another has some.

    Args:
        root: folder that photos are found relative to.
        paths: the files.
        source: what messages about all of them name.
        scene_format: see `Scene`.

    Raises:
        SceneError: if a file or a frame is broken, or no photo exists.
    """
    files = {path: read_json(path) for path in paths}
    frames = {path: _frames(data, path) for path, data in files.items()}
    empty = [path for path in paths if not frames[path]]
    if len(empty) == len(paths):
        raise SceneError(f'{empty[0]}: "frames" is empty. hint: a scene needs at least one posed photo')
    everything = [*files.values(), *(frame for file in frames.values() for frame in file)]
    listed = [frame["file_path"] for file in frames.values() for frame in file if _is_path(frame.get("file_path"))]
    builder = SceneBuilder(root, source, scene_format, listed, unread_keys=unread_keys(everything, _KNOWN_KEYS))
    builder.warnings += [f"{path}: has no frames, and is passed over" for path in empty]
    for key in _COLOUR_KEYS:
        if any(item.get(key) for item in everything):
            builder.warnings.append(f'{source}: "{key}" is not followed: all pixels count. hint: use "mask_path"')
    for path, data in files.items():
        for index, frame in enumerate(frames[path]):
            _add_frame(builder, data, frame, f"{path}: frame {index}")
    return builder.scene(_points(builder, files.values()))


def _frames(data: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    frames = data.get("frames")
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise SceneError(f'{path}: has no list "frames". hint: is it a transforms.json of nerfstudio or instant-ngp?')
    return frames


def _add_frame(builder: SceneBuilder, data: dict[str, Any], frame: dict[str, Any], where: str) -> None:
    listed = frame.get("file_path")
    if not _is_path(listed):
        raise SceneError(f'{where}: has no "file_path"')
    photo = builder.find(listed)
    if photo is None:
        return
    where, values = f"{where} ({listed})", {**data, **frame}
    moving = [frame.get(f"transform_matrix_{moment}") for moment in ("start", "end")]
    if moving[0] != moving[1]:
        raise SceneError(f"{where}: the camera moves while the photo is taken. hint: give one transform_matrix for it")
    w2c = w2c_from_c2w(matrix(frame, "transform_matrix", where), where, opengl=True)
    builder.add(
        listed,
        photo,
        _lens(values, listed, photo, where),
        w2c,
        mask_path=_mask_path(builder.photos, frame, where),
        depth_file=_depth_file(builder.root, values, where),
    )


def _lens(values: dict[str, Any], listed: str, photo: Path, where: str) -> Intrinsics:
    """Read the lens of a frame; without a size in the file, it is for photos of the listed one's size."""
    width, height = number(values, "w", where), number(values, "h", where)
    if width is None or height is None:
        width, height = (float(side * reduction(listed, photo)) for side in photo_size(photo))
    return lens_from_keys(values, (width, height), where)


def _depth_file(root: Path, values: dict[str, Any], where: str) -> DepthFile | None:
    """Return the depth file that a frame names, which may be absent."""
    listed = values.get("depth_file_path")
    if not _is_path(listed):
        return None
    path = root / listed.replace("\\", "/")
    if not depth_suffix(path):
        raise SceneError(f"{where}: its depth {listed} is none of {', '.join(DEPTH_SUFFIXES)}. hint: convert it")
    unit = number(values, "depth_unit_scale_factor", where)
    if unit is not None and unit <= 0:
        raise SceneError(f'{where}: "depth_unit_scale_factor" is {unit:g}. hint: 0.001 for millimetres')
    return DepthFile(path, unit)


def _mask_path(photos: PhotoFinder, frame: dict[str, Any], where: str) -> Path | None:
    listed = frame.get("mask_path")
    if not listed:
        return None
    mask = photos.find(str(listed))
    if mask is None:
        raise SceneError(f"{where}: its mask {listed} is not there. hint: add it, or take mask_path out of the frame")
    return mask


def _points(builder: SceneBuilder, files: Iterable[dict[str, Any]]) -> np.ndarray | None:
    """Read the points [N, 3] of the point cloud that a file names; without it, they are found from the photos."""
    listed = next((data["ply_file_path"] for data in files if _is_path(data.get("ply_file_path"))), None)
    if listed is None:
        return None
    path = builder.root / listed.replace("\\", "/")
    if not os.path.isfile(path):
        builder.warnings.append(f"{path}: these points, which {builder.source} names, are not there")
        return None
    try:
        points = read_ply_points(path)
    except SceneError as e:
        builder.warnings.append(f"{str(e).partition('. hint:')[0]}: these points are not used")
        return None
    return points if len(points) else None


def _is_path(value: object) -> bool:
    return isinstance(value, str) and bool(value)
