"""The surfaces that the renderer is trained with: found by Stage I, or exact ones, disturbed as those that it finds."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.config import RenderConfig, TrainConfig
from lift3d_cli.lifting.proposal.learned import SURFACE_MOST_VIEWS
from lift3d_cli.lifting.refinement import SurfaceFinder
from lift3d_cli.lifting.sources import SourceViews, select_sources
from lift3d_cli.pipeline.renderers import make_renderer
from lift3d_cli.training.renderer_data import StoredPhoto

# Every fourth photo of a scene is a target and nothing else: the surfaces of the others are found without it.
_TARGETS_EVERY = 4
# As many other photos as `PhotoSurfaces` finds a surface from, and a rough bound on temporaries.
_SURFACE_VIEWS, SURFACE_BYTES = SURFACE_MOST_VIEWS - 1, 2**29


def surface_finder(config: TrainConfig, device: torch.device) -> SurfaceFinder | None:
    """Return what finds surfaces, with the weights that a training begins with; None if with nothing."""
    if config.weights == "none":
        return None
    return make_renderer(RenderConfig(weights=config.weights), device).surface_finder


def split_targets(num_photos: int) -> tuple[list[int], list[int]]:
    """Split a scene's photos into those to learn from and those to render from; all are both where there are few."""
    targets = list(range(_TARGETS_EVERY - 1, num_photos, _TARGETS_EVERY))
    others = [i for i in range(num_photos) if i not in targets]
    return (targets, others) if targets else (others, others)


def with_surfaces(
    photos: Sequence[StoredPhoto], finder: SurfaceFinder, device: torch.device | str
) -> list[StoredPhoto]:
    """Find the surfaces of a procedural scene's photos, but of those that are only targets then."""
    found, (_, others) = list(photos), split_targets(len(photos))
    for i in others:
        sources, near_far = views_of_surface(photos[i], [photos[k] for k in others if k != i], device)
        with torch.inference_mode():
            surface = finder(sources, near_far, SURFACE_BYTES)
        found[i] = replace(photos[i], surface=surface.clone())
    return found


def views_of_surface(
    own: StoredPhoto, rest: Sequence[StoredPhoto], device: torch.device | str
) -> tuple[SourceViews, tuple[float, float]]:
    """Choose what a procedural photo's surface is found from, itself first, and within which depths."""
    near_far = (0.9 * own.depth_range[0], 1.2 * own.depth_range[1])
    chosen = select_sources(own.camera, [photo.camera for photo in rest], _SURFACE_VIEWS, near_far)
    used = [own, *(rest[k] for k in chosen)]
    images, valid = [p.image.float() / 255 for p in used], [p.valid for p in used]
    return SourceViews.stack([p.camera for p in used], images, valid, device), near_far


def disturbed_surface(photo: StoredPhoto, rng: random.Random) -> Tensor:
    """Make a surface of exact depth as Stage I might have found it: coarse, with noise, holes and wrong patches.

    What is wrong is mostly said to be less sure, so that trust comes to go with evidence.
    """
    noise = torch.Generator().manual_seed(rng.getrandbits(62))
    inverse = 1 / photo.depth[None, None].cpu()
    inverse = F.interpolate(inverse, scale_factor=1 / rng.choice((2, 3, 4)), mode="nearest")
    shape = inverse.shape[-2:]

    def patches(cells: int) -> Tensor:  # smooth, of deviation 1 about
        coarse = torch.randn(1, 1, *(max(2, n // cells) for n in shape), generator=noise)
        return F.interpolate(coarse, shape, mode="bilinear")

    for _ in range(rng.choice((0, 0, 1, 2))):  # an edge moves to one side or the other
        sign = rng.choice((-1, 1))
        inverse = sign * F.max_pool2d(sign * inverse, 3, 1, 1)
    nearest, farthest = (1 / z for z in photo.depth_range)
    width = nearest - farthest
    step = width / rng.uniform(32, 96)
    inverse = inverse + step * rng.uniform(0, 1.5) * patches(rng.randint(2, 12))
    wrong = patches(rng.randint(2, 10)) > rng.uniform(0.8, 3)
    elsewhere = farthest + width * (0.5 + 0.3 * patches(6)).clamp(0, 1)
    inverse = torch.where(wrong, elsewhere, inverse).clamp(min=1e-6)
    sure = torch.where(wrong, 0.35 + 0.2 * patches(3), 0.85 + 0.15 * patches(3)).clamp(0.05, 1)
    sure = sure * (patches(rng.randint(3, 12)) < rng.uniform(0.8, 3))
    return torch.cat([inverse, torch.full_like(inverse, step), sure], 1)[0].to(photo.depth.device)
