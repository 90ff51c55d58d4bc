"""The source views of a target: which photos to take, and their pixels side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.geometry.cameras import Camera

# A source that sees a point this far (radians) from the target's direction is worth 1/e of the best one.
_ANGLE_SCALE = 0.35
# A photo that adds less than this, per point, to at least this many others is left out. With all 8, fountain_p11 has
# 24.3 dB, with 0.03 it has 25.2 (0.05: 25.4); castle_p19 loses 0.4 (0.05: 1.4), kitchen 0.1.
_MIN_GAIN, _ENOUGH_VIEWS = 0.03, 3
# Points per target that overlap is measured on; more change no choice.
_MAX_POINTS = 512


@dataclass(frozen=True)
class SourceViews:
    """The photos that a target is rendered from. Smaller ones are padded at right and bottom.

    Args:
        cameras: V of them, for the sizes below.
        images: [V, 3, H, W] in [0, 1] sRGB.
        valid: [V, 1, H, W] float, 1 where the pixel may be used; 0 in the padding.
        features: [V, F, h, w] what a learned Stage II made of each photo, see `Blending.photo_features`, or None.
    """

    cameras: Sequence[Camera]
    images: Tensor
    valid: Tensor
    features: Tensor | None = None

    @cached_property
    def blurred(self) -> Tensor:
        """[V, 3, H, W] the images, each pixel the mean of its 5x5 neighbourhood; made once."""
        return box(self.images)

    @classmethod
    def stack(
        cls,
        cameras: Sequence[Camera],
        images: Sequence[Tensor],
        valid: Sequence[Tensor],
        device: torch.device | str,
        features: Sequence[Tensor | None] = (None,),
    ) -> SourceViews:
        """Put photos [3, H_i, W_i], validity [H_i, W_i] and features [F, h_i, w_i] of any sizes on `device`."""
        masks = [mask[None].to(torch.float32) for mask in valid]
        looked_at = None if any(x is None for x in features) else pad_maps(features).to(device)
        return cls(cameras, pad_maps(images).to(device), pad_maps(masks, "constant").to(device), looked_at)


def box(maps: Tensor) -> Tensor:
    """Mean of the 5x5 neighbourhood."""
    return F.avg_pool2d(F.pad(maps, (2,) * 4, mode="replicate"), 5, stride=1)


def pad_maps(maps: Sequence[Tensor], mode: str = "replicate") -> Tensor:
    """Stack maps [C, h_i, w_i] of different sizes as [V, C, h, w], padded at right and bottom.

    Points on a map keep their pixel coordinates. The border is repeated, unless `mode` is "constant" (zeros): a point
    in the outer half of a border cell is interpolated with what lies beyond it.
    """
    height, width = (max(m.shape[axis] for m in maps) for axis in (1, 2))
    return torch.stack([F.pad(m, (0, width - m.shape[2], 0, height - m.shape[1]), mode=mode) for m in maps])


def select_sources(
    target: Camera,
    cameras: Sequence[Camera],
    num_views: int,
    depth_range: tuple[float, float],
    points: np.ndarray | None = None,  # [N, 3] world
) -> list[int]:
    """Choose the source views that see the most of what the target sees, from near its directions.

    Each point that the target sees is worth, in a source view that has it in its image, more the smaller the angle
    between the two lines of sight and the finer its pixels there. Views are taken one by one, whichever adds most; the
    gain from seeing a point again diminishes, so a part of the target that only one photo shows brings that photo in.
    Past three, views that add next to nothing are left out: they look from so far away that they only contradict.

    Args:
        target: the camera to render.
        cameras: the candidates.
        num_views: how many to choose at most.
        depth_range: (near, far) z-depth of the target.
        points: points on surfaces, or None; without enough of them in view, the target's frustum is sampled.

    Returns:
        Indices into `cameras`, best first.
    """
    seen = _target_points(target, depth_range, points)
    worth = np.stack([_worth(target, camera, seen) for camera in cameras])  # [V, P]
    chosen: list[int] = []
    total = np.zeros(worth.shape[1])
    # A view that sees nothing of it still ranks, by how near its direction and place are.
    spare = np.array([_closeness(target, camera, depth_range) for camera in cameras]) * 1e-6
    for _ in range(min(num_views, len(cameras))):
        gain = (np.sqrt(total + worth) - np.sqrt(total)).sum(1) + spare
        gain[chosen] = -np.inf
        best = int(gain.argmax())
        if len(chosen) >= _ENOUGH_VIEWS and gain[best] < _MIN_GAIN * worth.shape[1]:
            break
        chosen.append(best)
        total += worth[best]
    return chosen


def _target_points(target: Camera, depth_range: tuple[float, float], points: np.ndarray | None) -> np.ndarray:
    """World points that the target sees: of the surface, else on a grid of its pixels at a few depths."""
    if points is not None and len(points):
        uv, z = target.project(points)
        with np.errstate(invalid="ignore"):
            inside = (z > 0) & (uv >= 0).all(1) & (uv <= (target.width, target.height)).all(1)
        seen = points[inside]
        if len(seen) >= 50:
            return seen[:: -(-len(seen) // _MAX_POINTS)]
    near, far = depth_range
    u, v, t = np.meshgrid((np.arange(8) + 0.5) / 8, (np.arange(8) + 0.5) / 8, [0.2, 0.4, 0.6])
    rays = np.linalg.inv(target.K) @ np.stack([u.ravel() * target.width, v.ravel() * target.height, np.ones(u.size)])
    depth = 1 / (1 / near + t.ravel() * (1 / far - 1 / near))
    return (rays * depth).T @ target.c2w[:3, :3].T + target.position


def _worth(target: Camera, source: Camera, points: np.ndarray) -> np.ndarray:  # [P] in [0, 1]
    uv, z = source.project(points)
    with np.errstate(invalid="ignore"):
        inside = (z > 0) & (uv >= 0).all(1) & (uv <= (source.width, source.height)).all(1)
    to_target, to_source = target.position - points, source.position - points
    norms = np.linalg.norm(to_target, axis=1) * np.linalg.norm(to_source, axis=1)
    cosine = (to_target * to_source).sum(1) / np.maximum(norms, 1e-12)
    angle = np.arccos(np.clip(cosine, -1, 1))
    target_z = target.project(points)[1]
    # Pixels per world length, compared; a source with finer pixels than the target is no better for it.
    fineness = (source.K[0, 0] / np.maximum(z, 1e-12)) / (target.K[0, 0] / np.maximum(target_z, 1e-12))
    return inside * np.exp(-angle / _ANGLE_SCALE) * np.minimum(fineness, 1)


def _closeness(target: Camera, source: Camera, depth_range: tuple[float, float]) -> float:
    distance = np.linalg.norm(source.position - target.position) / depth_range[0]
    return float(source.forward @ target.forward - distance / (1 + distance))
