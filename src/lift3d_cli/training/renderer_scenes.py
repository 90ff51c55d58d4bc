"""Where the renderer's training examples come from: posed photos of real scenes, and procedural ones."""

from __future__ import annotations

import itertools
import os
import random
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from lift3d_cli.config import RenderConfig
from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.lifting.sources import select_sources
from lift3d_cli.pipeline.workspace import Recent, Workspace
from lift3d_cli.procedural.stream import StreamSpec, stream
from lift3d_cli.scene.bounds import depth_range
from lift3d_cli.scene.load import load_scene
from lift3d_cli.scene.photos import resize_photo
from lift3d_cli.scene.scene import Scene, View
from lift3d_cli.training.renderer_data import CPU_CROP, CropSize, Draw, StoredPhoto, draw_crop

# Procedural scenes that share a stock of textures.
_BLOCK_SCENES = 16
# Of photos, of which each example takes one: near and far, coarse and fine.
_SCALES = (1.0, 0.75, 0.5)


class RealScenes:
    """Posed photos: one of a scene is left out at random and rendered from others.

    Args:
        scenes: their folders, or scenes as they are.
        height: of the photos, in pixels, at most.
        size: of the crops.
        device: where the photos stay.
        as_rendered: examples are what a renderer meets: the whole photos as they are, from the best sources there are.
    """

    def __init__(
        self,
        scenes: Sequence[Path | Scene],
        height: int,
        size: CropSize,
        device: torch.device | str = "cpu",
        as_rendered: bool = False,
    ) -> None:
        self._height, self._size, self._device, self._as_rendered = height, size, device, as_rendered
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            self._photos = [Workspace(scene, None) for scene in pool.map(_loaded, scenes)]
            self._points = list(pool.map(Workspace.points, self._photos))
        # Larger scenes more often, but not in proportion: 300 photos of one room are no 300 scenes.
        self._shares = [photos.num_photos**0.5 for photos in self._photos]
        self._stored: dict[tuple[int, int], dict[float, StoredPhoto]] = {}

    def draw(self, rng: random.Random) -> Draw:
        """A random example, with random numbers of sources, gaps between them, scale, depth margins and colours."""
        which = rng.choices(range(len(self._photos)), self._shares)[0]
        views = self._photos[which].scene.views
        if self._as_rendered:
            return self._draw_as_rendered(which, rng)
        left_out, chosen, (near, far) = draw_views(views, self._points[which], rng)
        scale = rng.choice((1.0, *_SCALES))
        gain = [rng.uniform(0.8, 1.2) for _ in range(3)] if rng.random() < 0.5 else [1.0] * 3
        margins = (near * rng.uniform(0.8, 1.1), far * rng.uniform(0.9, 1.4))
        cameras = [self._camera(views[i], scale) for i in [left_out, *chosen]]
        photos = [_Later(self, which, i, scale) for i in [left_out, *chosen]]
        return draw_crop(photos, cameras, margins, gain, self._size, rng)

    def _draw_as_rendered(self, which: int, rng: random.Random) -> Draw:
        views, points = self._photos[which].scene.views, self._points[which]
        left_out = rng.randrange(len(views))
        indices, bounds = choose_sources(views, left_out, RenderConfig.views, points)
        indices = [left_out, *indices]
        cameras, photos = [self._camera(views[i], 1.0) for i in indices], [_Later(self, which, i, 1.0) for i in indices]
        return replace(draw_crop(photos, cameras, bounds, [1.0] * 3, self._size, rng), is_mirrored=False)

    def preload(self, workers: int) -> None:
        """Read all photos now, so that no step waits for one."""
        every = [(k, i) for k, photos in enumerate(self._photos) for i in range(photos.num_photos)]
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(lambda place: self.stored(*place, 1.0), every))

    def stored(self, which: int, index: int, scale: float) -> StoredPhoto:
        """A photo of a scene at one of the scales; read once."""
        if (which, index) not in self._stored:
            photos = self._photos[which]
            photo, view = photos.photo(index), photos.scene.views[index]
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


