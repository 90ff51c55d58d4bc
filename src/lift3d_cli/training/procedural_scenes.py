"""Where the renderer's training examples come from: procedural scenes, which have exact depth."""

from __future__ import annotations

import functools
import itertools
import os
import random
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from multiprocessing import get_context
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.lifting.refinement import SurfaceFinder
from lift3d_cli.lifting.sources import select_sources
from lift3d_cli.lifting.surfaces import known_surface
from lift3d_cli.pipeline.workspace import Recent
from lift3d_cli.procedural.stream import StreamSpec, stream
from lift3d_cli.training.renderer_data import CPU_CROP, CropSize, Draw, StoredPhoto, draw_crop
from lift3d_cli.training.training_surfaces import disturbed_surface, with_surfaces

# Procedural scenes that share a stock of textures.
_BLOCK_SCENES = 16
# Of the procedural scenes, the share whose surfaces are found by Stage I, which takes as long as some examples.
_FOUND_EVERY = 2


class ProceduralScenes:
    """An endless sequence of random scenes with exact depth, used many times each from a stock that moves along it.

    Args:
        seed: seed of all scenes.
        textures: photos [3, h, w] that some textures are cut from.
        size: size of the crops.
        device: device that stores the photos.
        stock: number of scenes to draw from at a time.
        uses: number of examples drawn per new scene.
        finder: finds the photos' surfaces of some scenes, or None.
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
        finder: SurfaceFinder | None = None,
    ) -> None:
        self._finder = finder
        self._seed = seed
        self._textures = textures
        self._size = size
        self._device = device
        self._stock = stock
        self._uses = uses
        # Scenes come in blocks that share textures: the scenes of a block made so far, and the iterator of the others.
        self._blocks: Recent[tuple[list[list[StoredPhoto]], Iterator[dict[str, Tensor]]]] = Recent(
            stock // _BLOCK_SCENES + 2
        )
        self._making = Lock()

    def draw(self, rng: random.Random, drawn: int = 0) -> Draw:
        """Draw an example with random sources and depth margins.

        Args:
            rng: random numbers; the example depends only on them and on `drawn`.
            drawn: number of examples drawn before.
        """
        with self._making:
            photos = self.scene(drawn // self._uses + rng.randrange(self._stock))
        return draw_procedural(photos, self._size, rng)

    def scene(self, number: int) -> list[StoredPhoto]:
        """Return the photos of a scene, which depend only on its number."""
        block, place = divmod(number, _BLOCK_SCENES)
        made, rest = self._blocks.get(block, lambda: ([], _scene_block(self._seed, block, self.spec, self._textures)))
        while len(made) <= place:
            photos = [photo.to(self._device) for photo in stored_photos(next(rest))]
            is_found = self._finder is not None and len(made) % _FOUND_EVERY == 0
            made.append(with_surfaces(photos, self._finder, self._device) if is_found else photos)
        return made[place]


class ProceduralWorkers:
    """`ProceduralScenes` made by other processes, for trainings that leave the cores free.

    Which scenes exist at a training step depends on how fast they are made.
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
        finder: SurfaceFinder | None = None,
    ) -> None:
        self._finder = finder
        self._size = size
        self._device = device
        self._scenes: deque[list[StoredPhoto]] = deque(maxlen=stock)
        self._collecting = Lock()
        self._pool = ProcessPoolExecutor(workers, get_context("spawn"), _stay_behind)
        kept = [(255 * texture).round().to(torch.uint8).numpy() for texture in textures]
        jobs = ((seed, block, spec or self.spec, kept) for block in itertools.count())
        self._jobs = jobs
        self._pending = {self._pool.submit(_make_block, *next(jobs)) for _ in range(workers)}

    def __len__(self) -> int:
        """Count the scenes to draw from, after collecting finished ones."""
        with self._collecting:
            for job in [job for job in self._pending if job.done()]:
                self._pending.discard(job)
                # A process that died loses its scenes, but does not end the training.
                with suppress(BrokenExecutor):
                    made = [stored_photos({k: torch.from_numpy(x) for k, x in scene.items()}) for scene in job.result()]
                    for number, scene in enumerate(made):
                        photos = [photo.to(self._device) for photo in scene]
                        is_found = self._finder is not None and number % (2 * _FOUND_EVERY) == 0
                        self._scenes.append(with_surfaces(photos, self._finder, self._device) if is_found else photos)
                    self._pending.add(self._pool.submit(_make_block, *next(self._jobs)))
            return len(self._scenes)

    def draw(self, rng: random.Random) -> Draw:
        """Draw an example from the scenes made so far."""
        return draw_procedural(self._scenes[rng.randrange(len(self._scenes))], self._size, rng)

    def close(self) -> None:
        """End the processes."""
        processes = list(self._pool._processes.values())  # the pool forgets them, and would wait for their last block
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()


