"""Surface points from posed photos: SIFT matches between neighbours, checked against the known poses, triangulated.

Only for scenes whose file has no points. Everything is deterministic: there is no random sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.scene.distortion import corner_from_opencv_pixels
from lift3d_cli.scene.photos import read_photo, resize_photo
from lift3d_cli.scene.scene import View

# 640 px keeps what SIFT matches over wide baselines, and takes a tenth of the time of a full photo.
_LONG_SIDE_PX = 640
_MAX_FEATURES = 2000
_NEIGHBOURS = 4
# More views than this are thinned out evenly: the depth range needs far fewer.
_MAX_VIEWS = 120
# Lowe's ratio, and the largest distance of a match from its epipolar line and from its point's reprojection, in pixels
# of the shrunk photo.
_RATIO = 0.8
_MAX_EPIPOLAR_PX = 2.0
_MAX_REPROJECTION_PX = 1.5
# Rays that meet at a smaller angle give a depth with an error of tens of percent.
_MIN_ANGLE_DEG = 1.0


@dataclass(frozen=True)
class SiftFeatures:
    """SIFT features of one shrunk photo: `uv` [M, 2] pixels, unit `descriptors` [M, 128], its shrunk `camera`."""

    uv: np.ndarray
    descriptors: np.ndarray
    camera: Camera

    @property
    def P(self) -> np.ndarray:
        """[3, 4] world to homogeneous pixels."""
        return self.camera.K @ self.camera.w2c[:3]


def triangulate_views(views: Sequence[View]) -> np.ndarray:  # [N, 3] world
    """Triangulate surface points that neighbouring photos both show.

    Returns:
        Points in a fixed order, those seen by most photos first; [0, 3] if the photos have nothing in common.

    Raises:
        SceneError: if a photo cannot be read.
    """
    if len(views) < 2:
        return np.zeros((0, 3))
    step = -(-len(views) // _MAX_VIEWS)
    views, centre, size = _centred(list(views)[::step])
    features = [detect_features(view) for view in views]
    matches = [(a, b, _match_along_epipolar_lines(features[a], features[b])) for a, b in neighbour_pairs(views)]
    tracks, observed_by, keypoints = _tracks(matches, [len(f.uv) for f in features])
    if not len(tracks):
        return np.zeros((0, 3))
    P = np.stack([f.P for f in features])[observed_by]
    uv = np.stack([features[v].uv[k] for v, k in zip(observed_by, keypoints, strict=True)])
    centres = np.stack([f.camera.position for f in features])[observed_by]
    return _triangulate(tracks, P, uv, centres) * size + centre


def _centred(views: list[View]) -> tuple[list[View], np.ndarray, float]:
    """Move the world's origin among the views, at most 1 from each; return what a point is undone by, centre and size.

    Products of positions far from the origin, or tiny ones, would lose the digits that tell points apart.
    """
    positions = np.stack([view.camera.position for view in views])
    centre = positions.mean(axis=0)
    size = float(np.linalg.norm(positions - centre, axis=1).max()) or 1.0
    moved = []
    for view, position in zip(views, positions, strict=True):
        w2c = view.camera.w2c.copy()
        w2c[:3, 3] = -w2c[:3, :3] @ ((position - centre) / size)
        moved.append(replace(view, camera=replace(view.camera, w2c=w2c)))
    return moved, centre, size


def detect_features(view: View) -> SiftFeatures:
    """Find SIFT keypoints in a view's photo, undistorted and shrunk, where it is valid and opaque."""
    import cv2

    photo = read_photo(view)
    camera = shrunk_camera(view.camera)
    photo = resize_photo(photo, camera.width, camera.height)
    gray = cv2.cvtColor(photo.image, cv2.COLOR_RGB2GRAY)
    mask = (photo.valid & photo.opaque).astype(np.uint8)
    keypoints, descriptors = cv2.SIFT_create(nfeatures=_MAX_FEATURES).detectAndCompute(gray, mask)
    if descriptors is None or not len(keypoints):
        return SiftFeatures(np.zeros((0, 2)), np.zeros((0, 128), np.float32), camera)
    uv = corner_from_opencv_pixels(np.array([k.pt for k in keypoints], dtype=np.float64))
    # OpenCV finds keypoints in several threads; sorting makes their order, and so the result, deterministic.
    order = np.lexsort(
        (descriptors[:, 0], [k.angle for k in keypoints], [k.size for k in keypoints], uv[:, 1], uv[:, 0])
    )
    root = np.sqrt(descriptors[order] / np.maximum(descriptors[order].sum(axis=1, keepdims=True), 1e-9))
    return SiftFeatures(uv[order], root.astype(np.float32), camera)


