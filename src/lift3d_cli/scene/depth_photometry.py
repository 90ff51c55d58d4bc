"""What depth maps mean, judged by the photos themselves, for scenes with too few points: pixels that a map carries into
neighbouring photos must look there as they do here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.scene.depth_check import best_meaning, rounded_scale
from lift3d_cli.scene.depth_maps import DEPTH_KINDS, DepthMap, Meaning, ray_lengths, unscaled_depth
from lift3d_cli.scene.photos import resize_photo
from lift3d_cli.scene.scene import Photo

# Small pictures have few pixels of disparity between neighbours, so that few scales have to be tried.
_LONG_SIDE_PX = 240
# Pixels of each photo that are compared, of those with more texture than the others.
_PIXELS = 600
_PATCH = 2  # reach in pixels: patches of 5x5
# Contrast of a patch, in 8-bit levels, below which noise decides how it looks.
_NOISE_LEVELS = 4.0
# Steps of log scale: the first finds the peak, which is as wide as patches are; the second its top.
_STEP, _FINE_STEP = 0.04, 0.005
# Likeness up to which patches show different things: random ones come to half of that.
_UNLIKE = 0.5
# A declared scale, or the more usual kind, is kept if its score is at least this part of the best: photos look quite
# alike with depths that are off by a few percent, too.
_KEPT, _KEPT_KIND = 0.97, 0.99
# At a wrong scale the score of a right map is at most this part: on eighteen procedural scenes 0.82 was the most, and
# noise has 0.9 and more.
_LEAD = 0.85
# A score that noise does not reach.
_LOOKS_RIGHT = 0.7
MIN_AGREEMENT = 0.5
"""Least `agreement_by_photos`: photos at a scene's border, which have less in common with others, came to 0.59."""
# Photos whose patches have less contrast on average, of a possible 1, tell nothing.
_MIN_TEXTURE = 0.15

WRONG_SCALES = np.exp([-0.6, -0.35, -0.2, 0.2, 0.35, 0.6])
"""Factors of the scale at which a right map is a worse one."""


@dataclass(frozen=True)
class Picture:
    """A small photo, ready to be compared.

    Args:
        camera: the photo's camera at the small size.
        patches: [H, W, 25] float32 gray patches without their mean, of length 1; shorter where there is no contrast.
        valid: [H, W] bool, pixels that may be used.
    """

    camera: Camera
    patches: np.ndarray
    valid: np.ndarray