def _loaded(scene: Path | Scene) -> Scene:
    return scene if isinstance(scene, Scene) else load_scene(scene)


@dataclass(frozen=True)
class _Later:
    """A photo that is read when it is needed."""

    scenes: RealScenes
    which: int
    index: int
    scale: float

    def __call__(self) -> StoredPhoto:
        return self.scenes.stored(self.which, self.index, self.scale)


def draw_views(
    views: Sequence[View], points: np.ndarray, rng: random.Random
) -> tuple[int, list[int], tuple[float, float]]:
    """A photo to leave out, 3 to 10 others to render it from, perhaps with gaps between them, and near and far."""
    left_out = rng.randrange(len(views))
    pool = [i for i in range(len(views)) if i != left_out]
    if rng.random() < 0.5:
        share = rng.uniform(0.4, 1)
        pool = [i for i in pool if rng.random() < share] or pool
    return left_out, *choose_sources(views, left_out, rng.randint(3, 10), points, pool)


def choose_sources(
    views: Sequence[View], left_out: int, number: int, points: np.ndarray, pool: Sequence[int] = ()
) -> tuple[list[int], tuple[float, float]]:
    """The photos of `pool` (all others) to render one from, so many at most, and near and far."""
    pool = pool or [i for i in range(len(views)) if i != left_out]
    camera = views[left_out].camera
    bounds = depth_range(camera, points, views)
    chosen = select_sources(camera, [views[i].camera for i in pool], number, bounds, points)
    return [pool[i] for i in chosen], bounds


