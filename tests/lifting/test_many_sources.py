"""The photos of many targets at once are those of each target alone."""

from __future__ import annotations

import numpy as np
import pytest
from plane_world import look_at

from lift3d_cli.geometry.cameras import Camera, seen_points
from lift3d_cli.lifting import many_sources
from lift3d_cli.lifting.many_sources import SourceChooser
from lift3d_cli.lifting.sources import select_sources
from lift3d_cli.scene.bounds import depth_range

RNG = np.random.default_rng(0)
POINTS = RNG.uniform((-3, -3, -0.4), (3, 3, 0.4), (3000, 3))


def arc(count: int, spread: float = 2.0) -> list[Camera]:
    """Make cameras before the wall, looking about at random."""
    eyes, ats = RNG.uniform(-1, 1, (2, count, 3)) * spread
    return [look_at((x, y, -4 + z / 2), (0.3 * a, 0.3 * b, 0)) for (x, y, z), (a, b, _) in zip(eyes, ats, strict=True)]


def choose(targets, cameras, num_views, points, pays=True) -> tuple[list[list[int]], list[list[int]]]:
    """Choose for all targets at once, and for each alone."""
    ranges = [depth_range(target, points, []) for target in targets]
    chooser = SourceChooser(cameras, num_views, points, 10**6 if pays else 0)
    alone = [select_sources(t, cameras, num_views, r, points) for t, r in zip(targets, ranges, strict=True)]
    return chooser.choose(targets, ranges, list(seen_points(targets, points))), alone


@pytest.mark.parametrize("num_views", [1, 2, 8, 30])
@pytest.mark.parametrize("num_cameras", [1, 3, 20])
def test_choice_is_that_of_each_target_alone(num_cameras, num_views, monkeypatch):
    targets, cameras = arc(150), arc(num_cameras)
    monkeypatch.setattr(many_sources, "_GROUP", 40 * num_cameras * 400)  # several groups
    exact = []
    monkeypatch.setattr(many_sources, "select_sources", lambda *a: exact.append(a) or select_sources(*a))
    at_once, alone = choose(targets, cameras, num_views, POINTS)
    assert at_once == alone
    assert len(exact) < 15, "of 150, float32 could not tell"


def test_photos_that_are_equally_good_are_left_to_the_exact_choice():
    cameras = arc(6)
    at_once, alone = choose([*cameras, *arc(30)], [*cameras, *cameras], 8, POINTS)
    assert at_once == alone
    # As far to the left as to the right, and points at the very border of a photo.
    grid = np.stack(np.meshgrid(np.linspace(-2, 2, 41), np.linspace(-2, 2, 41), [0.0]), -1).reshape(-1, 3)
    mirrored = [look_at((x, 0.0, -4.0), (x, 0.0, 0.0)) for x in (-1.0, -0.5, 0.5, 1.0)]
    at_once, alone = choose([look_at((0.0, 0.0, -4.0), (0.0, 0.0, 0.0)), *mirrored], mirrored, 3, grid)
    assert at_once == alone


@pytest.mark.parametrize("scale", [1e-11, 1e-5, 1e5, 1e11])
def test_any_unit_and_origin(scale):
    def moved(camera: Camera) -> Camera:
        w2c = camera.w2c.copy()
        w2c[:3, 3] = scale * w2c[:3, 3]
        return Camera(camera.K, w2c, camera.width, camera.height)

    at_once, alone = choose([moved(c) for c in arc(40)], [moved(c) for c in arc(9)], 5, POINTS * scale)
    assert at_once == alone


@pytest.mark.parametrize("points", [POINTS[:0], POINTS[:40], POINTS - 100, np.zeros((60, 3))])
def test_targets_that_see_few_points_or_one_place(points):
    targets = [*arc(20), look_at((0.0, 0.0, -4.0), (0.0, 0.0, -9.0))]
    for pays in (True, False):
        at_once, alone = choose(targets, [*arc(5), look_at((0.0, 0.0, 0.0), (0.0, 0.0, 1.0))], 4, points, pays)
        assert at_once == alone