def picture_of(photo: Photo, camera: Camera) -> Picture:
    """Shrink a photo and cut it into patches."""
    import cv2

    shrink = min(1.0, _LONG_SIDE_PX / max(camera.width, camera.height))
    camera = camera.resized(max(1, round(camera.width * shrink)), max(1, round(camera.height * shrink)))
    photo = resize_photo(photo, camera.width, camera.height)
    gray = cv2.GaussianBlur(cv2.cvtColor(photo.image, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 0.8)
    padded = np.pad(gray, _PATCH, mode="edge")
    side = 2 * _PATCH + 1
    patches = np.lib.stride_tricks.sliding_window_view(padded, (side, side)).reshape(*gray.shape, -1)
    patches = patches - patches.mean(axis=-1, keepdims=True)
    length = np.sqrt((patches**2).sum(axis=-1, keepdims=True) + side**2 * _NOISE_LEVELS**2)
    return Picture(camera, (patches / length).astype(np.float32), photo.valid & photo.opaque)


def scale_scores(
    stored: DepthMap,
    kind: str,
    scales: np.ndarray,  # [S]
    own: Picture,
    neighbours: Sequence[Picture],
) -> np.ndarray:  # [S]
    """Score how alike pixels look where a map of this kind carries them, at each scale; NaN if nothing can be told.

    The two best neighbours of each pixel count: in others it may be hidden. Returns the part of what is possible.
    """
    # 1. The pixels with the most texture of those whose depth is known.
    height, width = own.valid.shape
    rows, columns = ((np.arange(n) + 0.5) / n for n in (height, width))
    h, w = stored.values.shape
    nearest = np.ix_((rows * h).astype(np.int64), (columns * w).astype(np.int64))
    values = stored.values[nearest].ravel()
    texture = np.where(own.valid.ravel() & (values > 0), (own.patches**2).sum(axis=-1).ravel(), 0.0)
    chosen = np.flatnonzero(texture > max(0.0, float(np.median(texture))))
    chosen = chosen[:: max(1, -(-len(chosen) // _PIXELS))]
    if not len(chosen) or texture[chosen].mean() < _MIN_TEXTURE or not neighbours:
        return np.full(len(scales), np.nan)
    # 2. Where they are in the world at each scale.
    v, u = np.divmod(chosen, width)
    rays = ray_lengths(own.camera, (height, width)).ravel()[chosen]
    z = unscaled_depth(values[chosen].astype(np.float64), rays, stored.unit, kind)[:, None] * scales
    directions = np.stack([u + 0.5, v + 0.5, np.ones(len(u))], 1) @ np.linalg.inv(own.camera.K).T
    camera_xyz = (directions[:, None] * z[..., None]).reshape(-1, 3)
    xyz = camera_xyz @ own.camera.w2c[:3, :3] + own.camera.position
    # 3. How alike the patches there are.
    patches = own.patches.reshape(-1, own.patches.shape[-1])[chosen]
    alike = [_likeness(patches, xyz, picture).reshape(z.shape) for picture in neighbours]
    best = np.sort(np.stack(alike), axis=0)[-2:].mean(axis=0) / texture[chosen, None]
    return np.clip((best - _UNLIKE) / (1 - _UNLIKE), 0, 1).mean(axis=0)


def _likeness(patches: np.ndarray, xyz: np.ndarray, picture: Picture) -> np.ndarray:  # [K * S]
    """Return the dot products of K patches with those of a picture at S places each; 0 outside."""
    uv, z = picture.camera.project(xyz)
    with np.errstate(invalid="ignore"):
        inside = (z > 0) & (uv >= 0).all(1) & (uv[:, 0] < picture.camera.width) & (uv[:, 1] < picture.camera.height)
    out = np.zeros(len(xyz), np.float32)
    place = np.flatnonzero(inside)
    u, v = uv[place].astype(np.int64).T
    own = place // (len(xyz) // len(patches))
    out[place] = np.einsum("nc,nc->n", picture.patches[v, u], patches[own])
    return out


def find_meaning_by_photos(
    maps: Sequence[DepthMap],
    pictures: Sequence[Picture],
    neighbours: Sequence[Sequence[Picture]],
    depth_ranges: Sequence[tuple[float, float]],
) -> Meaning:
    """Find the kind and scale with which photos look most alike through their maps; what is declared if it is as good.

    Args:
        maps: maps of some photos.
        pictures: these photos.
        neighbours: for each photo, others that show the same.
        depth_ranges: for each photo, (near, far) z-depth of its surfaces.
    """
    found = []
    for kind in DEPTH_KINDS:

        def scores(logs: np.ndarray, kind: str = kind) -> np.ndarray:
            each = [
                scale_scores(*parts[:1], kind, np.exp(logs), *parts[1:])
                for parts in zip(maps, pictures, neighbours, strict=True)
            ]
            return np.nan_to_num(np.nanmean(each, axis=0)) if np.isfinite(each).any() else np.zeros(len(logs))

        low, high = _scale_range(maps, kind, depth_ranges)
        coarse = np.arange(low, high + _STEP, _STEP)
        top = coarse[scores(coarse).argmax()]
        fine = top + np.arange(-_STEP, _STEP + _FINE_STEP, _FINE_STEP)
        at_fine, declared = scores(fine), float(scores(np.zeros(1))[0])
        is_kept = declared >= _KEPT * at_fine.max()
        scale = 1.0 if is_kept else rounded_scale(np.exp(fine[at_fine.argmax()]))
        found.append((declared if is_kept else float(at_fine.max()), Meaning(kind, scale)))
    return best_meaning(found, _KEPT_KIND)


def agreement_by_photos(scores_at: np.ndarray, scores_off: np.ndarray) -> np.ndarray:  # [V]
    """Return each map's agreement: its score as part of the usual one, 0 if hardly above that at wrong scales; or NaN.

    Args:
        scores_at: [V] each map's score, NaN where nothing can be told.
        scores_off: [V] its best score at wrong scales.
    """
    # Between photos from nearly one place, wrong scales look right, too.
    is_blind = (scores_at >= _LOOKS_RIGHT) & (_LEAD * scores_at <= scores_off) & (scores_off <= scores_at / _KEPT)
    judged = np.isfinite(scores_at) & ~is_blind
    usual = max(np.median(scores_at[judged]), 1e-9) if judged.any() else 1.0
    shares = np.where(_LEAD * scores_at > scores_off, scores_at / usual, 0.0)
    return np.where(judged, np.minimum(shares, 1.0), np.nan)


def _scale_range(maps: Sequence[DepthMap], kind: str, ranges: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Find the least and greatest log scale at which most of the maps' depths are where surfaces may be."""
    logs = []
    for stored, bounds in zip(maps, ranges, strict=True):
        known = stored.values[stored.values > 0]
        if len(known):
            close, far = np.sort(unscaled_depth(np.percentile(known, (20, 80)), 1.0, stored.unit, kind))
            logs.append((np.log(bounds[0] / far), np.log(bounds[1] / close)))
    return (min(low for low, _ in logs), max(high for _, high in logs)) if logs else (0.0, 0.0)
