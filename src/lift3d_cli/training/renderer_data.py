"""Training examples of the renderer: crops of left-out photos, with other photos to render them from.

A `Draw` first decides on the photos and the crop of an example, before any pixel is touched; the pixels are then
assembled on the training device, where all photos stay in memory as bytes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.geometry.epipolar import EpipolarLines
from lift3d_cli.lifting.covisible import covisible_points
from lift3d_cli.lifting.exposure import harmonized
from lift3d_cli.lifting.proposal.learned import LearnedProposal
from lift3d_cli.lifting.proposal.sweep import Frustum
from lift3d_cli.lifting.sources import SourceViews, pad_maps
from lift3d_cli.lifting.surfaces import NUM_SURFACE_CHANNELS, SURFACE_STRIDE, surface_at_size

# Target pixels per voxel. Pictures of 320 lines are rendered with 3, smaller ones with 2, those of 756 with 7.
_STEPS = (2, 3, 3, 3, 4, 6)
# Classes of the numbers of planes and of sources, so that the examples of one batch have equal shapes.
PLANE_CLASSES, VIEW_CLASSES = (32, 40, 56, 72, 96, 128), (4, 6, 8, 10)


@dataclass(frozen=True)
class CropSize:
    """The part of a target that one example covers.

    Args:
        voxels: (width, height) of Stage I's sweep: crops with larger steps cover more of the photo.
        window: (width, height) in pixels that Stage II renders, somewhere in the crop.
    """

    voxels: tuple[int, int]
    window: tuple[int, int]


CPU_CROP = CropSize((56, 48), (80, 64))
"""Covers the network's receptive field a few times, and trains in under a second per step on two cores.

Stage II takes as long as the rest at 112 x 96 rays, and learns as much per step from half of them.
"""
GPU_CROP = CropSize((80, 64), (160, 128))


@dataclass(frozen=True)
class StoredPhoto:
    """A photo stored as bytes.

    Args:
        camera: camera of this size.
        image: [3, h, w] uint8 sRGB.
        valid: [h, w] bool, True where the pixel may be used.
        depth: [h, w] z-depth if the exact depth is known, or None.
        depth_range: smallest and largest depth, or None.
        surface: as Stage I finds it, see `lifting.surfaces`, or None.
        is_leveled: its exposure is to stay: that of its scene, or another one, to be learned from.
    """

    camera: Camera
    image: Tensor
    valid: Tensor
    depth: Tensor | None = None
    depth_range: tuple[float, float] | None = None
    surface: Tensor | None = None
    is_leveled: bool = False

    def to(self, device: torch.device | str) -> StoredPhoto:
        """Return a copy on another device."""
        depth, surface = (None if x is None else x.to(device) for x in (self.depth, self.surface))
        return replace(self, image=self.image.to(device), valid=self.valid.to(device), depth=depth, surface=surface)


@dataclass(frozen=True)
class Draw:
    """The random choices that make an example, before any pixel is read.

    Args:
        target: reads the target photo.
        sources: read the source photos.
        lines: epipolar lines of the crop's camera in them.
        depth_range: (near, far).
        corner: (left, top) of the crop in the target, in pixels.
        step: target pixels per voxel.
        num_planes: number of planes of the sweep.
        gain: factor of each colour channel of all photos.
        is_mirrored: mirror the crop and the sources horizontally.
        has_depth: the target's exact depth is known.
        surfaces: make those of the sources; none where the sources have none.
    """

    target: Callable[[], StoredPhoto]
    sources: Sequence[Callable[[], StoredPhoto]]
    lines: EpipolarLines
    depth_range: tuple[float, float]
    corner: tuple[int, int]
    step: int
    num_planes: int
    gain: Sequence[float]
    is_mirrored: bool
    has_depth: bool = False
    surfaces: Sequence[Callable[[], Tensor]] = ()


@dataclass(frozen=True)
class Example:
    """B target crops, with the source views to render them from.

    Args:
        sources: V source views per crop.
        lines: epipolar lines of each crop in its sources.
        frustum: voxels of Stage I's sweep, over the whole crops.
        image: [B, 3, h, w] ground truth of the crops.
        counts: [B, h, w] bool, True where there is ground truth.
        depth: [B, h, w] exact z-depth, or None.
        window: (left, top, width, height) of Stage II's rays, in pixels of the crop.
    """

    sources: SourceViews
    lines: EpipolarLines
    frustum: Frustum
    image: Tensor
    counts: Tensor
    depth: Tensor | None
    window: tuple[int, int, int, int]


def assemble(
    draws: Sequence[Draw], size: CropSize, num_views: int, rng: random.Random, device: torch.device
) -> Example:
    """Stack B examples that agree in step, number of planes and knowledge of depth.

    Args:
        draws: B draws.
        size: size of the crops.
        num_views: V; draws with fewer sources are padded with views that see nothing.
        rng: chooses the window.
        device: device of the result.
    """
    step = draws[0].step
    width, height = (n * step for n in size.voxels)
    images, valid = _source_photos(draws, num_views, device)
    surfaces = _source_surfaces(draws, images, device)
    gain = torch.tensor([draw.gain for draw in draws], device=device)[:, :, None, None] / 255
    for i, draw in enumerate(draws):
        _level(images[i], valid[i], surfaces[i], draw)
    images = (images * gain[:, None]).clamp_(0, 1)
    targets = [(draw.target(), draw.corner) for draw in draws]
    truth = torch.stack([_cut(t.image, corner, width, height) for t, corner in targets]).to(device)
    truth = (truth * gain).clamp(0, 1)
    counts = torch.stack([_cut(t.valid[None], corner, width, height)[0] for t, corner in targets]).to(device)
    depth = None
    if draws[0].has_depth:
        depth = torch.stack([_cut(t.depth[None], corner, width, height)[0] for t, corner in targets]).to(device)
    lines = []
    for i, draw in enumerate(draws):
        of_draw = _with_views(draw.lines, num_views)
        if draw.is_mirrored:
            of_draw = of_draw.mirrored(width, [images.shape[-1]] * num_views)
            for x in (images, valid, surfaces, truth, counts, *([] if depth is None else [depth])):
                x[i] = x[i].flip(-1)
        lines.append(of_draw)
    near, far = torch.tensor([draw.depth_range for draw in draws], device=device, dtype=torch.float32).T
    window = tuple(min(a, b) for a, b in zip(size.window, (width, height), strict=True))
    # Even, so that the sweep's voxels lie as they would in the whole image.
    left, top = (rng.randrange(a - b + 1) // 2 * 2 for a, b in zip((width, height), window, strict=True))
    return Example(
        SourceViews((), images, valid, surfaces=surfaces),
        EpipolarLines.stack(lines).to(device),
        Frustum(*size.voxels, draws[0].num_planes, step, near, far),
        truth,
        counts,
        depth,
        (left, top, *window),
    )


def _source_photos(draws: Sequence[Draw], num_views: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return levels [B, V, 3, H, W] from 0 to 255, and validity [B, V, 1, H, W], 0 for padded views."""
    stacks = [[make() for make in draw.sources] for draw in draws]
    flat = [photo for stack in stacks for photo in (*stack, *[stack[0]] * (num_views - len(stack)))]
    shape = (len(draws), num_views)
    images = pad_maps([photo.image for photo in flat]).unflatten(0, shape).to(device)
    valid = pad_maps([photo.valid[None] for photo in flat], "constant").unflatten(0, shape).to(device)
    is_there = torch.tensor([[i < len(stack) for i in range(num_views)] for stack in stacks], device=device)
    return images, valid * is_there[..., None, None, None]


