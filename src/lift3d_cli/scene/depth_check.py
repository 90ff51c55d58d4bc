"""What depth maps mean, and which of them are wrong, judged by points on the scene's surfaces. Numbers in, numbers out.

A point that a photo shows tells what its map must say there. A point that something hides from the photo lies behind
the map's surface: that proves nothing. A point in front of the map's surface contradicts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.scene.depth_maps import DEPTH_KINDS, DepthMap, Meaning, ray_lengths, unscaled_depth

# Points that are looked up per photo, at most.
_MAX_POINTS = 3000
# Fewer points than this in a photo judge nothing.
MIN_POINTS = 20
# Depths that differ by less than this are the same: triangulated points and sensors are off by one or two percent.
# Where a photo's depths span little, a part of that span counts instead, or every depth would agree.
_MAX_TOLERANCE, _MIN_TOLERANCE, _TOLERANCE_OF_SPREAD = 0.05, 0.01, 0.25
# Width, in log depth, of the peak that the ratios of points to values have where a map is understood rightly, and the
# width of the histogram's bins.
_PEAK, _BIN = 0.015, 0.005
# A declared scale, or the more usual kind, is kept if its peak is at least this part of the highest.
_KEPT = 0.9
# A map agrees if this part of the points that speak for or against it do, and this part of what is usual in the scene.
# On eighteen procedural scenes: right maps 0.77 and more, with noise of 3 % too, and at least 0.88 of their median;
# noise up to 0.35, scales off by a tenth up to 0.09, maps of other photos 0.4 in the mean, as the ground is everywhere.
# On five real scenes, with depth that lift3d rendered: 0.77 and more, and at least 0.78 of the median.
_MIN_SHARE, _MIN_OF_USUAL = 0.6, 0.7
# If fewer than this part of the maps agree, they do so by chance.
_MIN_AGREEING = 0.25
# Pairs of points that a scale and shift are tried through.
_LINES = 200


@dataclass(frozen=True)
class DepthEvidence:
    """What points say about the map of one photo.

    Args:
        z: [M] z-depth of the points in the photo.
        values: [M] stored values of the map there, all known.
        rays: [M] length of the rays of unit z there.
        unit: declared world units of a value of 1.
    """

    z: np.ndarray
    values: np.ndarray
    rays: np.ndarray
    unit: float


def gather_evidence(camera: Camera, stored: DepthMap, points: np.ndarray) -> DepthEvidence:
    """Look up a map where a photo would show points [N, 3]."""
    height, width = stored.values.shape
    uv, z = camera.resized(width, height).project(points)
    with np.errstate(invalid="ignore"):
        inside = (z > 0) & (uv >= 0).all(axis=1) & (uv[:, 0] < width) & (uv[:, 1] < height)
    inside = np.flatnonzero(inside)
    inside = inside[:: max(1, -(-len(inside) // _MAX_POINTS))]
    u, v = uv[inside].astype(np.int64).T
    values = stored.values[v, u].astype(np.float64)
    known = values > 0
    rays = ray_lengths(camera, stored.values.shape)[v, u]
    return DepthEvidence(z[inside][known], values[known], rays[known], stored.unit)


def find_meaning(evidence: Sequence[DepthEvidence]) -> Meaning:
    """Find the kind and scale that bring most points of all photos onto the maps' surfaces.

    Hidden points lie at all depths behind a surface and make no peak. What is declared is kept if it is nearly as good.
    """
    found = []
    for kind in DEPTH_KINDS:
        height, peak, declared = _peak_of(np.concatenate([_log_ratio(each, kind) for each in evidence]))
        is_kept = declared >= _KEPT * height
        found.append((declared if is_kept else height, Meaning(kind, 1.0 if is_kept else rounded_scale(np.exp(peak)))))
    return best_meaning(found, _KEPT)


def best_meaning(found: Sequence[tuple[float, Meaning]], kept: float) -> Meaning:
    """Choose the meaning with the best score, or the first one if its score is at least this part of the best."""
    best = max(found, key=lambda item: item[0])
    return found[0][1] if found[0][0] >= kept * best[0] else best[1]


def agreement(evidence: DepthEvidence, meaning: Meaning) -> float:
    """Return the share of agreeing points among those that agree with a map or contradict it; NaN for too few."""
    if len(evidence.z) < MIN_POINTS:
        return np.nan
    error = _log_ratio(evidence, meaning.kind) - np.log(meaning.scale)
    tolerance = np.clip(_TOLERANCE_OF_SPREAD * np.std(np.log(evidence.z)), _MIN_TOLERANCE, _MAX_TOLERANCE)
    agree, against = (np.abs(error) <= tolerance).sum(), (error < -tolerance).sum()
    # Where nearly all points are behind the map, it lies in front of the scene, whatever the few others say.
    speaks = max(agree + against, 0.2 * len(error))
    return float(agree / speaks)


def are_believed(
    shares: np.ndarray, at_least: float = _MIN_SHARE, of_usual: float = _MIN_OF_USUAL
) -> np.ndarray:  # [V] bool
    """Tell which maps to use; one that nothing is known about is treated as the others are.

    Args:
        shares: [V] each map's agreement, NaN where it is not known.
        at_least: least agreement of each.
        of_usual: least agreement of each, as part of the median of the good ones.
    """
    judged = np.isfinite(shares)
    good = judged & (shares >= at_least)
    if good.sum() < _MIN_AGREEING * judged.sum():
        return np.zeros(len(shares), dtype=bool)
    usual = np.median(shares[good]) if good.any() else 0.0
    return ~judged | (good & (shares >= of_usual * usual))


def is_affine(evidence: Sequence[DepthEvidence]) -> bool:
    """Tell if each map fits by a scale and a shift of its own: 1/z = a * value + b, as monocular networks give it."""
    rng = np.random.default_rng(0)
    shares = []
    for each in evidence:
        flat = np.abs(np.median(each.z) / each.z - 1) <= _MAX_TOLERANCE if len(each.z) else np.ones(1)
        if len(each.z) < MIN_POINTS or flat.mean() > 0.5:  # a constant fits points at one depth, whatever the map
            continue
        pairs = rng.integers(0, len(each.z), (2, _LINES))
        x, y = each.values[pairs], 1 / each.z[pairs]
        with np.errstate(divide="ignore", invalid="ignore"):
            a = (y[1] - y[0]) / (x[1] - x[0])
            fitted = a[:, None] * (each.values - x[0][:, None]) + y[0][:, None]
            close = np.abs(fitted * each.z - 1) <= _MAX_TOLERANCE
        shares.append(close.mean(axis=1)[np.isfinite(a)].max(initial=0.0))
    return bool(shares) and float(np.median(shares)) >= 0.6


def rounded_scale(scale: float) -> float:
    """Round to four digits, so that other points or another machine give the same."""
    return float(f"{scale:.4g}")


def _log_ratio(evidence: DepthEvidence, kind: str) -> np.ndarray:  # [M]
    """Return the log of the points' depth over the map's, in its declared unit."""
    return np.log(evidence.z / unscaled_depth(evidence.values, evidence.rays, evidence.unit, kind))


def _peak_of(ratios: np.ndarray) -> tuple[float, float, float]:
    """Return height and place of the ratios' highest peak, and the density at 0; heights are parts of all ratios."""
    if not len(ratios):
        return 0.0, 0.0, 0.0
    bins = np.floor(ratios / _BIN).astype(np.int64)
    low = min(int(bins.min()), 0) - 10
    counts = np.bincount(bins - low, minlength=max(int(bins.max()), 0) + 11 - low)
    reach = np.arange(-9, 10)
    smooth = np.convolve(counts, np.exp(-0.5 * (reach * _BIN / _PEAK) ** 2), "same") / len(ratios)
    top = int(smooth.argmax())
    place = (top + low + 0.5) * _BIN
    for reach in (2 * _PEAK, _PEAK, _PEAK / 2):  # narrower each time: hidden points are all on one side
        place = float(np.median(ratios[np.abs(ratios - place) <= reach], axis=0))
    return float(smooth[top]), place, float(smooth[-low - 1 : -low + 1].max())