class ProceduralScenes:
    """Random scenes with exact depth, without end: a stock of them is used again and again while it moves on.

    Args:
        seed: of all scenes.
        textures: photos [3, h, w] to cut some of the textures from.
        size: of the crops.
        device: where the photos stay.
        stock: scenes that are drawn from at a time.
        uses: examples drawn per new scene.
    """

    spec = StreamSpec(num_views=8)

    def __init__(
        self,
        seed: int,
        textures: Sequence[Tensor] = (),
        size: CropSize = CPU_CROP,
        device: torch.device | str = "cpu",
        stock: int = 64,
        uses: int = 8,
    ) -> None:
        self._seed, self._textures, self._size, self._device = seed, textures, size, device
        self._stock, self._uses = stock, uses
        # Scenes come in blocks that share textures: the first ones of a block, and how the next ones are made.
        self._blocks: Recent[tuple[list[list[StoredPhoto]], Iterator[dict[str, Tensor]]]] = Recent(
            stock // _BLOCK_SCENES + 2
        )
        self._making = Lock()

    def draw(self, rng: random.Random, drawn: int = 0) -> Draw:
        """A random example, with random sources and depth margins.

        Args:
            rng: random numbers; the example depends on them and on the next argument alone.
            drawn: how many examples were drawn before.
        """
        with self._making:
            photos = self._scene(drawn // self._uses + rng.randrange(self._stock))
        return draw_procedural(photos, self._size, rng)

    def _scene(self, number: int) -> list[StoredPhoto]:
        block, place = divmod(number, _BLOCK_SCENES)
        made, rest = self._blocks.get(block, lambda: ([], _block(self._seed, block, self.spec, self._textures)))
        while len(made) <= place:
            made.append([photo.to(self._device) for photo in stored_photos(next(rest))])
        return made[place]


class ProceduralWorkers:
    """`ProceduralScenes` by processes of their own, for where the training itself leaves the cores free.

    Which scenes there are at a step depends on how fast they are made.
    """

    spec = StreamSpec(num_views=9, width=320, height=240, num_textures=32)

    def __init__(
        self,
        seed: int,
        textures: Sequence[Tensor],
        size: CropSize,
        device: torch.device | str,
        workers: int,
        spec: StreamSpec | None = None,
        stock: int = 1000,
    ) -> None:
        self._size, self._device = size, device
        self._scenes: deque[list[StoredPhoto]] = deque(maxlen=stock)
        self._collecting = Lock()
        self._pool = ProcessPoolExecutor(workers, get_context("spawn"), _stay_behind)
        kept = [(255 * texture).round().to(torch.uint8).numpy() for texture in textures]
        jobs = ((seed, block, spec or self.spec, kept) for block in itertools.count())
        self._jobs, self._pending = jobs, {self._pool.submit(_make_block, *next(jobs)) for _ in range(workers)}

    def __len__(self) -> int:
        """Scenes that there are to draw from now."""
        with self._collecting:
            for job in [job for job in self._pending if job.done()]:
                self._pending.discard(job)
                # A process that died takes its scenes along, and no training: the others' are there.
                with suppress(BrokenExecutor):
                    made = [stored_photos({k: torch.from_numpy(x) for k, x in scene.items()}) for scene in job.result()]
                    self._scenes.extend([photo.to(self._device) for photo in scene] for scene in made)
                    self._pending.add(self._pool.submit(_make_block, *next(self._jobs)))
            return len(self._scenes)

    def draw(self, rng: random.Random) -> Draw:
        """A random example of the scenes that there are."""
        return draw_procedural(self._scenes[rng.randrange(len(self._scenes))], self._size, rng)

    def close(self) -> None:
        """End the processes."""
        processes = list(self._pool._processes.values())  # the pool forgets them, and would wait for their last block
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()


def _stay_behind() -> None:
    """Leave the cores to the training, which otherwise waits for its own launches."""
    torch.set_num_threads(1)
    if hasattr(os, "nice"):
        os.nice(15)


def _make_block(seed: int, block: int, spec: StreamSpec, textures: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Scenes of a block, as arrays: tensors would go by shared memory and keep a file open each."""
    scenes = _block(seed, block, spec, [torch.from_numpy(texture).float() / 255 for texture in textures])
    return [{k: x.numpy() for k, x in scene.items()} for scene in itertools.islice(scenes, _BLOCK_SCENES)]


def _block(seed: int, block: int, spec: StreamSpec, textures: Sequence[Tensor]) -> Iterator[dict[str, Tensor]]:
    # Any two seeds far apart; neighbours would share the first numbers of a simple generator.
    return stream(seed * 1_000_003 + block, spec, "cpu", textures)


def stored_photos(scene: dict[str, Tensor]) -> list[StoredPhoto]:
    """The photos of a procedural scene, see `stream`."""
    height, width = scene["depth"].shape[1:]
    images = (scene["images"] * 255).round().to(torch.uint8)
    cameras = [
        Camera(*(x.double().numpy() for x in pose), width, height)
        for pose in zip(*(scene[k] for k in ("K", "w2c")), strict=True)
    ]
    everywhere = torch.ones(height, width, dtype=torch.bool)
    parts = zip(cameras, images, scene["depth"], strict=True)
    return [StoredPhoto(camera, image, everywhere, z, (float(z.min()), float(z.max()))) for camera, image, z in parts]


def draw_procedural(photos: Sequence[StoredPhoto], size: CropSize, rng: random.Random) -> Draw:
    """A random example of a procedural scene, with random sources and depth margins."""
    target, *pool = rng.sample(photos, len(photos))
    near, far = target.depth_range
    margins = (near * rng.uniform(0.7, 1), far * rng.uniform(1, 1.6))
    cameras = [photo.camera for photo in pool]
    chosen = select_sources(target.camera, cameras, rng.randint(2, len(pool)), margins, None)
    used = [target, *(pool[i] for i in chosen)]
    draw = draw_crop([lambda p=p: p for p in used], [p.camera for p in used], margins, [1.0] * 3, size, rng)
    return replace(draw, has_depth=True)
