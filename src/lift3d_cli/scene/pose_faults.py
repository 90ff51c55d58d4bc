"""Why poses do not fit their photos: the usual mistakes are tried, and the one after which the matches fit is named."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lift3d_cli.scene.photo_files import natural_key
from lift3d_cli.scene.photo_matches import Fit, Lens, MatchEvidence, PairMatches

Size = tuple[int, int]
# A cause is believed if so many matches fit with it, and the median error falls to this part.
_EXPLAINS, _OF_ERROR = 0.85, 0.5
# One that is tried later, as it is less usual, must be better by this; nothing is tried after one that is this good.
_BETTER, _SURELY_EXPLAINS = 0.03, 0.96
# Matches of a pair that causes are tried on.
_TRIED = 60
# Focal lengths that are tried, as factors; 8 % apart, as one that is off by half of it still fits.
_FOCAL_FACTORS = np.geomspace(0.2, 5.0, 43)
# Of photos whose lens is that of a larger size. Beyond, any lens is so long that hardly a ray contradicts another.
_MOST_REDUCED = 32
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
    sizes: Sequence[Size],
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
    matches = [  # fewer, as there is much to try
        replace(m, uv_a=m.uv_a[:: -(-len(m.uv_a) // _TRIED)], uv_b=m.uv_b[:: -(-len(m.uv_a) // _TRIED)])
        for m in matches
    ]
    stated = MatchEvidence(matches, lenses)
    before = stated.fit(c2w)

    def with_lenses(other: tuple[str, str, list[Lens]]) -> Cause:
        return Cause(other[0], other[1], MatchEvidence(matches, other[2]).fit(c2w))

    tried = itertools.chain(
        (Cause(what, hint, stated.fit(poses)) for what, hint, poses in _other_poses(c2w, is_colmap)),
        (Cause(what, hint, stated.fit([c2w[i] for i in order])) for what, hint, order in _orders(names)),
        map(with_lenses, _other_lenses(lenses, sizes)),
        # Focal lengths differ little from one to the next: the best is found, not the first that is good enough.
        (min(map(with_lenses, group), key=lambda c: c.fit.error_px) for group in _other_focals(lenses, sizes)),
    )
    best: Cause | None = None
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


def _other_lenses(lenses: Sequence[Lens], sizes: Sequence[Size]) -> Iterator[tuple[str, str, list[Lens]]]:
    ratio = _off_centre(lenses, sizes)
    # Photos are mostly reduced by powers of two; the principal point tells it only as far as it is in the middle.
    for times in (2.0 ** np.round(np.log2(ratio)), ratio) if ratio > 1 / _MOST_REDUCED else ():
        shrunk = [replace(lens, K=np.diag([1 / times, 1 / times, 1.0]) @ lens.K) for lens in lenses]
        hint = "state the size w x h that they were calibrated for, or scale fl_x, fl_y, cx and cy"
        yield f"the intrinsics are of photos {times:.3g} times as wide", hint, shrunk
    what = f"the principal point is at {ratio / 2:.3g} of the photo's width, and should be near its middle"
    hint = "cx and cy are pixels from the corner, not parts of the size; leave them out for the middle"
    yield what, hint, _with_focal(lenses, 1.0, sizes)
    for model in {lens.distortion.model for lens in lenses if lens.distortion is not None}:
        what = f"the photos are undistorted already, and the {model} distortion is not theirs"
        yield what, "leave the distortion out", [replace(lens, distortion=None) for lens in lenses]


def _other_focals(lenses: Sequence[Lens], sizes: Sequence[Size]) -> Iterator[Iterator[tuple[str, str, list[Lens]]]]:
    """Yield the candidates with the principal point as it is, and those with it in the middle."""
    hint = "is it of another size of the photos, in millimetres, or its angle in degrees?"
    for middle, also in ((None, ""), (sizes, ", and the principal point in the middle")):
        yield (
            (
                f"the focal length should be about {s:.2g} times what is stated{also}",
                hint,
                _with_focal(lenses, s, middle),
            )
            for s in _FOCAL_FACTORS
        )


def _with_focal(lenses: Sequence[Lens], factor: float, middle: Sequence[Size] | None) -> list[Lens]:
    """Scale focal lengths, and put the principal points into the middle of photos of these sizes."""
    changed = [lens.K @ np.diag([factor, factor, 1.0]) for lens in lenses]
    for K, size in zip(changed, middle or (), strict=bool(middle)):
        K[:2, 2] = np.divide(size, 2)
    return [replace(lens, K=K) for lens, K in zip(lenses, changed, strict=True)]


def _off_centre(lenses: Sequence[Lens], sizes: Sequence[Size]) -> float:
    return float(lenses[0].K[0, 2] / (sizes[0][0] / 2))


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
