"""The source views of a target: their selection, and their pixels as one padded tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.geometry.cameras import Camera, seen_points
from lift3d_cli.ops.windows import window_max, window_mean

# A source view that sees a point this many radians from the target's direction is worth 1/e of the best one.
ANGLE_SCALE = 0.35
# A photo that adds less than this, per point, to at least this many others is left out. With all 8, fountain_p11 has
# 24.3 dB, with 0.03 it has 25.2 (0.05: 25.4); castle_p19 loses 0.4 (0.05: 1.4), kitchen 0.1.
MIN_GAIN, ENOUGH_VIEWS = 0.03, 3
# Points per target for measuring overlap; more change no choice.
MAX_POINTS = 512
# Unsharp masking: share of the difference between a photo and its blur that is added. At height 320, over four scenes,
# 0.3 and 0.6 both gain 0.09 dB, and 0.005 and 0.008 SSIM.
SHARPENING = 0.5
# Maps of up to this many channels (colours, a photo's features for Stage II) are sampled, others gathered.
_MAX_PLANAR_CHANNELS = 16
NO_VIEW = 9.0
"""Angle in radians, or deviation, that stands for "no view": larger than any real one."""
# The arrays of this many cameras stay in the processor's cache, and memory does not grow with the scene.
_CAMERAS_AT_ONCE = 64
# Keeps quotients finite; far below the fourth power of any unit that a scene is measured in.
_TINY = 1e-100


@dataclass(frozen=True)
class SourceViews:
    """The photos that a target is rendered from; smaller ones are padded at right and bottom.

    In training, the source views of several targets are stacked along a leading dimension, here *B.

    Args:
        cameras: V cameras, for the sizes below; empty for several targets.
        images: [*B, V, 3, H, W] in [0, 1] sRGB.
        valid: [*B, V, 1, H, W] float, 1 where the pixel may be used; 0 in the padding.
        features: [*B, V, F, h, w] photo features of a learned Stage II, see `Blending.photo_features`, or None.
        depth_buffers: [*B, V, 2, h, w] the target's surface as they see it, see `blending.visibility`, or None.
        surfaces: [*B, V, 3, h, w] what each photo sees, see `lifting.surfaces`, or None.
        exposures: [V, 3, K] what was taken from the photos to bring them to one, see `lifting.exposure`, or None.
    """

    cameras: Sequence[Camera]
    images: Tensor
    valid: Tensor
    features: Tensor | None = None
    depth_buffers: Tensor | None = None
    surfaces: Tensor | None = None
    exposures: Tensor | None = None

    @cached_property
    def texture(self) -> Tensor:
        """[*B, V, 7, H, W]: colour, validity, and mean colour of 5x5 pixels; cached, and sampled together."""
        return torch.cat([self.images, self.valid, box(self.images)], -3)

    @cached_property
    def sharpened(self) -> Tensor:
        """[*B, V, 3, H, W] the colours to blend, sharpened against the blur of interpolation and averaging."""
        flat = self.images.flatten(0, -4)
        padded = F.pad(flat, (1,) * 4, mode="replicate")
        # A binomial filter, which changes no frequency's sign.
        rows = padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]
        blurred = (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 16
        # Pixels next to invalid ones are not sharpened: the invalid colours would show.
        is_usable = 1 - window_max(1 - self.valid, 3)
        return self.images + SHARPENING * is_usable * (flat - blurred).reshape(self.images.shape)

    def best(self, most: int) -> SourceViews:
        """Return the first views that have a valid pixel, `most` at most; of one target."""
        used = self.valid.flatten(1).any(1).nonzero()[:most, 0].tolist()
        if len(used) in (0, len(self.cameras)):
            return self
        maps = (self.features, self.depth_buffers, self.surfaces, self.exposures)
        chosen = [None if x is None else x[used] for x in (self.images, self.valid, *maps)]
        return SourceViews([self.cameras[i] for i in used], *chosen)

    @classmethod
    def stack(
        cls,
        cameras: Sequence[Camera],
        images: Sequence[Tensor],
        valid: Sequence[Tensor],
        device: torch.device | str,
        features: Sequence[Tensor | None] = (None,),
        surfaces: Sequence[Tensor | None] = (None,),
    ) -> SourceViews:
        """Pad and stack photos [3, H_i, W_i], validity [H_i, W_i], features and surfaces [C, h_i, w_i] on `device`."""
        masks = [mask[None] for mask in valid]
        maps = [None if any(x is None for x in each) else pad_maps(each).to(device) for each in (features, surfaces)]
        images, valid = pad_maps(images).to(device), pad_maps(masks, "constant").to(device)
        return cls(cameras, images, valid, maps[0], surfaces=maps[1])


def box(maps: Tensor) -> Tensor:  # [*B, C, H, W]
    """Return the mean over the 5x5 neighbourhood."""
    return window_mean(maps, 5)


def lightness(images: Tensor) -> Tensor:  # [*B, 3, H, W] to [*B, 1, H, W]
    """Return the luma of sRGB images (ITU-R BT.601)."""
    return (images * torch.tensor([0.299, 0.587, 0.114], device=images.device)[:, None, None]).sum(-3, keepdim=True)


def contrast(images: Tensor) -> Tensor:  # [*B, 3, H, W] to the same
    """Return locally normalised colours, free of exposure and shading."""
    mean = box(images)
    variance = (box(images**2) - mean**2).clamp(min=0).mean(-3, keepdim=True)
    # 1e-3 is (8 levels of 255)^2: below it a patch is noise, which must not be amplified to contrast.
    return (images - mean) / (variance + 1e-3).sqrt()


def pad_maps(maps: Sequence[Tensor], mode: str = "replicate") -> Tensor:
    """Stack maps [C, h_i, w_i] of different sizes as [V, C, h, w], padded at right and bottom, in float32 at least.

    Points on a map keep their pixel coordinates. The border is replicated, unless `mode` is "constant" (zeros): a point
    in the outer half of a border cell is interpolated with what lies beyond it.
    """
    height, width = (max(m.shape[axis] for m in maps) for axis in (1, 2))
    shape, dtype = (len(maps), len(maps[0]), height, width), torch.promote_types(maps[0].dtype, torch.float32)
    # In the memory layout that `WeightedGather` uses. One map at a time: with many channels, another copy of all maps
    # would be most of a render's memory.
    order = torch.channels_last if shape[1] > _MAX_PLANAR_CHANNELS else torch.contiguous_format
    out = torch.empty(shape, dtype=dtype, device=maps[0].device, memory_format=order)
    for i, m in enumerate(maps):
        h, w = m.shape[1:]
        out[i, :, :h, :w] = m
        out[i, :, :h, w:] = m[:, :, -1:] if mode == "replicate" else 0
        out[i, :, h:] = out[i, :, h - 1 : h] if mode == "replicate" else 0
    return out


def select_sources(
    target: Camera,
    cameras: Sequence[Camera],
    num_views: int,
    depth_range: tuple[float, float],
    points: np.ndarray | None = None,  # [N, 3] world
) -> list[int]:
    """Choose the source views that see the most of what the target sees, from the most similar directions.

    For each target point that lies in its image, a source view is worth more, the smaller the angle between the two
    lines of sight and the finer its pixels there. Views are chosen greedily, the largest gain first; seeing a point
    again gains less each time, so a part of the target that only one photo shows brings that photo in. Past three,
    views that gain
    next to nothing are left out: they look from so far away that they only contradict.

    Args:
        target: the camera to render.
        cameras: the candidates.
        num_views: the most views to choose.
        depth_range: (near, far) z-depth of the target.
        points: surface points, or None; if too few of them are in view, the target's frustum is sampled instead.

    Returns:
        Indices into `cameras`, best first.
    """
    seen = _target_points(target, depth_range, points)
    sources = _Cameras.stack(cameras)
    worth = np.concatenate([_worth(target, block, seen) for block in sources.blocks()])  # [V, P]
    # A view that sees none of the points is still ranked, by its direction and position.
    spare = _closeness(target, sources, depth_range) * 1e-6
    chosen: list[int] = []
    total = np.zeros(worth.shape[1])
    # Gains only fall as views are chosen: a leading view whose gain is up to date is the best, and most of a thousand
    # views are never evaluated twice (lazy greedy, Minoux 1978).
    gain, up_to_date = np.sqrt(worth).sum(1) + spare, np.zeros(len(cameras), int)
    while len(chosen) < min(num_views, len(cameras)):
        best = int(gain.argmax())
        if up_to_date[best] < len(chosen):
            gain[best] = (np.sqrt(total + worth[best]) - np.sqrt(total)).sum() + spare[best]
            up_to_date[best] = len(chosen)
        elif len(chosen) >= ENOUGH_VIEWS and gain[best] < MIN_GAIN * worth.shape[1]:
            break
        else:
            chosen.append(best)
            total += worth[best]
            gain[best] = -np.inf
    return chosen


def spread(seen: np.ndarray) -> np.ndarray | None:
    """Thin out the points in a target's image, given by their indices; None if they are too few to measure overlap."""
    return seen[:: -(-len(seen) // MAX_POINTS)] if len(seen) >= 50 else None


def _target_points(target: Camera, depth_range: tuple[float, float], points: np.ndarray | None) -> np.ndarray:
    """Return world points that the target sees: surface points, else a grid of its pixels at a few depths."""
    if points is not None and len(points):
        chosen = spread(next(seen_points([target], points))[0])
        if chosen is not None:
            return points[chosen]
    near, far = depth_range
    u, v, t = np.meshgrid((np.arange(8) + 0.5) / 8, (np.arange(8) + 0.5) / 8, [0.2, 0.4, 0.6])
    rays = np.linalg.inv(target.K) @ np.stack([u.ravel() * target.width, v.ravel() * target.height, np.ones(u.size)])
    depth = 1 / (1 / near + t.ravel() * (1 / far - 1 / near))
    return (rays * depth).T @ target.c2w[:3, :3].T + target.position


@dataclass(frozen=True)
class _Cameras:
    """The matrices and image sizes of V cameras, stacked."""

    K: np.ndarray  # [V, 3, 3]
    w2c: np.ndarray  # [V, 4, 4]
    size: np.ndarray  # [V, 2] width, height

    @classmethod
    def stack(cls, cameras: Sequence[Camera]) -> _Cameras:
        return cls(*(np.array(x) for x in zip(*((c.K, c.w2c, (c.width, c.height)) for c in cameras), strict=True)))

    @property
    def position(self) -> np.ndarray:  # [V, 3]
        return -np.einsum("vji,vj->vi", self.w2c[:, :3, :3], self.w2c[:, :3, 3])

    def blocks(self) -> Iterator[_Cameras]:
        """Split the cameras into blocks whose arrays fit the processor's cache and bound the memory."""
        for i in range(0, len(self.K), _CAMERAS_AT_ONCE):
            yield _Cameras(*(getattr(self, f.name)[i : i + _CAMERAS_AT_ONCE] for f in fields(self)))


def _worth(target: Camera, sources: _Cameras, points: np.ndarray) -> np.ndarray:  # [V, P] in [0, 1]
    from_target = (points - target.position).T  # [3, P] lines of sight, in world axes
    to_source = sources.position - target.position  # [V, 3]
    # The point in the source's axes, and its pixel times z, in one matrix product: many small ones are far slower.
    axes = sources.w2c[:, :3, :3]
    rows = np.concatenate([axes, sources.K[:, :2] @ axes], 1)  # [V, 5, 3]
    seen = (rows.reshape(-1, 3) @ from_target).reshape(len(rows), 5, -1) - rows @ to_source[..., None]
    x, y, z, *uv = seen.swapaxes(0, 1)  # [V, P] each
    with np.errstate(divide="ignore", invalid="ignore"):
        u, v = uv / z
    inside = (z > 0) & (u >= 0) & (u <= sources.size[:, :1]) & (v >= 0) & (v <= sources.size[:, 1:])
    squared = (from_target**2).sum(0)
    norms = np.sqrt(squared * (x * x + y * y + z * z))
    angle = np.arccos(np.clip((squared - to_source @ from_target) / np.maximum(norms, _TINY), -1, 1))
    # Pixels per world length, compared; a source view with finer pixels than the target is worth no more for it.
    per_pixel = np.maximum(target.w2c[2, :3] @ from_target, _TINY) / target.K[0, 0]
    fineness = sources.K[:, :1, 0] * per_pixel / np.maximum(z, _TINY)
    return inside * np.exp(-angle / ANGLE_SCALE) * np.minimum(fineness, 1)


def _closeness(target: Camera, sources: _Cameras, depth_range: tuple[float, float]) -> np.ndarray:  # [V]
    distance = np.linalg.norm(sources.position - target.position, axis=1) / depth_range[0]
    forward = sources.w2c[:, 2, :3]
    return forward @ target.forward / np.linalg.norm(forward, axis=1) - distance / (1 + distance)