def shrunk_camera(camera: Camera) -> Camera:
    """Return the camera of the photo that `detect_features` looks at."""
    scale = min(1.0, _LONG_SIDE_PX / max(camera.width, camera.height))
    return camera.resized(max(1, round(camera.width * scale)), max(1, round(camera.height * scale)))


def neighbour_pairs(views: Sequence[View]) -> list[tuple[int, int]]:
    """Choose pairs of views that look at the same place from positions different enough to triangulate."""
    cost = pair_costs(views)
    pairs = set()
    for a in range(len(views)):
        for b in np.argsort(cost[a], kind="stable")[:_NEIGHBOURS]:
            if np.isfinite(cost[a, b]):
                pairs.add((min(a, int(b)), max(a, int(b))))
    return sorted(pairs)


def pair_costs(views: Sequence[View]) -> np.ndarray:  # [V, V]
    """Tell how far apart views are in place and direction; infinite without a baseline, and of a view to itself."""
    positions = np.stack([view.camera.position for view in views])
    forwards = np.stack([view.camera.forward for view in views])
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    cosines = np.clip(forwards @ forwards.T, -1, 1)
    reach = np.median(np.sort(distances, axis=1)[:, min(_NEIGHBOURS, len(views) - 1)])
    # A rotation by 30 degrees hides as much as a translation by the usual distance to the 4th neighbour.
    cost = distances / (reach or 1.0) + np.degrees(np.arccos(cosines)) / 30.0
    cost[distances <= 1e-6 * distances.max()] = np.inf
    return cost


def match_features(a: SiftFeatures, b: SiftFeatures) -> np.ndarray:  # [M, 2] indices of keypoints in a and b
    """Find mutual nearest neighbours that pass the ratio test in both directions, regardless of the poses."""
    if min(len(a.uv), len(b.uv)) < 2:
        return np.zeros((0, 2), dtype=np.int64)
    similarity = a.descriptors @ b.descriptors.T
    best_b, passes_a = _nearest(similarity)
    best_a, passes_b = _nearest(similarity.T)
    index = np.arange(len(a.uv))
    mutual = (best_a[best_b] == index) & passes_a & passes_b[best_b]
    return np.stack([index[mutual], best_b[mutual]], axis=1)


def _match_along_epipolar_lines(a: SiftFeatures, b: SiftFeatures) -> np.ndarray:  # [M, 2]
    pairs = match_features(a, b)
    return pairs[epipolar_distance(a.P, b.P, a.uv[pairs[:, 0]], b.uv[pairs[:, 1]]) < _MAX_EPIPOLAR_PX]


