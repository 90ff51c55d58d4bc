"""Each photo's own surface: found once by Stage I from the other photos and itself, and kept in the scene's cache."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lift3d_cli.cache.format import key_of
from lift3d_cli.config import RenderConfig
from lift3d_cli.errors import CacheError
from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.lifting.proposal.learned import SURFACE_MOST_VIEWS
from lift3d_cli.lifting.refinement import SurfaceFinder
from lift3d_cli.lifting.sources import SourceViews, select_sources
from lift3d_cli.lifting.surfaces import SURFACE_STRIDE, known_surface, surface_at_size
from lift3d_cli.machine.device import resolve_device
from lift3d_cli.machine.progress import Progress, no_progress
from lift3d_cli.pipeline.encode import to_image
from lift3d_cli.pipeline.renderers import make_renderer
from lift3d_cli.pipeline.workspace import Recent, Workspace, shrunk_size
from lift3d_cli.scene.bounds import depth_range
from lift3d_cli.scene.scene import KnownDepth

# Longer side in pixels of a photo whose surface is found; Stage I looks at every fourth of them.
_MAX_SIZE = 640
# Other photos that a surface is found from, at most.
_VIEWS = SURFACE_MOST_VIEWS - 1
# Rough bound on temporaries.
_MEMORY_BYTES = 2**29
_LEVELS = 65535
# Longer side of a known surface, in cells; and the share of it from which on nothing else is looked for.
_KNOWN_CELLS, _MOSTLY_KNOWN = 480, 0.98
# Surfaces in memory, where they can be read again.
_KEEP = 64


class PhotoSurfaces:
    """The surfaces of a scene's photos, made when they are asked for.

    Args:
        workspace: the scene; where it has a cache, surfaces are read from there and kept there.
        points: [N, 3] points on its surfaces, N may be 0.
        finder: finds them.
        device: where it runs.
        candidates: indices of the photos that may be looked at.
    """

    def __init__(
        self,
        workspace: Workspace,
        points: np.ndarray,
        finder: SurfaceFinder,
        device: torch.device,
        candidates: Sequence[int],
    ) -> None:
        self._workspace = workspace
        self._points = points
        self._finder = finder
        self._device = device
        self._candidates = list(candidates)
        self._choose = functools.cache(self._chosen)
        # Without a cache, all of them: 900 kB each.
        self._made: Recent[Tensor] = Recent(_KEEP if workspace.cache else workspace.num_photos)

    def camera(self, index: int) -> Camera:
        """Return the camera of a photo at the size that its surface is found at."""
        camera = self._workspace.camera(index)
        return camera.resized(*shrunk_size(camera, _MAX_SIZE))

    def key(self, index: int) -> str:
        """Identify a photo's surface by all that it is made from, the depth that the photo comes with among it."""
        return self._found_key(index) + self._workspace.depth_key(index)

    def _found_key(self, index: int) -> str:
        _, near_far, others = self._choose(index)
        photos = [[self._workspace.record(i).key, self._workspace.camera(i).w2c.tolist()] for i in (index, *others)]
        return key_of("surface", {"photos": photos, "range": near_far, **self._finder.settings()})

    def has(self, index: int) -> bool:
        """Tell if a photo's surface is there already, or comes with the photo."""
        cache = self._workspace.cache
        if index in self._made or (cache and cache.has_surface(self._name(index), self._found_key(index))):
            return True
        known = self._workspace.known_depth(index)
        return known is not None and _is_mostly_known(known)

    def get(self, index: int) -> Tensor:
        """Find the surface of a photo.

        Returns:
            [NUM_SURFACE_CHANNELS, h, w], see `lifting.surfaces`, over the whole photo, on the CPU.

        Raises:
            SceneError, CacheError, ResourceError: if a photo cannot be read or the surface not be written.
        """
        return self._made.get(index, lambda: self._merged(index))

    def at_size(self, index: int, camera: Camera) -> Tensor:
        """Find the surface of a photo in the cells of the size that `camera` has, see `get`."""
        return surface_at_size(self.get(index), camera.width, camera.height)

    def find(self, indices: Sequence[int], progress: Progress = no_progress) -> int:
        """Find the surfaces of photos that are missing in the cache; return how many. What is finished is kept.

        Raises:
            SceneError, CacheError, ResourceError: as `get`.
        """
        todo = [index for index in indices if not self.has(index)]
        for index in progress(todo, "surfaces", len(todo)):
            self.get(index)
        return len(todo)

    def _merged(self, index: int) -> Tensor:
        """Take the depth that a photo comes with, and the surface that is found where that says nothing."""
        known = self._workspace.known_depth(index)
        if known is None:
            return _unpacked(self._packed(index))
        rows, columns = known.depth.shape
        factor = SURFACE_STRIDE * min(1.0, _KNOWN_CELLS / max(rows, columns))
        size = max(1, round(columns * factor)), max(1, round(rows * factor))
        surface = surface_at_size(known_surface(torch.from_numpy(known.depth)), *size)
        if _is_mostly_known(known):
            return surface
        return torch.where(surface[2] > 0, surface, surface_at_size(_unpacked(self._packed(index)), *size))

    def _packed(self, index: int) -> dict[str, np.ndarray]:
        cache = self._workspace.cache
        if cache is None:
            return self._find(index)
        name, key = self._name(index), self._found_key(index)
        try:
            return cache.read_surface(name, key)
        except CacheError:
            packed = self._find(index)
            cache.write_surface(name, key, packed)
            return packed

    def _name(self, index: int) -> str:
        return self._workspace.scene.views[index].name

    def _chosen(self, index: int) -> tuple[Camera, tuple[float, float], list[int]]:
        """Choose the depth range and the other photos that a photo's surface is found from."""
        camera = self.camera(index)
        pool = [i for i in self._candidates if i != index]
        near_far = depth_range(camera, self._points, [self._workspace.scene.views[i] for i in (index, *pool)])
        cameras = [self._workspace.camera(i) for i in pool]
        chosen = select_sources(camera, cameras, _VIEWS, near_far, self._points) if pool else []
        return camera, near_far, [pool[i] for i in chosen]

    @torch.inference_mode()
    def _find(self, index: int) -> dict[str, np.ndarray]:
        sources, near_far = self.sources(index)
        surface = self._finder(sources, near_far, _MEMORY_BYTES).cpu()
        return _pack(surface, sources.valid[0, 0].cpu(), near_far)

    def sources(self, index: int) -> tuple[SourceViews, tuple[float, float]]:
        """Return what the surface of a photo is found from, that photo first, and within which z-depths."""
        camera, near_far, others = self._choose(index)
        chosen = [index, *others]
        cameras = [camera, *(source_camera(self._workspace.camera(i), camera) for i in others)]
        photos = [self._workspace.resized(i, c.width, c.height) for i, c in zip(chosen, cameras, strict=True)]
        valid = [torch.from_numpy(photo.valid) for photo in photos]
        return SourceViews.stack(cameras, [to_image(photo) for photo in photos], valid, self._device), near_far


