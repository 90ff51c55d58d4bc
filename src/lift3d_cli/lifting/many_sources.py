"""The source views of many targets at once: the choice of `select_sources`, in a fraction of its time.

How a photo sees a surface point is found once for all targets, and gains are compared for a group of targets together,
in float32. Where two views are nearly equally good, which is rare, rounding would decide, and the target is left to
`select_sources`: the choices never differ.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.lifting.sources import ANGLE_SCALE, ENOUGH_VIEWS, MAX_POINTS, MIN_GAIN, select_sources, spread

# Gains, per point, that are too near for float32: each term of the sums is wrong by a millionth or two.
_MARGIN = 1e-5
# A point this near to the border of a photo, in photos, may be in it or not, as the numbers are rounded; and one whose
# depth is this small a part of the numbers that it is the difference of.
_BORDER, _LEAST_DEPTH = 1e-9, 1e-7
# Quotients of lengths that are far from the ends of float32.
_LEAST, _MOST = 1e-30, 1e30
# Views times points that are kept, 16 bytes each; a scene with more of them is measured target by target.
_MOST_KEPT = 2**24
# Views times points of a group of targets, and of those that are measured at once: in the processor's cache.
_GROUP, _AT_ONCE = 2**21, 2**15


class SourceChooser:
    """Chooses the source views of any number of targets.

    Args:
        cameras: the candidates.
        num_views: the most views to choose of a target.
        points: [N, 3] surface points in the world.
        num_targets: how many targets there will be.
    """

    def __init__(self, cameras: Sequence[Camera], num_views: int, points: np.ndarray, num_targets: int) -> None:
        self._cameras, self._num_views, self._points = cameras, num_views, points
        # For a few targets, measuring all points would be more work than measuring those that each of them uses.
        self._pays = 0 < len(points) <= num_targets * MAX_POINTS and len(cameras) * len(points) <= _MOST_KEPT
        if self._pays:
            self._measure()

    def _measure(self) -> None:
        """Find out how the views see all points."""
        cameras, points = self._cameras, self._points
        # Halves of the unit vectors from the views to the points, and pixels per length there: 0 for what is not seen.
        self._toward = np.empty((3, len(cameras), len(points)), np.float32)
        self._fineness = np.empty(self._toward.shape[1:], np.float32)
        self._is_doubtful = np.zeros(len(points), bool)
        for i, camera in enumerate(cameras):
            offset = points - camera.position
            uv, z = camera.project(points)
            with np.errstate(divide="ignore", invalid="ignore"):
                self._toward[:, i] = (offset / np.linalg.norm(offset, axis=1, keepdims=True) / 2).T
                place = uv / (camera.width, camera.height)
                inside = (z > 0) & (place >= 0).all(1) & (place <= 1).all(1)
                self._is_doubtful |= (np.minimum(abs(place), abs(place - 1)) < _BORDER).any(1)
                fineness = np.where(inside, camera.K[0, 0] / z, 0)
            size = np.linalg.norm(points, axis=1) + np.linalg.norm(camera.position)
            self._is_doubtful |= np.abs(z) <= _LEAST_DEPTH * size
            self._is_doubtful |= inside & ~((fineness > _LEAST) & (fineness < _MOST))
            self._fineness[i] = fineness

    def choose(
        self,
        targets: Sequence[Camera],
        depth_ranges: Sequence[tuple[float, float]],
        seen: Sequence[tuple[np.ndarray, np.ndarray]],
    ) -> list[list[int]]:
        """Choose the source views of each target: what `select_sources` returns.

        Args:
            targets: the cameras to render.
            depth_ranges: (near, far) z-depth of each target.
            seen: from `seen_points`, for each target.
        """
        used = [spread(indices) for indices, _ in seen]
        usual = [i for i, chosen in enumerate(used) if self._pays and chosen is not None]
        found: dict[int, list[int] | None] = {}
        size = max(1, _GROUP // max((len(self._cameras) * len(used[i]) for i in usual), default=1))
        for n in range(0, len(usual), size):
            group = usual[n : n + size]
            counts = np.array([len(used[i]) for i in group])
            points = np.zeros((len(group), counts.max()), int)
            per_pixel = np.zeros(points.shape)  # 0 makes a point, here of the padding, worth nothing
            for row, i in enumerate(group):
                points[row, : counts[row]] = used[i]
                depths = seen[i][1][:: -(-len(seen[i][1]) // counts[row])]
                per_pixel[row, : counts[row]] = depths / targets[i].K[0, 0]
            positions = np.array([targets[i].position for i in group])
            is_safe = ~self._is_doubtful[points].any(1) & (per_pixel < _MOST).all(1)
            chosen = _choose_greedily(self._worths(positions, points, per_pixel), counts, self._num_views)
            found |= {i: views for i, views, safe in zip(group, chosen, is_safe, strict=True) if safe}
        chosen = []
        for i, (target, depth_range) in enumerate(zip(targets, depth_ranges, strict=True)):
            views = found.get(i)
            exact = views is None and select_sources(target, self._cameras, self._num_views, depth_range, self._points)
            chosen.append(exact if views is None else views)
        return chosen

    def _worths(self, positions: np.ndarray, points: np.ndarray, per_pixel: np.ndarray) -> np.ndarray:
        """Compute what views are worth to the points of targets, see `sources._worth`.

        Args:
            positions: [T, 3] of the targets.
            points: [T, P] indices.
            per_pixel: [T, P] world length of the targets' pixels there.

        Returns:
            [V, T, P] float32 in [0, 1].
        """
        shape = (len(self._cameras), *points.shape)
        worth = np.empty(shape, np.float32)
        at_once = max(1, _AT_ONCE // (shape[0] * shape[2]))
        for i in range(0, len(points), at_once):
            some = slice(i, i + at_once)
            offset = self._points[points[some]] - positions[some, None]  # [T, P, 3]
            ray = (offset / (2 * np.sqrt(np.einsum("tpi,tpi->tp", offset, offset)))[..., None]).astype(np.float32)
            # The chord between the lines of sight is exact for small angles, as the cosine is not.
            chord = self._toward.take(points[some], -1)
            chord -= np.ascontiguousarray(ray.transpose(2, 0, 1))[:, None]
            half = np.sqrt(np.einsum("ivtp,ivtp->vtp", chord, chord))
            angle = np.arcsin(np.minimum(half, 1, out=half), out=half)
            angle *= np.float32(-2 / ANGLE_SCALE)
            fineness = self._fineness.take(points[some], -1)
            fineness *= per_pixel[some].astype(np.float32)
            np.multiply(np.exp(angle, out=angle), np.minimum(fineness, 1, out=fineness), out=worth[:, some])
        return worth


def _choose_greedily(worth: np.ndarray, num_points: np.ndarray, num_views: int) -> list[list[int] | None]:
    """Choose as `select_sources` does for each target; None where two views are too near to tell.

    Args:
        worth: [V, T, P].
        num_points: [T] points that each target has.
        num_views: the most views to choose.
    """
    margin, least, most = _MARGIN * num_points, MIN_GAIN * num_points, min(num_views, len(worth))
    chosen, count = np.full((worth.shape[1], most), -1), np.zeros(worth.shape[1], int)
    total, level = np.zeros(worth.shape[1:], np.float32), np.zeros(worth.shape[1])
    gain = np.sqrt(worth).sum(2).T.astype(float)  # [T, V]
    up_to_date, is_sure = np.zeros(gain.shape, int), np.ones(len(gain), bool)
    left = np.arange(len(gain))
    while len(left):
        ranked, places = gain[left], np.arange(len(left))
        best = ranked.argmax(1)
        first = ranked[places, best]
        ranked[places, best] = -np.inf
        second = ranked.argmax(1)
        is_current = up_to_date[left, best] == count[left]
        is_near = first - ranked[places, second] <= margin[left]
        can_end = is_current & (count[left] >= ENOUGH_VIEWS)
        ends = can_end & (first < (least - margin)[left])
        # A view that is nearly as good may be worse by now: it is measured again before they are found equal.
        again = np.where(is_current, second, best)
        is_old = up_to_date[left, again] != count[left]
        unsure = (can_end & (np.abs(first - least[left]) <= margin[left])) | (is_current & is_near & ~is_old & ~ends)
        goes_on = ~ends & ~unsure
        measured, takes = goes_on & is_old & (~is_current | is_near), goes_on & is_current & ~is_near
        rows, views = left[measured], again[measured]
        seen = total[rows]
        seen += worth[views, rows]
        gain[rows, views] = np.sqrt(seen, out=seen).sum(1) - level[rows]
        up_to_date[rows, views] = count[rows]
        rows, views = left[takes], best[takes]
        chosen[rows, count[rows]] = views
        total[rows] += worth[views, rows]
        level[rows] += first[takes]  # the sum of the roots of `total`
        gain[rows, views] = -np.inf
        count[rows] += 1
        is_sure[left[unsure]] = False
        left = left[goes_on & (count[left] < most)]
    found = zip(chosen.tolist(), count.tolist(), is_sure.tolist(), strict=True)
    return [views[:n] if sure else None for views, n, sure in found]
