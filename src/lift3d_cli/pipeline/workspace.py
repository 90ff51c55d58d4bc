"""A scene as the pipeline works on it: photos identified, undistorted once and resized, a few kept in memory."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import replace
from threading import Lock
from typing import Generic, TypeVar

import numpy as np

from lift3d_cli.cache.format import PhotoRecord, key_of
from lift3d_cli.cache.store import SceneCache, describe_photo, file_sha256
from lift3d_cli.errors import CacheError, SceneError
from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.pipeline.known_depth import KnownDepths
from lift3d_cli.scene.bounds import surface_points
from lift3d_cli.scene.photos import read_photo, resize_photo
from lift3d_cli.scene.scene import KnownDepth, Photo, Scene

T = TypeVar("T")
# A map of 640x480 takes 1.2 MB; a target has 8 or 10 sources, most of which the next one has too.
_DEPTHS_KEPT = 16


class Recent(Generic[T]):
    """A cache of the last `size` values by key: most values made for one pose are used for the next one too.

    It may be shared by threads; if two miss the same value at the same time, both make it, and one is kept.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = Lock()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._values

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the value of `key`, and make it first if it is missing."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        made = make()  # outside the lock, so that hits do not wait for another thread's miss
        with self._lock:
            value = self._values.setdefault(key, made)
            if len(self._values) > self._size:
                self._values.popitem(last=False)
        return value


class Workspace:
    """A scene to work on: its cameras and photos by index, the points on its surfaces, and its cache.

    Args:
        scene: the scene.
        cache: where undistorted photos are kept, or None to keep nothing on disk.
        keep: how many resized photos to hold in memory; see `PHOTOS_PER_VIEW`.
        hidden: indices of photos that are left out: their depth is not given, nor used to judge that of others.
    """

    def __init__(
        self, scene: Scene, cache: SceneCache | None, keep: int = 16, hidden: frozenset[int] = frozenset()
    ) -> None:
        self.scene = scene
        self.cache = cache
        self.sha256 = functools.cache(file_sha256)
        self._records: dict[tuple[int, tuple[int, int] | None], PhotoRecord] = {}
        self._recent: Recent[Photo] = Recent(keep)
        self._points: dict[tuple[int, ...], np.ndarray] = {}
        self._depths = KnownDepths(self, hidden)
        self._recent_depths: Recent[KnownDepth | None] = Recent(_DEPTHS_KEPT)

    @property
    def num_photos(self) -> int:
        """Count the photos, which are those of `Scene.views`, in their order."""
        return len(self.scene.views)

    def camera(self, index: int) -> Camera:
        """Return the camera of a photo, undistorted and in the full size that it has here."""
        return self.scene.views[index].camera

    def record(self, index: int, size: tuple[int, int] | None = None) -> PhotoRecord:
        """Identify a photo, shrunk to `size` (width, height); the file's bytes are read the first time."""
        view = self.scene.views[index]
        camera, distortion = view.camera, view.distortion
        if (index, size) not in self._records:
            self._records[index, size] = describe_photo(
                view.name,
                view.image_path,
                camera.K,
                camera.width,
                camera.height,
                None if distortion is None else (distortion.model, distortion.coeffs),
                view.mask_path,
                size,
                self.sha256,
            )
        return self._records[index, size]

    def photos_digest(self) -> str:
        """Identify the scene by what is in its photos' files, wherever they lie and whatever they are called."""
        return key_of("photos", {"files": sorted(self.sha256(view.image_path) for view in self.scene.views)})[:32]

    def photo(self, index: int) -> Photo:
        """Read a photo in full size, undistorted; if that changes it, the result is kept in the cache."""
        view = self.scene.views[index]
        if self.cache is None or view.distortion is None:
            return read_photo(view)
        record = self.record(index)
        if self.cache.has_photo(record):
            return Photo(*self.cache.read_photo(record))
        photo = read_photo(view)
        self.cache.write_photo(record, photo.image, photo.valid, photo.opaque)
        return photo

    def resized(self, index: int, width: int, height: int) -> Photo:
        """Return a photo resampled to another size."""
        return self._recent.get((index, width, height), lambda: resize_photo(self.photo(index), width, height))

    def points(self, indices: list[int] | None = None) -> np.ndarray:
        """Return [N, 3] surface points, from the file or the photos `indices` (all); found once, kept in the cache."""
        key = tuple(range(self.num_photos) if indices is None else indices)
        if key not in self._points:
            self._points[key] = self._find_points(indices)
        return self._points[key]

    def _find_points(self, indices: list[int] | None) -> np.ndarray:
        views = self.scene.views if indices is None else [self.scene.views[i] for i in indices]
        if self.cache is None or self.scene.points is not None:
            return surface_points(self.scene, views=views)
        chosen = range(self.num_photos) if indices is None else indices
        ingredients = [[self.record(i).key, self.camera(i).w2c.tolist()] for i in chosen]
        key = key_of("points", {"photos": ingredients})
        try:
            return self.cache.read_arrays("points", key)["xyz"]
        except (CacheError, KeyError):
            points = surface_points(self.scene, views=views)
            self.cache.write_arrays("points", key, {"xyz": points})
            return points

    def known_depth(self, index: int) -> KnownDepth | None:
        """Return the depth that a photo comes with; None if there is none, or if it contradicts the photos.

        Raises:
            SceneError, ResourceError: if a file cannot be read, or all depth of the scene contradicts its photos.
        """
        return self._recent_depths.get(index, lambda: self._depths.read(index))

    def depth_key(self, index: int) -> str:
        """Identify `known_depth` by the file and how it is understood; "" if there is none."""
        return self._depths.key(index)

    def depth_warnings(self) -> tuple[str, ...]:
        """Say in lines for the user which photos' depth is not used, and why."""
        return self._depths.warnings()


class ResizedWorkspace(Workspace):
    """A scene with all photos and cameras resized to one height; nothing is kept on disk."""

    def __init__(self, scene: Scene, height: int, keep: int, hidden: frozenset[int] = frozenset()) -> None:
        super().__init__(_resized_scene(scene, height), None, keep)
        self._full = Workspace(scene, None, hidden=hidden)

    def resized(self, index: int, width: int, height: int) -> Photo:
        """Resize a photo from its full size, so that it is resampled once; see `Workspace`."""
        return self._recent.get((index, width, height), lambda: resize_photo(self._full.photo(index), width, height))

    def points(self, indices: list[int] | None = None) -> np.ndarray:
        """See `Workspace`."""
        return self._full.points(indices)

    def known_depth(self, index: int) -> KnownDepth | None:
        """See `Workspace`; of the photo in full size, as the camera is the same at another size."""
        return self._full.known_depth(index)

    def depth_key(self, index: int) -> str:
        """See `Workspace`."""
        return self._full.depth_key(index)

    def depth_warnings(self) -> tuple[str, ...]:
        """See `Workspace`."""
        return self._full.depth_warnings()


def _resized_scene(scene: Scene, height: int) -> Scene:
    if height == 0:
        return scene
    if height < 16:
        raise SceneError(f"--height {height}: too small to compare. hint: 320")
    views = []
    for view in scene.views:
        width = max(1, round(view.camera.width * height / view.camera.height))
        views.append(replace(view, camera=view.camera.resized(width, height)))
    return replace(scene, views=tuple(views))


def shrunk_size(camera: Camera, max_size: int | None) -> tuple[int, int]:
    """Return (width, height) of a camera's image with its longer side at most `max_size`."""
    factor = 1.0 if max_size is None else min(1.0, max_size / max(camera.width, camera.height))
    return max(1, round(camera.width * factor)), max(1, round(camera.height * factor))
