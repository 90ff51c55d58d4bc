"""What the rendering network is trained on: crops of held-out photos of real scenes, and of procedural ones."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.lifting.sources import SourceViews, select_sources
from lift3d_cli.scene.bounds import depth_range
from lift3d_cli.scene.load import load_scene
from lift3d_cli.scene.procedural.stream import StreamSpec, stream
from lift3d_cli.stages.encode import to_image
from lift3d_cli.stages.photos import Recent, ResizedPhotos

# Procedural scenes that share a stock of textures.
_BLOCK_SCENES = 16
# A crop that fits the receptive field of the network a few times over and still trains in a second or two on two cores.
CROP_WIDTH, CROP_HEIGHT = 112, 96


@dataclass(frozen=True)
class Example:
    """A target crop and the source photos to render it from.

    Args:
        target: camera of the crop.
        sources: 2 to 10 photos.
        depth_range: (near, far).
        image: [3, h, w] the true crop.
        counts: [h, w] bool, True where it is known.
        depth: [h, w] z-depth where it is known exactly, or None.
    """

    target: Camera
    sources: SourceViews
    depth_range: tuple[float, float]
    image: Tensor
    counts: Tensor
    depth: Tensor | None

    def to(self, device: torch.device | str) -> Example:
        """The same on another device."""
        views = self.sources
        sources = SourceViews(views.cameras, views.images.to(device), views.valid.to(device))
        depth = None if self.depth is None else self.depth.to(device)
        return replace(self, sources=sources, image=self.image.to(device), counts=self.counts.to(device), depth=depth)


class RealScenes:
    """Posed photos: one of a scene is left out at random and rendered from others.

    Args:
        folders: scenes.
        height: of the photos, in pixels.
    """

    def __init__(self, folders: Sequence[Path], height: int) -> None:
        self._scenes = [ResizedPhotos(load_scene(folder), height, keep=1024) for folder in folders]
        self._points = [photos.points() for photos in self._scenes]
        # Larger scenes more often, but not in proportion: 300 photos of one room are no 300 scenes.
        self._shares = [len(photos.scene.views) ** 0.5 for photos in self._scenes]

    def draw(self, rng: random.Random) -> Example:
        """A random example, with random numbers of sources, gaps between them, scale, depth margins and colours."""
        which = rng.choices(range(len(self._scenes)), self._shares)[0]
        photos = self._scenes[which]
        left_out, chosen, (near, far) = draw_views(photos, self._points[which], rng)
        scale = rng.choice([1, 1, 0.75, 0.5])
        gain = [rng.uniform(0.8, 1.2) for _ in range(3)] if rng.random() < 0.5 else [1.0] * 3
        *sources, (camera, image, counts) = [self._photo(photos, i, scale, gain) for i in [*chosen, left_out]]
        stacked = SourceViews.stack(*zip(*sources, strict=True), "cpu")
        margins = (near * rng.uniform(0.8, 1.1), far * rng.uniform(0.9, 1.4))
        return crop(Example(camera, stacked, margins, image, counts, None), rng)

    def _photo(
        self, photos: ResizedPhotos, index: int, scale: float, gain: Sequence[float]
    ) -> tuple[Camera, Tensor, Tensor]:
        """Camera, image and usable pixels; a transparent background is not learned from, but it is seen as white."""
        camera = photos.scene.views[index].camera
        camera = camera.resized(round(camera.width * scale), round(camera.height * scale))
        photo = photos.resized(index, camera.width, camera.height)
        image = (to_image(photo) * torch.tensor(gain)[:, None, None]).clamp(0, 1)
        return camera, image, torch.from_numpy(photo.valid)


def draw_views(
    photos: ResizedPhotos, points: np.ndarray, rng: random.Random
) -> tuple[int, list[int], tuple[float, float]]:
    """A photo to leave out, 3 to 10 others to render it from, perhaps with gaps between them, and near and far."""
    views = photos.scene.views
    left_out = rng.randrange(len(views))
    pool = [i for i in range(len(views)) if i != left_out]
    if rng.random() < 0.5:
        share = rng.uniform(0.4, 1)
        pool = [i for i in pool if rng.random() < share] or pool
    camera = views[left_out].camera
    bounds = depth_range(camera, points, views)
    chosen = select_sources(camera, [views[i].camera for i in pool], rng.randint(3, 10), bounds, points)
    return left_out, [pool[i] for i in chosen], bounds


class ProceduralScenes:
    """Random scenes with exact depth, without end: a stock of them is used again and again while it moves on.

    Args:
        seed: of all scenes.
        textures: photos [3, h, w] to cut some of the textures from.
        device: where scenes are rendered.
        stock: scenes that are drawn from at a time.
        uses: examples drawn per new scene.
    """

    def __init__(
        self,
        seed: int,
        textures: Sequence[Tensor] = (),
        device: torch.device | str = "cpu",
        stock: int = 64,
        uses: int = 4,
    ) -> None:
        self._seed, self._textures, self._device, self._size, self._uses = seed, textures, device, stock, uses
        # Scenes come in blocks that share textures: the first ones of a block, and how the next ones are made.
        self._blocks: Recent[tuple[list[dict[str, Tensor]], Iterator[dict[str, Tensor]]]] = Recent(
            stock // _BLOCK_SCENES + 2
        )

    def _scene(self, number: int) -> dict[str, Tensor]:
        block, place = divmod(number, _BLOCK_SCENES)
        # Any two seeds far apart; neighbours would share the first numbers of a simple generator.
        seed = self._seed * 1_000_003 + block
        spec = StreamSpec(num_views=8)
        made, rest = self._blocks.get(block, lambda: ([], stream(seed, spec, self._device, self._textures)))
        while len(made) <= place:
            made.append(next(rest))
        return made[place]

    def draw(self, rng: random.Random, step: int = 0) -> Example:
        """A random example, with random sources and depth margins; it depends on its arguments alone."""
        scene = self._scene(step // self._uses + rng.randrange(self._size))
        num_views, _, height, width = scene["images"].shape
        K, w2c = (scene[name].double().cpu().numpy() for name in ("K", "w2c"))
        cameras = [Camera(K[i], w2c[i], width, height) for i in range(num_views)]
        target, *pool = rng.sample(range(num_views), num_views)
        depth = scene["depth"][target]
        margins = (float(depth.min()) * rng.uniform(0.7, 1), float(depth.max()) * rng.uniform(1, 1.6))
        chosen = select_sources(
            cameras[target], [cameras[i] for i in pool], rng.randint(2, num_views - 1), margins, None
        )
        chosen = [pool[i] for i in chosen]
        usable = torch.ones(height, width, dtype=torch.bool)
        sources = SourceViews.stack(
            [cameras[i] for i in chosen], [scene["images"][i] for i in chosen], [usable for _ in chosen], self._device
        )
        return crop(Example(cameras[target], sources, margins, scene["images"][target], usable, depth), rng)


def crop(example: Example, rng: random.Random) -> Example:
    """A random crop: a smaller picture by a camera with moved principal point, so that rendering it is rendering."""
    height, width = (
        min(most, size) for most, size in zip((CROP_HEIGHT, CROP_WIDTH), example.counts.shape, strict=True)
    )
    # Even, so that the sweep's voxels lie as they would in the whole picture.
    top = rng.randrange(example.counts.shape[0] - height + 1) // 2 * 2
    left = rng.randrange(example.counts.shape[1] - width + 1) // 2 * 2
    K = example.target.K - np.array([[0, 0, left], [0, 0, top], [0, 0, 0]])
    part = (slice(top, top + height), slice(left, left + width))
    return Example(
        Camera(K, example.target.w2c, width, height),
        example.sources,
        example.depth_range,
        example.image[:, part[0], part[1]],
        example.counts[part],
        None if example.depth is None else example.depth[part],
    )


def true_positions(
    depth: Tensor,  # [h, w] z-depth
    step: int,
    depth_range: tuple[float, float],
    num_planes: int,
) -> Tensor:  # [ceil(h / step), ceil(w / step)]
    """The plane, as a fraction, that the surface in each voxel column lies on."""
    column = F.interpolate(depth[None, None], scale_factor=1 / step, mode="nearest")[0, 0]
    near, far = (1 / z for z in depth_range)
    return (1 / column - near) / (far - near) * (num_planes - 1)
