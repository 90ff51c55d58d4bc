"""Shared by all scene readers: find a photo's file, fit K to it, convert its pose, collect the views of a scene."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from lift3d_cli.errors import SceneError
from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.scene.photos import PHOTO_SUFFIXES, photo_size
from lift3d_cli.scene.scene import DepthFile, Distortion, Scene, View

# Columns of c2w: OpenGL looks along -Z with +Y up, OpenCV along +Z with +Y down.
OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0])
# Largest deviation of a rotation in a file from a scaled rotation. Rounded digits cost 1e-4, a wrong matrix 1e-1.
_RIGID_TOLERANCE = 1e-3
# Resizing to whole pixels changes the aspect ratio by at most 1 pixel in 50; cropping changes it by more.
_ASPECT_TOLERANCE = 0.02


@dataclass(frozen=True)
class Intrinsics:
    """Intrinsics of one calibrated camera, for a photo of `width` x `height` (not necessarily the size on disk)."""

    fx: float
    fy: float
    cx: float
    cy: float
    width: float
    height: float
    distortion: Distortion | None = None

    def matrix(self, photo_width: int, photo_height: int) -> np.ndarray:
        """Return K [3, 3] for a photo resized to this size."""
        sx, sy = photo_width / self.width, photo_height / self.height
        return np.array([[self.fx * sx, 0, self.cx * sx], [0, self.fy * sy, self.cy * sy], [0, 0, 1.0]])


@dataclass
class SceneBuilder:
    """Collects the views of one scene file. `source` is the file that error messages name."""

    root: Path
    source: Path
    format: str
    views: dict[str, View] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    reshaped: list[str] = field(default_factory=list)
    missing_depth: list[Path] = field(default_factory=list)

    def add(
        self,
        listed_path: str,
        photo: Path | None,  # None: the photo is missing
        intrinsics: Intrinsics | None,
        w2c: np.ndarray | None,
        mask_path: Path | None = None,
        depth_range: tuple[float, float] | None = None,
        depth_file: DepthFile | None = None,
    ) -> None:
        """Add a view, or count its photo as missing.

        Raises:
            SceneError: if the name exists already or the camera is impossible.
        """
        if photo is None or intrinsics is None or w2c is None:
            self.missing.append(listed_path)
            return
        name = view_name(self.root, photo)
        if name in self.views:
            raise SceneError(f"{self.source}: lists {name} twice. hint: delete one of the two entries")
        if not (intrinsics.width > 0 and intrinsics.height > 0):
            raise SceneError(
                f"{self.source}: view {name}: its camera is for {intrinsics.width:g}x{intrinsics.height:g} pixels"
            )
        width, height = photo_size(photo, intrinsics.width, intrinsics.height)
        if abs(width / height * intrinsics.height / intrinsics.width - 1) > _ASPECT_TOLERANCE:
            self.reshaped.append(name)
        try:
            camera = Camera(intrinsics.matrix(width, height), w2c, width, height)
        except SceneError as e:
            raise SceneError(f"{self.source}: view {name}: {e}") from e
        if depth_file is not None and not depth_file.path.is_file():
            self.missing_depth.append(depth_file.path)
            depth_file = None
        self.views[name] = View(name, photo, camera, intrinsics.distortion, mask_path, depth_range, depth_file)

    def scene(self, points: np.ndarray | None = None) -> Scene:
        """Make the scene, with views sorted by name.

        Raises:
            SceneError: if no view has a photo.
        """
        if not self.views and self.missing:
            raise SceneError(
                f"{self.source}: none of its {len(self.missing)} photos is there, for example {self.missing[0]}. "
                f"hint: paths are relative to {self.root}"
            )
        if not self.views:
            raise SceneError(f"{self.source}: lists no photos. hint: a scene needs at least one posed photo")
        warnings = []
        if self.missing:
            total = len(self.missing) + len(self.views)
            warnings.append(
                f"{self.source}: {len(self.missing)} of {total} listed photos are absent and left out, "
                f"for example {self.missing[0]}"
            )
        if self.reshaped:
            warnings.append(
                f"{self.source}: {len(self.reshaped)} photos have another shape than their camera, for example "
                f"{self.reshaped[0]}; they are taken as stretched, not cropped"
            )
        if self.missing_depth:
            warnings.append(
                f"{self.source}: {len(self.missing_depth)} depth files that it lists are absent, for example "
                f"{self.missing_depth[0]}; these photos have no depth"
            )
        views = tuple(self.views[name] for name in sorted(self.views))
        return Scene(self.root, self.format, views, points, tuple(warnings))


def w2c_from_c2w(c2w: np.ndarray, where: str) -> np.ndarray:
    """Invert a pose [3 or 4, 4] (OpenCV axes) to a rigid w2c [4, 4]; a uniform scale of the axes is removed.

    `where` names the file and view for the error message.

    Raises:
        SceneError: if the pose is not finite, or not a scaled rotation.
    """
    if not np.isfinite(c2w).all():
        raise SceneError(f"{where}: the pose has a NaN or infinite number")
    axes = c2w[:3, :3]
    with np.errstate(all="ignore"):  # huge numbers overflow, and are then rejected as not rigid
        det = np.linalg.det(axes)
        unscaled = axes @ axes.T / np.cbrt(det) ** 2
    if not (det > 0 and np.abs(unscaled - np.eye(3)).max() <= _RIGID_TOLERANCE):
        raise SceneError(
            f"{where}: the pose is not a rotation and a translation (its 3x3 part is singular, mirrored or sheared, "
            f"determinant {det:.3g}). hint: export the poses again"
        )
    # The nearest rotation (Procrustes) removes the scale and the rounding of printed digits.
    u, _, vt = np.linalg.svd(axes)
    rotation = u @ vt
    w2c = np.eye(4)
    w2c[:3, :3] = rotation.T
    w2c[:3, 3] = -rotation.T @ c2w[:3, 3]
    return w2c


def find_photo(root: Path, listed_path: str) -> Path | None:
    """Find the photo that a scene file lists, even if listed without its extension or with backslashes."""
    path = root / listed_path.replace("\\", "/")
    if path.is_file():
        return path
    for suffix in PHOTO_SUFFIXES:
        for candidate in (suffix, suffix.upper()):
            with_suffix = path.with_name(path.name + candidate)
            if with_suffix.is_file():
                return with_suffix
    return None


def list_photos(folder: Path) -> list[Path]:
    """List all photos directly in a folder, sorted by name; none if the folder does not exist."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in PHOTO_SUFFIXES and not p.name.startswith("."))


def view_name(root: Path, photo: Path) -> str:
    """Return the photo's path relative to the scene, with slashes; steps out of the scene are dropped."""
    relative = PurePosixPath(Path(os.path.relpath(photo, root)).as_posix())
    return "/".join(part for part in relative.parts if part not in ("..", "/"))


def read_json(path: Path) -> dict:
    """Read a JSON object.

    Raises:
        SceneError: with the line of the syntax error.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as e:
        raise SceneError(f"{path}: line {e.lineno}, column {e.colno}: is not JSON ({e.msg})") from e
    except (OSError, UnicodeDecodeError) as e:
        raise SceneError(f"{path}: cannot be read ({e})") from e
    if not isinstance(data, dict):
        raise SceneError(f'{path}: is a {type(data).__name__}, not a JSON object with "frames"')
    return data
