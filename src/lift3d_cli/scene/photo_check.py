"""The verdict of a scene's photos on its poses and points, in numbers and in lines for the user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.scene.photo_matches import Fit, Lens, MatchEvidence, match_neighbours
from lift3d_cli.scene.pose_faults import find_cause
from lift3d_cli.scene.scene import Scene
from lift3d_cli.scene.triangulation import shrunk_camera

# On 54 real scenes with right poses 92 % of the matches fit, and more. With one of the usual mistakes it is 98 % at
# most, but 15 % in the median. Below the first, the poses do not fit. Below the second, a cause is looked for.
_FITTING, _SURELY_FITTING = 0.5, 0.9
# Points agree with a match if one that is seen within this, in pixels of a photo of 640, has its depth up to this part;
# where depths span little, up to this part of the span. On the same scenes 90 % of the matches agree and more; with
# points of half or twice the size 15 % at most.
_NEAR_PX, _MAX_TOLERANCE, _MIN_TOLERANCE, _TOLERANCE_OF_SPREAD = 12.0, 0.05, 0.01, 0.25
_AGREEING = 0.5
# A cloud that fills space has a point at any depth: what agrees at depths that are false, by this factor, does not
# count.
_FALSE_DEPTH = 1.25
# Points that are compared, at most; and matches, at least.
_MAX_POINTS, _MIN_DEPTHS = 20_000, 40
# Where points are seen near to fewer matches than this part, they lie elsewhere.
_COVERED = 0.2


@dataclass(frozen=True)
class Verdict:
    """What the photos say about a scene.

    Args:
        num_pairs: pairs of photos with matches; 0 if the photos have too little in common to tell.
        share: of the matches, how many fit the poses; NaN without any.
        error_px: median distance from the epipolar lines, in pixels of the first photo.
        cause: why they probably do not fit, "" where they do, or nothing explains it.
        hint: what to do about it.
        points_share: of the matches near points of the file, how many have a point at their depth; NaN if unknown.
    """

    num_pairs: int
    share: float
    error_px: float
    cause: str = ""
    hint: str = ""
    points_share: float = np.nan

    @property
    def poses_fit(self) -> bool:
        """True unless the photos contradict the poses."""
        return not (self.cause or self.share < _FITTING)

    @property
    def points_fit(self) -> bool:
        """True unless the photos contradict the points of the file."""
        return not self.points_share < _AGREEING

    def warnings(self) -> list[str]:
        """Return lines for the user."""
        if not self.poses_fit:
            cause = self.cause or "nothing usual explains it"
            hint = self.hint or "are these the photos that the poses were made from, in this order?"
            return [f"the poses do not fit the photos, {self._fits()}: {cause}. hint: {hint}"]
        if not self.points_fit:
            return [
                f"the file's points do not lie where the photos show surfaces ({self.points_share:.0%} agree), and are "
                "not used. hint: are they in the poses' unit and axes?"
            ]
        return []

    def summary(self) -> str:
        """Describe the verdict on the poses in a few words."""
        if not self.num_pairs:
            return "unknown: the photos that were compared have too little in common"
        return f"{'fit' if self.poses_fit else 'do not fit'} the photos, {self._fits()}"

    def _fits(self) -> str:
        error = f"median error {self.error_px:.1f} px" if np.isfinite(self.error_px) else "most are behind a camera"
        return f"{self.share:.0%} of the matches of {self.num_pairs} pairs, {error}"

    def as_dict(self) -> dict[str, object]:
        """Return the fields."""
        return asdict(self)


def check_photos(scene: Scene) -> Verdict:
    """Compare a few pairs of neighbouring photos with the poses, and with the file's points; takes seconds.

    Raises:
        SceneError: if a photo cannot be read.
    """
    views = scene.views
    matches = match_neighbours(views)
    if not matches:
        return Verdict(0, np.nan, np.nan)
    cameras = [shrunk_camera(view.camera) for view in views]
    lenses = [Lens(camera.K, view.distortion) for camera, view in zip(cameras, views, strict=True)]
    c2w = [camera.c2w for camera in cameras]
    evidence = MatchEvidence(matches, lenses)
    fit: Fit = evidence.fit(c2w)
    verdict = Verdict(len(matches), fit.share, fit.error_px * views[0].camera.width / cameras[0].width)
    if fit.share < _SURELY_FITTING:
        sizes = [(camera.width, camera.height) for camera in cameras]
        names = [view.name for view in views]
        cause = find_cause(matches, lenses, c2w, sizes, names, scene.format == "colmap")
        if cause is not None:
            return replace(verdict, cause=cause.what, hint=cause.hint)
    if scene.points is None or not verdict.poses_fit:
        return verdict
    return replace(verdict, points_share=_points_share(evidence, cameras, scene.points))


def _points_share(evidence: MatchEvidence, cameras: Sequence[Camera], points: np.ndarray) -> float:
    points = points[:: -(-len(points) // _MAX_POINTS)]
    found = [
        _compare(cameras[a], rays, z, points)
        for a, rays, z in evidence.depths([camera.c2w for camera in cameras])
        if len(z)
    ]
    seen, agree, by_chance = np.concatenate(found, axis=1) if found else np.zeros((3, 0))
    if len(seen) < _MIN_DEPTHS:
        return np.nan
    return float((agree - by_chance).sum() / max(seen.sum() - by_chance.sum(), _COVERED * len(seen)))


def _compare(camera: Camera, rays: np.ndarray, z: np.ndarray, points: np.ndarray) -> np.ndarray:  # [3, M]
    """Tell of each match if points are seen near it, if one has its depth, and if so by chance."""
    uv, depth = camera.project(points)
    with np.errstate(invalid="ignore"):
        inside = (depth > 0) & (uv >= 0).all(axis=1) & (uv <= (camera.width, camera.height)).all(axis=1)
    uv, depth = uv[inside], np.log(depth[inside])
    tolerance = np.clip(_TOLERANCE_OF_SPREAD * np.std(np.log(z)), _MIN_TOLERANCE, _MAX_TOLERANCE)
    rows = []
    for place, true in zip(rays @ camera.K[:2].T, np.log(z), strict=True):
        near = depth[(np.abs(uv - place) <= _NEAR_PX).all(axis=1)]
        chances = [
            (np.abs(near - true - shift) <= tolerance).any() for shift in np.log(_FALSE_DEPTH) * np.array((1, -1))
        ]
        agrees = (np.abs(near - true) <= tolerance).any()
        rows.append((len(near) > 0, agrees, agrees and np.mean(chances)))
    return np.array(rows, dtype=float).T