def _stay_behind() -> None:
    """Lower this process's priority: the training process would wait for a core to launch its kernels."""
    torch.set_num_threads(1)
    if hasattr(os, "nice"):
        os.nice(15)


def _make_block(seed: int, block: int, spec: StreamSpec, textures: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Make the scenes of a block as arrays: tensors would be shared in memory and keep a file open each."""
    scenes = _scene_block(seed, block, spec, [torch.from_numpy(texture).float() / 255 for texture in textures])
    return [{k: x.numpy() for k, x in scene.items()} for scene in itertools.islice(scenes, _BLOCK_SCENES)]


def _scene_block(seed: int, block: int, spec: StreamSpec, textures: Sequence[Tensor]) -> Iterator[dict[str, Tensor]]:
    # Distant seeds: adjacent ones would give the first random numbers of a simple generator in common.
    return stream(seed * 1_000_003 + block, spec, "cpu", textures)


def stored_photos(scene: dict[str, Tensor]) -> list[StoredPhoto]:
    """Convert a procedural scene to stored photos, see `stream`."""
    height, width = scene["depth"].shape[1:]
    images = (scene["images"] * 255).round().to(torch.uint8)
    cameras = [
        Camera(*(x.double().numpy() for x in pose), width, height)
        for pose in zip(*(scene[k] for k in ("K", "w2c")), strict=True)
    ]
    everywhere = torch.ones(height, width, dtype=torch.bool)
    parts = zip(cameras, images, scene["depth"], strict=True)
    return [
        StoredPhoto(camera, image, everywhere, z, (float(z.min()), float(z.max())), is_leveled=True)
        for camera, image, z in parts
    ]


def draw_procedural(photos: Sequence[StoredPhoto], size: CropSize, rng: random.Random) -> Draw:
    """Draw a random example of a procedural scene, with random sources and depth margins.

    The sources' surfaces are as Stage I finds them, where it was asked, exact, disturbed or unknown.
    """
    kinds, shares = ("found", "disturbed", "exact", "unknown"), (0.4, 0.3, 0.2, 0.1)
    kind = rng.choices(kinds, shares)[0]
    order = rng.sample(photos, len(photos))
    if any(photo.surface is not None for photo in photos):
        # Surfaces may have seen all photos but those that have none.
        order.sort(key=lambda photo: photo.surface is not None)
        if kind == "found":
            order = [order[0], *(photo for photo in order if photo.surface is not None)]
        else:
            rng.shuffle(order)
    elif kind == "found":
        kind = "disturbed"
    target, *pool = order
    near, far = target.depth_range
    margins = (near * rng.uniform(0.7, 1), far * rng.uniform(1, 1.6))
    cameras = [photo.camera for photo in pool]
    chosen = select_sources(target.camera, cameras, rng.randint(2, len(pool)), margins, None)
    used = [target, *(pool[i] for i in chosen)]
    draw = draw_crop([lambda p=p: p for p in used], [p.camera for p in used], margins, [1.0] * 3, size, rng)
    seed = rng.getrandbits(62)
    make = {
        "found": lambda photo: photo.surface,
        "disturbed": lambda photo: disturbed_surface(photo, random.Random(f"{seed}/{photo.camera.position}")),
        "exact": lambda photo: known_surface(photo.depth),
    }
    surfaces = [functools.partial(make[kind], photo) for photo in used[1:]] if kind in make else []
    return replace(draw, has_depth=True, surfaces=surfaces)
