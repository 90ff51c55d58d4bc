"""Shared by all scene readers: collects the views of a scene, and says what is odd about them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from lift3d_cli.errors import SceneError
from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.scene.lens import Intrinsics
from lift3d_cli.scene.photo_files import PhotoFinder, free_name, natural_key
from lift3d_cli.scene.photos import photo_size
from lift3d_cli.scene.scene import DepthFile, Scene, View

# Resizing to whole pixels changes the aspect ratio by at most 1 pixel in 50; cropping changes it by more.
_ASPECT_TOLERANCE = 0.02
# Two poses of one photo are the same up to printed digits.
_SAME_POSE = 1e-6


@dataclass
class SceneBuilder:
    """Collects the views of one scene file.

    Args:
        root: folder of the scene.
        source: the file that error messages name.
        format: see `Scene`.
        listed: the paths of all photos that the file lists.
        folders: folders that they may count from, beside the scene's.
    """

    root: Path
    source: Path
    format: str
    listed: Iterable[str] = ()
    folders: Sequence[Path] = ()
    unread_keys: tuple[str, ...] = ()
    views: dict[Path, View] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    _notes: dict[str, list[str]] = field(default_factory=dict)  # what is odd, and where
    _listed_as: dict[Path, str] = field(default_factory=dict)
    _missing: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.photos = PhotoFinder(self.root, self.listed, self.folders)

    def find(self, listed_path: str) -> Path | None:
        """Find a listed photo; one that is not there is counted, and left out of the scene."""
        photo = self.photos.find(listed_path)
        if photo is None:
            self._missing.append(listed_path)
        return photo

    def note(self, what: str, example: str) -> None:
        """Warn of something, once however often it is noted: with the number of times, and the first example."""
        self._notes.setdefault(what, []).append(example)

    def add(
        self,
        listed_path: str,
        photo: Path,
        intrinsics: Intrinsics,
        w2c: np.ndarray,
        mask_path: Path | None = None,
        depth_range: tuple[float, float] | None = None,
        depth_file: DepthFile | None = None,
    ) -> None:
        """Add a view; one that is there already with the same camera is passed over, with a warning.

        Raises:
            SceneError: if the photo has another camera already, or the camera is impossible.
        """
        where = f"{self.source}: view {listed_path}"
        intrinsics.check(where)
        width, height = photo_size(photo, intrinsics.width, intrinsics.height)
        camera = Camera(intrinsics.matrix(width, height), w2c, width, height)
        if photo in self.views:
            self._check_same(photo, camera, listed_path)
            self.note("entries repeat a photo with the same pose, and are passed over", listed_path)
            return
        if abs(width / height * intrinsics.height / intrinsics.width - 1) > _ASPECT_TOLERANCE:
            self.note(
                "photos have another shape than their camera; they are taken as stretched, not cropped", listed_path
            )
        if doubt := intrinsics.doubt():
            self.note("photos have a principal point far from the middle", f"{listed_path} at {doubt}")
        if depth_file is not None and not os.path.isfile(depth_file.path):
            self.note("depth files that it lists are absent; these photos have no depth", str(depth_file.path))
            depth_file = None
        name = free_name(view_name(self.root, photo), {view.name for view in self.views.values()})
        self._listed_as[photo] = listed_path
        self.views[photo] = View(name, photo, camera, intrinsics.distortion, mask_path, depth_range, depth_file)

    def scene(self, points: np.ndarray | None = None) -> Scene:
        """Make the scene, with views in the natural order of their names.

        Raises:
            SceneError: if no view has a photo.
        """
        if not self.views and self._missing:
            raise SceneError(
                f"{self.source}: none of its {len(self._missing)} photos is there, for example {self._missing[0]}. "
                f"hint: {self.photos.near_miss(self._missing[0])}"
            )
        if not self.views:
            raise SceneError(f"{self.source}: lists no photos. hint: a scene needs at least one posed photo")
        views = tuple(sorted(self.views.values(), key=lambda view: natural_key(view.name)))
        warnings = [*self.warnings, *self._counted(), *_degenerate(self.source, [view.camera for view in views])]
        return Scene(self.root, self.format, views, points, tuple(warnings), self.unread_keys)

    def _check_same(self, photo: Path, camera: Camera, listed_path: str) -> None:
        old = self.views[photo].camera
        scale = max(1.0, float(np.abs(old.w2c).max()))
        if np.abs(old.w2c - camera.w2c).max() <= _SAME_POSE * scale and np.allclose(old.K, camera.K, rtol=1e-4):
            return
        first = self._listed_as[photo]
        names = f"{first} and {listed_path} are both {photo}," if first != listed_path else f"{photo} is listed twice,"
        raise SceneError(f"{self.source}: {names} with different cameras. hint: delete one of the two entries")

    def _counted(self) -> list[str]:
        notes = [f"{len(where)} {what}, for example {where[0]}" for what, where in self._notes.items()]
        if self._missing:
            total = len(self._missing) + len(self.views)
            absent = f"{len(self._missing)} of {total} listed photos are absent and left out"
            notes.insert(0, f"{absent}, for example {self._missing[0]}")
        return [f"{self.source}: {note}" for note in notes]


def view_name(root: Path, photo: Path) -> str:
    """Return the photo's path relative to the scene, with slashes; steps out of the scene are dropped."""
    relative = PurePosixPath(Path(os.path.relpath(photo, root)).as_posix())
    return "/".join(part for part in relative.parts if part not in ("..", "/"))


def _degenerate(source: Path, cameras: Sequence[Camera]) -> list[str]:
    """Say what a capture lacks for surfaces to be found in it."""
    positions = np.stack([camera.position for camera in cameras])
    if len(cameras) == 1:
        return [f"{source}: has one photo, so that no surface can be found. hint: photos from two places or more"]
    if np.ptp(positions, axis=0).max() > 1e-9 * max(1e-300, float(np.abs(positions).max())):
        return []
    turns = np.stack([camera.w2c[:3, :3] for camera in cameras])
    what = "were taken from one place" if np.ptp(turns, axis=0).max() > 1e-6 else "have the same pose"
    return [f"{source}: all {len(cameras)} photos {what}, so that no surface can be found. hint: move between photos"]
