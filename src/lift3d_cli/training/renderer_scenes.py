"""Where the renderer's training examples come from: posed photos of real scenes."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lift3d_cli.cache.location import cache_dir
from lift3d_cli.cache.store import SceneCache
from lift3d_cli.config import RenderConfig
from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.lifting.covisible import covisible_points
from lift3d_cli.lifting.exposure import harmonized, unexposed
from lift3d_cli.lifting.refinement import SurfaceFinder
from lift3d_cli.lifting.sources import SourceViews, select_sources
from lift3d_cli.lifting.surfaces import surface_at_size
from lift3d_cli.pipeline.surfaces import PhotoSurfaces
from lift3d_cli.pipeline.workspace import Workspace
from lift3d_cli.scene.bounds import depth_range
from lift3d_cli.scene.load import load_scene
from lift3d_cli.scene.photos import resize_photo
from lift3d_cli.scene.scene import Scene, View
from lift3d_cli.training.renderer_data import CropSize, Draw, StoredPhoto, draw_crop
from lift3d_cli.training.training_surfaces import split_targets

# Of photos, of which each example takes one: near and far, coarse and fine.
_SCALES = (1.0, 0.75, 0.5)
# Numbers of sources that people render from; half of the examples have one of these, the others any.
_USUAL_NUMBERS = (8, 8, 10)
MOST_VIEWS = 10
"""The most sources of an example."""
# Of each photo, the most others that its exposure is compared with.
_COMPARED = 12
# Of the examples whose sources have surfaces, the share that is not told.
_WITHOUT_SURFACES = 0.1


class RealScenes:
    """Real scenes with posed photos: a random photo is left out and rendered from others.

    Args:
        scenes: their folders, or scenes as they are.
        height: maximum height of the photos, in pixels.
        size: size of the crops.
        device: device that stores the photos.
        finder: finds the sources' own surfaces, which are kept in the scenes' caches; None to do without.
        as_rendered: draw examples as photos are rendered: in full size and colour, from the best sources.
    """

    def __init__(
        self,
        scenes: Sequence[Path | Scene],
        height: int,
        size: CropSize,
        device: torch.device | str = "cpu",
        finder: SurfaceFinder | None = None,
        as_rendered: bool = False,
    ) -> None:
        self._height = height
        self._size = size
        self._device = device
        self._as_rendered = as_rendered
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            caches = [None if finder is None else _cache(scene) for scene in scenes]
            self._workspaces = [Workspace(*pair) for pair in zip(pool.map(_loaded, scenes), caches, strict=True)]
            self._points = list(pool.map(Workspace.points, self._workspaces))
        self._surfaces: list[PhotoSurfaces] | None = None
        if finder is not None:
            self._surfaces = [
                PhotoSurfaces(each, points, finder, torch.device(device), split_targets(each.num_photos)[1])
                for each, points in zip(self._workspaces, self._points, strict=True)
            ]
        # Larger scenes are drawn more often, but not in proportion: 300 photos of one room are not 300 scenes.
        self._shares = [workspace.num_photos**0.5 for workspace in self._workspaces]
        self._stored: dict[tuple[int, int], dict[float, StoredPhoto]] = {}
        self._preloaded: dict[tuple[int, int], Tensor] = {}  # surfaces

    def draw(self, rng: random.Random) -> Draw:
        """Draw an example with random numbers of sources, gaps between them, scale, depth margins and colours."""
        which = rng.choices(range(len(self._workspaces)), self._shares)[0]
        views = self._workspaces[which].scene.views
        targets, others = split_targets(len(views)) if self._surfaces else ((), ())
        if self._as_rendered:
            return self._draw_as_rendered(which, rng, targets, others)
        left_out, chosen, (near, far) = draw_views(views, self._points[which], rng, targets, others)
        scale = rng.choice((1.0, *_SCALES))
        gain = [rng.uniform(0.8, 1.2) for _ in range(3)] if rng.random() < 0.5 else [1.0] * 3
        margins = (near * rng.uniform(0.8, 1.1), far * rng.uniform(0.9, 1.4))
        cameras = [self._camera(views[i], scale) for i in [left_out, *chosen]]
        photos = [_Later(self, which, i, scale) for i in [left_out, *chosen]]
        draw = draw_crop(photos, cameras, margins, gain, self._size, rng)
        return draw if rng.random() < _WITHOUT_SURFACES else self._with_surfaces(draw, which, chosen)

    def _draw_as_rendered(self, which: int, rng: random.Random, targets: Sequence[int], others: Sequence[int]) -> Draw:
        views, points = self._workspaces[which].scene.views, self._points[which]
        left_out = rng.choice(targets or range(len(views)))
        pool = [i for i in others or range(len(views)) if i != left_out]
        chosen, bounds = choose_sources(views, left_out, RenderConfig.views, points, pool)
        cameras = [self._camera(views[i], 1.0) for i in [left_out, *chosen]]
        photos = [_Later(self, which, i, 1.0) for i in [left_out, *chosen]]
        draw = draw_crop(photos, cameras, bounds, [1.0] * 3, self._size, rng)
        return self._with_surfaces(replace(draw, is_mirrored=False), which, chosen)

    def _with_surfaces(self, draw: Draw, which: int, chosen: Sequence[int]) -> Draw:
        if self._surfaces is None:
            return draw
        return replace(draw, surfaces=[functools.partial(self._surface, which, i) for i in chosen])

    def _surface(self, which: int, index: int) -> Tensor:
        # Unpacking eight files for each example would take more time than a GPU needs to learn from it.
        found = self._preloaded.get((which, index))
        return self._surfaces[which].get(index) if found is None else found

    def preload(self, workers: int) -> None:
        """Read all photos and find their surfaces now, so that no training step waits for one."""
        every = [(k, i) for k, workspace in enumerate(self._workspaces) for i in range(workspace.num_photos)]
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(lambda place: self.stored(*place, 1.0), every))
            list(pool.map(self._preload_surfaces, range(len(self._surfaces or ()))))

    def _preload_surfaces(self, which: int) -> None:
        """Find a scene's surfaces, and bring its photos to one exposure by them, which takes too long at each step."""
        found, small = [], []
        others = split_targets(self._workspaces[which].num_photos)[1]
        for i in others:
            self._preloaded[which, i] = self._surfaces[which].get(i).to(self._device)
            small.append(self.stored(which, i, min(_SCALES)))
            found.append(surface_at_size(self._preloaded[which, i], small[-1].camera.width, small[-1].camera.height))
        images, cameras = [photo.image / 255 for photo in small], [photo.camera for photo in small]
        sources = SourceViews.stack(cameras, images, [p.valid for p in small], self._device, surfaces=found)
        exposures = harmonized(sources, covisible_points(sources, _COMPARED)).exposures
        for i, exposure in zip(others, [None] * len(others) if exposures is None else exposures, strict=True):
            self._stored[which, i] = {scale: _leveled(p, exposure) for scale, p in self._stored[which, i].items()}

    def stored(self, which: int, index: int, scale: float) -> StoredPhoto:
        """Return a photo of a scene at one of the scales; it is read once."""
        if (which, index) not in self._stored:
            workspace = self._workspaces[which]
            photo, view = workspace.photo(index), workspace.scene.views[index]
            made = {}
            for each in _SCALES:
                camera = self._camera(view, each)
                small = resize_photo(photo, camera.width, camera.height)
                image = torch.from_numpy(np.ascontiguousarray(small.image.transpose(2, 0, 1)))
                made[each] = StoredPhoto(camera, image, torch.from_numpy(small.valid)).to(self._device)
            self._stored[which, index] = made
        return self._stored[which, index][scale]

    def _camera(self, view: View, scale: float) -> Camera:
        camera = view.camera
        factor = min(1.0, self._height / camera.height) * scale
        return camera.resized(max(1, round(camera.width * factor)), max(1, round(camera.height * factor)))


