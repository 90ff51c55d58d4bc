"""Do the poses fit the photos? SIFT matches of a few pairs, found without the poses, against the epipolar lines.

Everything is deterministic: OpenCV's RANSAC starts from a fixed seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lift3d_cli.scene.distortion import pinhole_rays
from lift3d_cli.scene.scene import Distortion, View
from lift3d_cli.scene.triangulation import SiftFeatures, detect_features, match_features, pair_costs

# Photos to begin at, and for each the neighbours by pose that it is compared with, by rank: the first has the most in
# common, the fourth the wider baseline. With the next photo by name, at most 24 photos are read: seconds.
_ANCHORS, _RANKS = 6, (0, 3)
# Of a pair, the matches that some epipolar geometry explains within this many pixels (of a photo of 640) are kept: as
# many as this or none, as eight give any geometry; and so few at most that each pair has its say.
_RANSAC_PX, _MIN_MATCHES, _MAX_MATCHES = 1.5, 20, 200
# A match fits if it is this near to its epipolar line and, where parallax tells, in front of both cameras.
_FIT_PX, _PARALLAX_PX = 4.0, 12.0


@dataclass(frozen=True)
class PairMatches:
    """Keypoints `uv_a`, `uv_b` [M, 2] that views `a` and `b` share, in the distorted photos, shrunk."""

    a: int
    b: int
    uv_a: np.ndarray
    uv_b: np.ndarray


@dataclass(frozen=True)
class Lens:
    """Intrinsics of a shrunk photo: K [3, 3], and its distortion."""

    K: np.ndarray
    distortion: Distortion | None


@dataclass(frozen=True)
class Fit:
    """How well poses and lenses explain matches: the share that fits, and the median error in shrunk pixels."""

    share: float
    error_px: float


def match_neighbours(views: Sequence[View]) -> list[PairMatches]:
    """Match a few photos with their neighbours by pose and by name, whether the poses are right or not.

    Raises:
        SceneError: if a photo cannot be read.
    """
    if len(views) < 2:
        return []
    features: dict[int, SiftFeatures] = {}

    def of(i: int) -> SiftFeatures:
        if i not in features:
            features[i] = detect_features(replace(views[i], distortion=None))
        return features[i]

    return [found for a, b in _chosen_pairs(views) if (found := _verified(a, b, of(a), of(b))) is not None]


def _chosen_pairs(views: Sequence[View]) -> list[tuple[int, int]]:
    cost = pair_costs(views)
    pairs = set()
    for a in np.unique(np.linspace(0, len(views) - 1, _ANCHORS).astype(int)):
        order = np.argsort(cost[a], kind="stable")
        order = order[np.isfinite(cost[a][order])]
        partners = [order[rank] for rank in _RANKS if rank < len(order)]
        partners += [a + 1] if a + 1 < len(views) and np.isfinite(cost[a, a + 1]) else []
        pairs |= {(min(int(a), int(b)), max(int(a), int(b))) for b in partners}
    return sorted(pairs)


def _verified(a: int, b: int, at_a: SiftFeatures, at_b: SiftFeatures) -> PairMatches | None:
    import cv2

    pairs = match_features(at_a, at_b)
    if len(pairs) < _MIN_MATCHES:
        return None
    uv_a, uv_b = at_a.uv[pairs[:, 0]], at_b.uv[pairs[:, 1]]
    _, kept = cv2.findFundamentalMat(uv_a, uv_b, cv2.FM_RANSAC, _RANSAC_PX, 0.999, 2000)
    if kept is None or kept.sum() < _MIN_MATCHES:
        return None
    kept = np.flatnonzero(kept)
    kept = kept[:: -(-len(kept) // _MAX_MATCHES)]
    return PairMatches(a, b, uv_a[kept], uv_b[kept])


class MatchEvidence:
    """Matches, and the rays that a set of lenses gives their keypoints."""

    def __init__(self, matches: Sequence[PairMatches], lenses: Sequence[Lens]) -> None:
        self._pairs = [
            (m, *(pinhole_rays(uv, lenses[i].K, lenses[i].distortion) for i, uv in ((m.a, m.uv_a), (m.b, m.uv_b))))
            for m in matches
        ]
        self._focals = [lens.K[0, 0] for lens in lenses]

    def fit(self, c2w: Sequence[np.ndarray]) -> Fit:
        """Compare with poses [V, 4, 4]."""
        errors = np.concatenate([geometry.errors for _, _, geometry in self._geometries(c2w)])
        return Fit(float((errors <= _FIT_PX).mean()), float(np.median(errors)))

    def depths(self, c2w: Sequence[np.ndarray]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield for each pair its view a, the rays [M, 3] of matches that fix a point well, and their z-depths [M]."""
        for m, rays, geometry in self._geometries(c2w):
            good = (geometry.errors <= _RANSAC_PX) & (geometry.parallax > _PARALLAX_PX) & np.isfinite(geometry.z)
            yield m.a, rays[good], geometry.z[good]

    def _geometries(self, c2w: Sequence[np.ndarray]) -> Iterator[tuple[PairMatches, np.ndarray, _Geometry]]:
        for m, a, b in self._pairs:
            yield m, a, _triangulate(a, b, np.linalg.inv(c2w[m.b]) @ c2w[m.a], self._focals[m.a], self._focals[m.b])


@dataclass(frozen=True)
class _Geometry:
    """Of M matches: distances from the epipolar lines and parallax, in pixels, and z-depth in view a."""

    errors: np.ndarray
    parallax: np.ndarray
    z: np.ndarray


def _triangulate(
    rays_a: np.ndarray,  # [M, 3] (x, y, 1); NaN where there is none
    rays_b: np.ndarray,
    b_from_a: np.ndarray,  # [4, 4]
    focal_a: float,
    focal_b: float,
) -> _Geometry:
    """Meet two rays of each match; the error is the larger of two distances, and infinite behind a camera.

    A point counts as behind only where the two rays are clearly not parallel.
    """
    baseline = np.linalg.norm(b_from_a[:3, 3])
    t = b_from_a[:3, 3] / (baseline or 1.0)
    a = rays_a @ b_from_a[:3, :3].T
    cross, from_a, from_b = np.cross(a, rays_b), np.cross(t, a), np.cross(t, rays_b)
    residual = np.abs((from_a * rays_b).sum(axis=1))
    line_a = from_b @ b_from_a[:3, :3]
    with np.errstate(divide="ignore", invalid="ignore"):
        # Distances on the plane z = 1 of each camera, where a pixel is 1 / focal.
        error = residual * np.maximum(focal_b / np.hypot(*from_a[:, :2].T), focal_a / np.hypot(*line_a[:, :2].T))
        size = np.linalg.norm(a, axis=1) * np.linalg.norm(rays_b, axis=1)
        parallax = min(focal_a, focal_b) * np.linalg.norm(cross, axis=1) / size
        # z_a a + t = z_b b, multiplied by b and by a.
        z_a, z_b = (-(side * cross).sum(axis=1) / (cross**2).sum(axis=1) for side in (from_b, from_a))
    behind = ((z_a < 0) | (z_b < 0)) & (parallax > _PARALLAX_PX)
    error = np.where(behind | np.isnan(error), np.inf, error)
    return _Geometry(error, parallax, baseline * z_a)
