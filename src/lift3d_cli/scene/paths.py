"""Camera paths on disk: our `path.json` (docs/camera-paths.md), nerfstudio's camera paths and `transforms.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lift3d_cli.errors import SceneError
from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.machine.atomic import write_output
from lift3d_cli.scene.fields import OPENCV_FROM_OPENGL, parse_json
from lift3d_cli.scene.pose_formats import check_names, read_lift3d, read_nerfstudio_path, read_transforms

FORMAT = "lift3d-path"
VERSION = 1
DEFAULT_FPS = 24.0
# A pose takes about 700 bytes; the limit keeps a file given by mistake (a video, a mesh) from filling the memory.
_MAX_BYTES = 256 * 1024**2


@dataclass(frozen=True)
class CameraPath:
    """Target cameras, in rendering order.

    Args:
        cameras: at least one.
        names: one per camera, unique, usable as a relative file name without a suffix.
        fps: frames per second of a video of the path.
    """

    cameras: tuple[Camera, ...]
    names: tuple[str, ...]
    fps: float = DEFAULT_FPS

    def __len__(self) -> int:
        return len(self.cameras)


def preview_of(path: CameraPath, side: int, frames: int) -> CameraPath:
    """Return some of a path's poses, evenly spread and smaller, in as many seconds.

    Args:
        path: the path.
        side: longest side in pixels, at most.
        frames: how many poses, at most.
    """
    step = -(-len(path) // frames)
    cameras = []
    for camera in path.cameras[::step]:
        factor = min(1.0, side / max(camera.width, camera.height))
        cameras.append(camera.resized(*(max(2, 2 * round(n * factor / 2)) for n in (camera.width, camera.height))))
    return CameraPath(tuple(cameras), path.names[::step], path.fps / step)


def write_path(
    file: Path, cameras: Sequence[Camera], fps: float = DEFAULT_FPS, names: Sequence[str] | None = None
) -> Path:
    """Write cameras as `path.json` atomically; return the file.

    Args:
        file: file to write; its folder is created.
        cameras: at least one, in the scene's world.
        fps: frames per second.
        names: one per camera, or None to omit them (readers then number the poses).

    Raises:
        SceneError: if there is no camera, or a name could not be read back.
        ResourceError: if the file cannot be written.
    """
    if not cameras or (names is not None and len(names) != len(cameras)):
        raise SceneError(f"{file}: {len(cameras)} cameras and {0 if names is None else len(names)} names make no path")
    try:
        check_names(names or ())
    except SceneError as e:
        raise SceneError(f"{file}: {e}") from e
    poses = []
    for index, camera in enumerate(cameras):
        pose: dict[str, Any] = {} if names is None else {"name": names[index]}
        fx, fy, cx, cy = (float(camera.K[i]) for i in ((0, 0), (1, 1), (0, 2), (1, 2)))
        pose |= {"w": int(camera.width), "h": int(camera.height), "fx": fx, "fy": fy, "cx": cx, "cy": cy}
        poses.append(json.dumps(pose | {"c2w": camera.c2w.tolist()}))
    head = f'{{"format": "{FORMAT}", "version": {VERSION}, "fps": {json.dumps(float(fps))}, "poses": [\n'
    write_output(Path(file), (head + ",\n".join(poses) + "\n]}\n").encode())
    return Path(file)


def usable_names(names: Sequence[str]) -> Sequence[str] | None:
    """Return names that a path can have, None for such as are too long or no file names: poses are then numbered."""
    try:
        check_names(names)
    except SceneError:
        return None
    return names


def read_poses(file: Path, default_size: tuple[int, int] | None = None) -> CameraPath:
    """Read a camera path of any of the three formats.

    Args:
        file: `path.json`, a nerfstudio camera path, or a `transforms.json` (its photos need not exist).
        default_size: (width, height) in pixels for a file that gives none.

    Raises:
        SceneError: names the file, the pose and what is wrong with it.
    """
    try:
        # A pipe, as of `--poses <(...)`, and a device tell no size.
        with open(file, "rb") as stream:
            text = stream.read(_MAX_BYTES + 1)
    except OSError as e:
        hint = ". hint: lift3d path SCENE orbit" if isinstance(e, FileNotFoundError) else ""
        raise SceneError(f"{file}: cannot be read ({e.strerror or e}){hint}") from e
    if len(text) > _MAX_BYTES:
        raise SceneError(f"{file}: larger than {_MAX_BYTES // 1024**2} MiB, this is no camera path")
    return parse_poses(text, str(file), default_size)


def read_poses_stdin(text: str, default_size: tuple[int, int] | None = None) -> CameraPath:
    """Read a camera path from the text of standard input: the JSON itself, or a line with the path of a file.

    `lift3d path` prints the path of the file that it wrote, so that it can be piped into `lift3d render --poses -`.
    """
    stripped = text.lstrip("\ufeff").strip()
    if stripped.startswith(("{", "[")):
        return parse_poses(stripped, "standard input", default_size)
    if not stripped:
        raise SceneError("standard input: is empty. hint: pipe the JSON of a camera path or the path of such a file")
    if len(stripped.splitlines()) > 1 or "\0" in stripped:
        raise SceneError("standard input: is neither JSON nor one line with the path of a JSON file")
    return read_poses(Path(stripped), default_size)


def parse_poses(text: str | bytes, label: str, default_size: tuple[int, int] | None = None) -> CameraPath:
    """Parse the JSON text of a camera path; `label` names it in error messages."""
    data = parse_json(text, label)
    try:
        if not isinstance(data, dict):
            raise SceneError(f"holds a JSON {type(data).__name__}, a camera path is an object")
        if data.get("format") == FORMAT:
            return CameraPath(*read_lift3d(data, VERSION, DEFAULT_FPS))
        if "camera_path" in data:
            return CameraPath(*read_nerfstudio_path(data, default_size, DEFAULT_FPS))
        if "frames" in data:
            return CameraPath(*read_transforms(data, default_size, DEFAULT_FPS))
        raise SceneError(
            f'is of no known format. hint: it needs "format": "{FORMAT}" with "poses", "camera_path" (nerfstudio) '
            'or "frames" (transforms.json)'
        )
    except SceneError as e:
        raise SceneError(f"{label}: {e}") from e


def transforms_text(
    cameras: Sequence[Camera], files: Sequence[str], fps: float, extra: dict[str, Any] | None = None
) -> str:
    """Write cameras as the text of a nerfstudio `transforms.json` (OpenGL axes), which most 3D tools read.

    Args:
        cameras: at least one, in the scene's world.
        files: a picture of each, relative to the file.
        fps: frames per second.
        extra: other JSON values of the document.
    """
    frames = []
    for camera, file in zip(cameras, files, strict=True):
        matrix = camera.c2w
        matrix[:3, :3] = matrix[:3, :3] @ OPENCV_FROM_OPENGL  # its own inverse
        frames.append({"file_path": file, "transform_matrix": matrix.tolist(), **_transforms_lens(camera)})
    document = {"camera_model": "PINHOLE", "fps": fps, **_transforms_lens(cameras[0]), **(extra or {})}
    return json.dumps(document | {"frames": frames}, indent=1) + "\n"


def _transforms_lens(camera: Camera) -> dict[str, Any]:
    (fx, _, cx), (_, fy, cy) = camera.K[0].tolist(), camera.K[1].tolist()
    return {"w": camera.width, "h": camera.height, "fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy}