def _source_surfaces(draws: Sequence[Draw], images: Tensor, device: torch.device) -> Tensor:
    """Stack the sources' surfaces, in the cells of their pictures; what is not there is unknown."""
    rows, columns = (math.ceil(n / SURFACE_STRIDE) for n in images.shape[-2:])
    stacked = torch.zeros(*images.shape[:2], NUM_SURFACE_CHANNELS, rows, columns, device=device)
    for i, draw in enumerate(draws):
        for k, (make, photo) in enumerate(zip(draw.surfaces, draw.sources, strict=False)):
            camera = photo().camera
            surface = surface_at_size(make().to(device), camera.width, camera.height)
            stacked[i, k, :, : surface.shape[-2], : surface.shape[-1]] = surface
    return stacked


def _level(images: Tensor, valid: Tensor, surfaces: Tensor, draw: Draw) -> None:
    """Bring a draw's photos, levels [V, 3, H, W], to one exposure in place, as they are when a target is rendered."""
    photos = [make() for make in draw.sources]
    if draw.surfaces and not all(photo.is_leveled for photo in photos):
        own = slice(len(photos))
        sources = SourceViews([p.camera for p in photos], images[own] / 255, valid[own], surfaces=surfaces[own])
        images[own] = 255 * harmonized(sources, covisible_points(sources)).images


def _with_views(lines: EpipolarLines, num_views: int) -> EpipolarLines:
    """Pad to `num_views` by repeating the first view."""
    which = [i if i < len(lines.H) else 0 for i in range(num_views)]
    return EpipolarLines(lines.H[which], lines.e[which], lines.tgt_rays, lines.centers[which])


def _cut(pixels: Tensor, corner: tuple[int, int], width: int, height: int) -> Tensor:  # [C, h, w]
    """Cut a rectangle out of an image; pixels beyond its border are 0."""
    left, top = corner
    part = pixels[:, top : top + height, left : left + width]
    return F.pad(part, (0, width - part.shape[2], 0, height - part.shape[1]))


def draw_crop(
    photos: Sequence[Callable[[], StoredPhoto]],
    cameras: Sequence[Camera],
    margins: tuple[float, float],
    gain: Sequence[float],
    size: CropSize,
    rng: random.Random,
) -> Draw:
    """Draw a random crop of the first photo, rendered from the others, with about as many planes as it needs."""
    target, *sources = cameras
    # The crop must not be much larger than the photo.
    fitting = [
        s for s in _STEPS if s * size.voxels[0] <= 1.2 * target.width and s * size.voxels[1] <= 1.2 * target.height
    ]
    step = rng.choice(fitting or _STEPS[:1])
    width, height = (n * step for n in size.voxels)
    # Even, so that the sweep's voxels lie as they would in the whole image.
    left, top = (rng.randrange(max(1, a - b + 1)) // 2 * 2 for a, b in ((target.width, width), (target.height, height)))
    # A crop is a smaller image by a camera with a shifted principal point.
    K = target.K - np.array([[0, 0, left], [0, 0, top], [0, 0, 0]])
    crop = Camera(K, target.w2c, width, height)
    sweep = LearnedProposal(
        None, "", voxels_per_plane=LearnedProposal.voxels_per_plane * math.exp(rng.uniform(-0.3, 0.4))
    )
    needed = sweep.planes(crop, sources, margins, step)
    num_planes = next(n for n in PLANE_CLASSES if n >= needed)
    lines = EpipolarLines.between(crop, sources)
    return Draw(photos[0], photos[1:], lines, margins, (left, top), step, num_planes, gain, rng.random() < 0.5)
