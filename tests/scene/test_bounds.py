"""Surface points and the depth range they give a camera."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from scene_files import blob_texture, look_at, plane_photo, write_photo

from lift3d_cli.geometry.cameras import Camera, seen_points
from lift3d_cli.scene import bounds
from lift3d_cli.scene.bounds import depth_range, sourced_depth_range, surface_points
from lift3d_cli.scene.scene import Scene, View
from lift3d_cli.scene.triangulation import epipolar_distance, triangulate_views

K = np.array([[200.0, 0, 96], [0, 200, 72], [0, 0, 1]])


def camera(position, target=(0, 0, 0)) -> Camera:
    return Camera(K, look_at(position, target), 192, 144)


def view(cam: Camera, name="a", depth_range=None) -> View:
    return View(name, Path(name), cam, depth_range=depth_range)


def plane_scene(root: Path, positions) -> Scene:
    views = []
    for i, position in enumerate(positions):
        cam = camera(position)
        iio.imwrite(root / f"{i}.png", plane_photo(cam, blob_texture))
        views.append(View(f"{i}.png", root / f"{i}.png", cam))
    return Scene(root, "nerfstudio", tuple(views))


POSITIONS = [(x, y, -4.0) for y in (-0.4, 0.4) for x in (-0.6, 0.0, 0.6)]


# ---- triangulation --------------------------------------------------------------------------------------------------


def test_points_of_a_photographed_plane_lie_on_it(tmp_path):
    points = surface_points(plane_scene(tmp_path, POSITIONS))
    assert len(points) > 200
    # 1.5 px of reprojection error at a baseline of 0.6 and depth 4 is 0.2; the mean is ten times better.
    assert np.abs(points[:, 2]).max() < 0.2
    assert np.abs(points[:, 2]).mean() < 0.02


def test_points_are_the_same_every_time(tmp_path):
    scene = plane_scene(tmp_path, POSITIONS[:3])
    np.testing.assert_array_equal(surface_points(scene), surface_points(scene))


def test_only_the_given_views_are_looked_at(tmp_path):
    scene = plane_scene(tmp_path, POSITIONS[:4])
    scene.views[3].image_path.unlink()
    assert len(surface_points(scene, views=scene.views[:3])) > 50


def test_number_of_points_is_limited_evenly():
    points = np.arange(300.0).reshape(100, 3)
    scene = Scene(Path(), "colmap", (view(camera((0, 0, -4))),), points)
    assert surface_points(scene) is not None
    thinned = surface_points(scene, max_points=30)
    assert len(thinned) == 25
    np.testing.assert_array_equal(thinned, points[::4])


@pytest.mark.parametrize("positions", [[], POSITIONS[:1], [POSITIONS[0], POSITIONS[0]]])
def test_too_few_different_places_give_no_points(tmp_path, positions):
    assert triangulate_views(plane_scene(tmp_path, positions).views).shape == (0, 3)


def test_photos_without_texture_give_no_points(tmp_path):
    views = [View(f"{i}", write_photo(tmp_path / f"{i}.png", 192, 144), camera(p)) for i, p in enumerate(POSITIONS)]
    assert triangulate_views(views).shape == (0, 3)


def test_epipolar_distance_is_zero_for_the_same_point_and_the_offset_for_a_shifted_one():
    a, b = camera((-0.5, 0, -4), (-0.5, 0, 0)), camera((0.5, 0, -4), (0.5, 0, 0))
    xyz = np.random.default_rng(0).uniform(-1, 1, (20, 3))
    P_a, P_b = a.K @ a.w2c[:3], b.K @ b.w2c[:3]
    uv_a, uv_b = a.project(xyz)[0], b.project(xyz)[0]
    np.testing.assert_allclose(epipolar_distance(P_a, P_b, uv_a, uv_b), 0, atol=1e-9)
    # A pure sideways move: epipolar lines are rows.
    np.testing.assert_allclose(epipolar_distance(P_a, P_b, uv_a, uv_b + np.array([7, 3])), 3, atol=1e-9)


# ---- depth range ----------------------------------------------------------------------------------------------------


def ring(n=8, radius=4.0) -> list[View]:
    angles = np.arange(n) * 2 * np.pi / n
    return [view(camera((radius * np.sin(a), 0, -radius * np.cos(a))), str(a)) for a in angles]


def is_sane(near: float, far: float) -> bool:
    return bool(np.isfinite([near, far]).all() and 0 < near < far)


def test_range_contains_the_points_with_a_margin():
    points = np.random.default_rng(0).uniform(-1, 1, (5000, 3))
    near, far = depth_range(camera((0, 0, -4)), points, [])
    assert 2.2 < near < 3.0
    assert 5.0 < far < 8.0


def test_few_wrong_points_do_not_stretch_the_range():
    points = np.random.default_rng(0).uniform(-1, 1, (5000, 3))
    clean = depth_range(camera((0, 0, -4)), points, [])
    wrong = np.concatenate([points, [[0, 0, -3.99]] * 10, [[0, 0, 900.0]] * 10])
    np.testing.assert_allclose(depth_range(camera((0, 0, -4)), wrong, []), clean, rtol=0.1)


def test_points_outside_the_image_and_behind_the_camera_do_not_count():
    points = np.random.default_rng(0).uniform(-1, 1, (2000, 3))
    clean = depth_range(camera((0, 0, -4)), points, [])
    beside = np.concatenate([points + np.array(offset) for offset in ([0, 0, 0], [60, 0, 3], [0, 0, -30])])
    np.testing.assert_allclose(depth_range(camera((0, 0, -4)), beside, []), clean)


def test_camera_that_sees_few_points_uses_a_wider_image_then_all_in_front():
    points = np.random.default_rng(0).uniform(-0.3, 0.3, (500, 3))
    beside = camera((0, 0, -4), (2.5, 0, 0))  # the points are just out of its image
    near, far = depth_range(beside, points, [])
    assert near < 3.4 < far
    away = camera((0, 0, -4), (20, 0, 0))  # far out of its image, but in front
    assert is_sane(*depth_range(away, points, []))


def test_far_margin_grows_with_the_depth_of_the_scene_and_is_limited():
    flat = np.random.default_rng(0).uniform([-1, -1, 0], [1, 1, 0.01], (500, 3))
    near, far = depth_range(camera((0, 0, -4)), flat, [])
    np.testing.assert_allclose([near, far], [3.2, 5.0], rtol=0.01)
    deep = np.random.default_rng(0).uniform([-0.1, -0.1, -3], [0.1, 0.1, 996], (5000, 3))
    near, far = depth_range(camera((0, 0, -4)), deep, [])
    assert 1900 < far < 2000


def test_ranges_of_the_file_count_if_there_are_no_points():
    views = [view(camera((x, 0, -4)), str(x), (2.0 + x, 10.0 + x)) for x in range(8)]
    near, far = depth_range(camera((0, 0, -4)), None, views)  # the four nearest: near 2 to 5, far 10 to 13
    assert near == pytest.approx(1.6)
    assert 13 * 1.25 <= far <= 26
    assert depth_range(camera((0, 0, -4)), np.zeros((3, 3)), views) == (near, far)


def test_cameras_around_an_object_look_at_it():
    near, far = depth_range(camera((0, 0, -4)), None, ring())
    assert near == pytest.approx(1.0)
    assert far == pytest.approx(16.0)


def test_range_scales_with_the_scene():
    points = np.random.default_rng(0).uniform(-1, 1, (5000, 3))
    cam = camera((0, 0, -4))
    large = Camera(cam.K, look_at((0, 0, -4000)), 192, 144)
    np.testing.assert_allclose(np.multiply(depth_range(cam, points, []), 1000), depth_range(large, points * 1000, []))


ODD_VIEWS = {
    "none": [],
    "one": [view(camera((0, 0, -4)))],
    "twice the same": [view(camera((0, 0, -4)))] * 2,
    "parallel": [view(camera((x, 0, -4), (x, 0, 0)), str(x)) for x in range(3)],
    "outwards": [view(camera(tuple(p), tuple(2 * p)), str(i)) for i, p in enumerate(np.eye(3) + 0.01)],
    "facing away": [view(camera((x, 0, -4 - x * x), (2 * x, 0, -40)), str(x)) for x in (-1, 0, 1)],
}


@pytest.mark.parametrize("views", ODD_VIEWS.values(), ids=ODD_VIEWS.keys())
@pytest.mark.parametrize("points", [None, np.zeros((0, 3)), np.zeros((30, 3)), np.full((30, 3), [0, 0, -3.9999999])])
def test_range_is_always_finite_and_in_order(views, points):
    for cam in [
        camera((0, 0, -4)),
        camera((0, 0, 4)),
        camera((0, 0, -4), (0, 0, -9)),
        camera((1e-9, 0, 0.0), (1, 0, 0)),
    ]:
        assert is_sane(*depth_range(cam, points, views))


@pytest.mark.parametrize("count", [2, 19, 20, 21, 100, 101, 201, 1000, 4321])
def test_outermost_depths_are_numpys_percentiles_to_the_bit(count):
    depths = np.random.default_rng(count).lognormal(size=count)
    assert bounds._outermost(depths) == tuple(np.percentile(depths, bounds._PERCENTILES))


def test_depths_that_are_known_change_nothing():
    points = np.random.default_rng(0).uniform((-3, -3, -0.4), (3, 3, 0.4), (3000, 3))
    cameras = [camera((x, 0.0, -4)) for x in (-1, 0.5, 4, 40)]
    for cam, (_, depths) in zip(cameras, seen_points(cameras, points), strict=True):
        assert sourced_depth_range(cam, points, [], depths) == sourced_depth_range(cam, points, [])