def _nearest(similarity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each row the most similar column, and whether it is clearly nearer than the second."""
    best = similarity.argmax(axis=1)
    rows = np.arange(len(similarity))
    first = similarity[rows, best]
    rest = similarity.copy()
    rest[rows, best] = -np.inf
    second = rest.max(axis=1)
    # Unit descriptors: squared distance = 2 - 2 similarity.
    return best, (1 - first) < _RATIO**2 * (1 - second)


def epipolar_distance(
    P_a: np.ndarray,  # [3, 4] K w2c
    P_b: np.ndarray,
    uv_a: np.ndarray,  # [M, 2] pixels
    uv_b: np.ndarray,
) -> np.ndarray:  # [M] pixels
    """Return the larger of the two distances between a keypoint and the epipolar line of its partner.

    Source: Hartley & Zisserman 2004, eq. 9.1, F = [e']x P' P+.
    """
    centre = np.linalg.svd(P_a)[2][-1]  # null vector of P_a: the camera's centre
    e = P_b @ centre
    cross = np.array([[0, -e[2], e[1]], [e[2], 0, -e[0]], [-e[1], e[0], 0]])
    F = cross @ P_b @ np.linalg.pinv(P_a)
    ones = np.ones((len(uv_a), 1))
    a, b = np.hstack([uv_a, ones]), np.hstack([uv_b, ones])
    line_b, line_a = a @ F.T, b @ F
    residual = np.abs((line_b * b).sum(axis=1))
    slope = np.minimum(np.hypot(line_a[:, 0], line_a[:, 1]), np.hypot(line_b[:, 0], line_b[:, 1]))
    return residual / np.maximum(slope, 1e-12)


def _tracks(matches: list[tuple[int, int, np.ndarray]], counts: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Join matches that share a keypoint; tracks with two keypoints in one photo have an error, and are left out.

    Returns:
        track number, view and keypoint of each observation, sorted by track; three [M] arrays.
    """
    offsets = np.concatenate([[0], np.cumsum(counts)])
    parent = np.arange(offsets[-1])

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b, pairs in matches:
        for i, j in pairs:
            ri, rj = root(offsets[a] + i), root(offsets[b] + j)
            parent[max(ri, rj)] = min(ri, rj)
    roots = np.array([root(i) for i in range(len(parent))], dtype=np.int64)
    view = np.repeat(np.arange(len(counts)), counts)
    keypoint = np.arange(offsets[-1]) - offsets[view]
    order = np.lexsort((view, roots))
    roots, view, keypoint = roots[order], view[order], keypoint[order]
    _, track, length = np.unique(roots, return_inverse=True, return_counts=True)
    twice = np.zeros(len(length), dtype=bool)
    same = (track[1:] == track[:-1]) & (view[1:] == view[:-1])
    twice[track[1:][same]] = True
    keep = (length[track] >= 2) & ~twice[track]
    return track[keep], view[keep], keypoint[keep]


def _triangulate(
    track: np.ndarray,  # [M] sorted
    P: np.ndarray,  # [M, 3, 4]
    uv: np.ndarray,  # [M, 2]
    centres: np.ndarray,  # [M, 3]
) -> np.ndarray:  # [N, 3]
    """Triangulate each track linearly; keep points that reproject well, in front, and with a large enough angle."""
    _, track, length = np.unique(track, return_inverse=True, return_counts=True)
    # 1. Two equations per observation; dividing by the row's length weighs all views equally.
    rows = uv[:, :, None] * P[:, 2:3, :] - P[:, :2, :]
    rows /= np.linalg.norm(rows[..., :3], axis=-1, keepdims=True)
    normal = np.zeros((len(length), 4, 4))
    np.add.at(normal, track, np.einsum("mij,mik->mjk", rows, rows))
    # 2. The point is the eigenvector of the smallest eigenvalue.
    homogeneous = np.linalg.eigh(normal)[1][..., 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        xyz = homogeneous[:, :3] / homogeneous[:, 3:]
    # 3. Check every observation of the point.
    cam = np.einsum("mij,mj->mi", P[..., :3], xyz[track]) + P[..., 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.linalg.norm(cam[:, :2] / cam[:, 2:] - uv, axis=1)
    bad = ~((cam[:, 2] > 0) & (error < _MAX_REPROJECTION_PX))
    good = np.bincount(track, weights=bad, minlength=len(length)) == 0
    # 4. The widest angle to the track's first ray.
    rays = xyz[track] - centres
    rays /= np.maximum(np.linalg.norm(rays, axis=1, keepdims=True), 1e-12)
    first = rays[np.concatenate([[0], np.cumsum(length)[:-1]])]
    angle = np.degrees(2 * np.arcsin(np.clip(np.linalg.norm(rays - first[track], axis=1) / 2, 0, 1)))
    widest = np.zeros(len(length))
    np.maximum.at(widest, track, np.nan_to_num(angle))
    good &= (widest > _MIN_ANGLE_DEG) & np.isfinite(xyz).all(axis=1)
    order = np.argsort(-length[good], kind="stable")
    return xyz[good][order]