def _leveled(photo: StoredPhoto, exposure: Tensor | None) -> StoredPhoto:
    """Take an exposure [3, K] from a photo; None where no photo tells it."""
    if exposure is None:
        return replace(photo, is_leveled=True)
    image = 255 * unexposed(photo.image[None] / 255, exposure[None])[0]
    return replace(photo, image=image.round().to(torch.uint8), is_leveled=True)


def _loaded(scene: Path | Scene) -> Scene:
    return scene if isinstance(scene, Scene) else load_scene(scene)


@dataclass(frozen=True)
class _Later:
    """A photo that is read on demand."""

    scenes: RealScenes
    which: int
    index: int
    scale: float

    def __call__(self) -> StoredPhoto:
        return self.scenes.stored(self.which, self.index, self.scale)


def _cache(scene: Path | Scene) -> SceneCache | None:
    """Keep the surfaces of a folder in its cache; those of a scene with photos left out stay in memory."""
    return None if isinstance(scene, Scene) else SceneCache(cache_dir(scene).path)


def draw_views(
    views: Sequence[View],
    points: np.ndarray,
    rng: random.Random,
    targets: Sequence[int] = (),
    others: Sequence[int] = (),
) -> tuple[int, list[int], tuple[float, float]]:
    """Draw a photo to leave out, 3 to 10 others to render it from, perhaps with gaps between them, and near and far.

    Args:
        views: views of the scene.
        points: points on its surfaces.
        rng: random numbers.
        targets, others: indices of those that may be left out, and of those to render from; empty for all.
    """
    left_out = rng.choice(targets or range(len(views)))
    pool = [i for i in others or range(len(views)) if i != left_out]
    if rng.random() < 0.35:
        share = rng.uniform(0.4, 1)
        pool = [i for i in pool if rng.random() < share] or pool
    number = rng.randint(3, MOST_VIEWS) if rng.random() < 0.5 else rng.choice(_USUAL_NUMBERS)
    return left_out, *choose_sources(views, left_out, number, points, pool)


def choose_sources(
    views: Sequence[View], left_out: int, number: int, points: np.ndarray, pool: Sequence[int] = ()
) -> tuple[list[int], tuple[float, float]]:
    """Choose at most `number` photos of `pool` (default: all others) to render one from, and near and far."""
    pool = pool or [i for i in range(len(views)) if i != left_out]
    camera = views[left_out].camera
    bounds = depth_range(camera, points, views)
    chosen = select_sources(camera, [views[i].camera for i in pool], number, bounds, points)
    return [pool[i] for i in chosen], bounds