def find_surfaces(workspace: Workspace, config: RenderConfig, progress: Progress = no_progress) -> int:
    """Find the surfaces of all photos that are missing in the scene's cache; return how many.

    Raises:
        SceneError, CacheError, ModelError, ResourceError: in one line.
    """
    device = resolve_device(config.device)
    finder = make_renderer(config, device).surface_finder
    every = range(workspace.num_photos)
    return PhotoSurfaces(workspace, workspace.points(), finder, device, every).find(every, progress)


def source_camera(camera: Camera, target: Camera) -> Camera:
    """Return a photo's camera at a size where its pixels are as fine as the target's: finer ones would alias."""
    factor = min(1.0, target.K[0, 0] / camera.K[0, 0])
    if factor > 1 - 1e-3:  # not worth a resampling
        return camera
    return camera.resized(max(1, round(camera.width * factor)), max(1, round(camera.height * factor)))


def _is_mostly_known(known: KnownDepth) -> bool:
    """Tell if the depth that a photo comes with has so few gaps that nothing else is looked for."""
    return bool((known.depth > 0).mean() > _MOSTLY_KNOWN)


def _pack(surface: Tensor, valid: Tensor, near_far: tuple[float, float]) -> dict[str, np.ndarray]:
    """Write a surface in three bytes a cell: finer than it is found."""
    inverse, step, sure = surface.double()
    nearest, farthest = 1 / near_far[0], 1 / near_far[1]
    position = ((inverse - farthest) / (nearest - farthest)).clamp(0, 1) * _LEVELS
    rows, columns = (
        ((torch.arange(n) + 0.5) / n * size).long() for n, size in zip(sure.shape, valid.shape, strict=True)
    )
    known = valid[rows[:, None], columns]
    return {
        "position": position.round().numpy().astype(np.uint16),
        "sure": (sure * known * 255).round().numpy().astype(np.uint8),
        "range": np.array([farthest, nearest, float(step.max())]),
    }


def _unpacked(packed: dict[str, np.ndarray]) -> Tensor:
    farthest, nearest, step = packed["range"]
    inverse = farthest + packed["position"].astype(np.float64) * ((nearest - farthest) / _LEVELS)
    surface = np.stack([inverse, np.full_like(inverse, step), packed["sure"] / 255])
    return torch.from_numpy(surface.astype(np.float32))
