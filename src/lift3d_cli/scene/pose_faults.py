"""Why poses do not fit their photos: the usual mistakes are tried, and the one after which the matches fit is named."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lift3d_cli.scene.photo_files import natural_key
from lift3d_cli.scene.photo_matches import Evidence, Fit, Lens, PairMatches

# A cause is believed if so many matches fit with it, and the median error falls to this part.
_EXPLAINS, _OF_ERROR = 0.85, 0.5
# One that is tried later, as it is less usual, must be better by this; nothing is tried after one that is this good.
_BETTER, _SURELY_EXPLAINS = 0.03, 0.96
# Matches of a pair that causes are tried on.
_TRIED = 60
# Focal lengths that are tried, as factors; 8 % apart, as one that is off by half of it still fits.
_FOCAL_FACTORS = np.geomspace(0.2, 5.0, 43)
_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])  # between OpenCV's and OpenGL's camera axes
_AXES = [
    np.block([[turn, np.zeros((3, 1))], [np.zeros((1, 3)), 1.0]])
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1.0, -1.0), repeat=3)
    if np.linalg.det(turn := np.diag(signs)[:, order]) > 0
]  # the 24 ways to turn a camera by right angles


@dataclass(frozen=True)
class Cause:
    """What is probably wrong, and what to do, for the user; and how the matches fit without it."""

    what: str
    hint: str
    fit: Fit


def find_cause(
    matches: Sequence[PairMatches],
    lenses: Sequence[Lens],
    c2w: Sequence[np.ndarray],
    sizes: Sequence[tuple[int, int]],
    names: Sequence[str],
    is_colmap: bool,
) -> Cause | None:
    """Try the usual mistakes, and return the most usual of those that explain the matches.

    Args:
        matches: pairs of photos, by index.
        lenses: of the photos.
        c2w: [4, 4] poses, OpenCV axes.
        sizes: (width, height) of the photos in the pixels of the lenses.
        names: of the photos.
        is_colmap: the file holds world-to-camera poses with OpenCV axes; otherwise camera-to-world with OpenGL axes.
    """
    matches = [
        replace(m, uv_a=m.uv_a[:: -(-len(m.uv_a) // _TRIED)], uv_b=m.uv_b[:: -(-len(m.uv_a) // _TRIED)])
        for m in matches
    ]
    stated = Evidence(matches, lenses)
    before = stated.fit(c2w)
    tried = itertools.chain(
        (Cause(what, hint, stated.fit(poses)) for what, hint, poses in _other_poses(c2w, is_colmap)),
        (Cause(what, hint, stated.fit([c2w[i] for i in order])) for what, hint, order in _orders(names)),
        (Cause(what, hint, Evidence(matches, other).fit(c2w)) for what, hint, other in _other_lenses(lenses, sizes)),
    )
    best = None
    for cause in tried:
        if cause.fit.share < _EXPLAINS or cause.fit.error_px > _OF_ERROR * before.error_px:
            continue
        if best is None or cause.fit.share > best.fit.share + _BETTER:
            best = cause
        if best.fit.share >= _SURELY_EXPLAINS:
            break
    return best


def _other_poses(c2w: Sequence[np.ndarray], is_colmap: bool) -> Iterator[tuple[str, str, list[np.ndarray]]]:
    matrix = "pose" if is_colmap else "transform_matrix"
    stated, other = ("OpenCV", "OpenGL") if is_colmap else ("OpenGL", "OpenCV")
    flip, invert = f"multiply each {matrix} by diag(1, -1, -1, 1) from the right", f"invert each {matrix}"
    direction = "camera-to-world" if is_colmap else "world-to-camera"
    if is_colmap:
        flip = f"multiply each {matrix} by diag(1, -1, -1, 1) from the left"
    inverse = [np.linalg.inv(pose) for pose in c2w]
    yield f"the poses have {other} axes, not {stated}'s", flip, [pose @ _FLIP for pose in c2w]
    # An inverse has the axes on its left, where they only turn the world; those of the camera are chosen here.
    same, flipped = [pose @ _FLIP for pose in inverse], inverse
    if is_colmap:
        same, flipped = flipped, same
    yield f"the poses are {direction}", invert, same
    yield f"the poses are {direction}, with {other} axes", f"{invert}, and then {flip}", flipped
    for axes in _AXES:
        rows = "; ".join(" ".join(f"{x:g}" for x in row) for row in axes[:3, :3])
        what, turn = "the camera's axes are others", f"by the rotation [{rows}] in OpenCV's axes"
        yield what, f"turn each camera {turn}", [pose @ axes for pose in c2w]
        yield f"{what}, and the poses are {direction}", f"{invert}, and turn each {turn}", [p @ axes for p in inverse]


def _other_lenses(lenses: Sequence[Lens], sizes: Sequence[tuple[int, int]]) -> Iterator[tuple[str, str, list[Lens]]]:
    middles = [np.array([[1.0, 0, w / 2], [0, 1.0, h / 2], [0, 0, 1.0]]) for w, h in sizes]

    def changed(make) -> list[Lens]:
        return [replace(lens, K=make(lens.K, middle)) for lens, middle in zip(lenses, middles, strict=True)]

    def middle_of(factor: float):
        return lambda K, middle: middle @ np.diag([factor * K[0, 0], factor * K[1, 1], 1.0])

    K, middle = lenses[0].K, middles[0]
    ratio = K[0, 2] / middle[0, 2]
    hint = "state the size w x h that they were calibrated for, or scale fl_x, fl_y, cx and cy"
    # Photos are mostly reduced by powers of two; the principal point tells it only as far as it is in the middle.
    for times in (2.0 ** np.round(np.log2(ratio)), ratio) if ratio > 0 else ():
        what = f"the intrinsics are of photos {times:.3g} times as wide"
        yield what, hint, changed(lambda K, _, s=1 / times: np.diag([s, s, 1.0]) @ K)
    if abs(np.log(max(ratio, 1e-9))) > 0.1:
        yield (
            f"the principal point is at {ratio / 2:.3g} of the photo's width, and should be near its middle",
            "cx and cy are pixels from the corner, not parts of the size; leave them out for the middle",
            changed(middle_of(1.0)),
        )
    for factor in _FOCAL_FACTORS[np.argsort(np.abs(np.log(_FOCAL_FACTORS)))]:
        what = f"the focal length should be about {factor:.2g} times what is stated"
        hint = "is it of another size of the photos, in millimetres, or its angle in degrees?"
        yield what, hint, changed(lambda K, _, s=factor: K @ np.diag([s, s, 1.0]))
        if abs(np.log(max(ratio, 1e-9))) > 0.1:
            yield f"{what}, and the principal point in the middle", hint, changed(middle_of(factor))
    for model in {lens.distortion.model for lens in lenses if lens.distortion is not None}:
        what = f"the photos are undistorted already, and the {model} distortion is not theirs"
        yield what, "leave the distortion out", [replace(lens, distortion=None) for lens in lenses]


def _orders(names: Sequence[str]) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield, for each photo, the index of the pose that it should have."""
    count = len(names)
    here = np.arange(count)
    by_text = np.array(sorted(here, key=lambda i: names[i]))
    by_number = np.array(sorted(here, key=lambda i: natural_key(names[i])))
    hint = "pair each photo with its own pose"
    # Photos paired by text with poses by number, and the other way round.
    change = np.argsort(by_number)[by_text]
    if (change != here).any():
        for order in (change, np.argsort(change)):
            yield "the poses and photos are in two orders, by number (2 before 10) and by text", hint, order
    yield "the poses are in the reversed order of the photos", hint, here[::-1]
    for shift in (1, -1, 2, -2):
        side = "after" if shift > 0 else "before"
        yield f"each photo's own pose stands {abs(shift)} {side} it", hint, (here + shift) % count
