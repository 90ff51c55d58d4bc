"""The camera: what a pixel is, what comes back after a round trip, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plane_world import look_at

from lift3d_cli.errors import SceneError
from lift3d_cli.geometry.cameras import Camera, seen_points

K = np.array([[80.0, 0, 31.5], [0, 75.0, 25.0], [0, 0, 1]])

coordinate = st.floats(-5, 5)
positions = st.tuples(coordinate, coordinate, st.floats(-9, -4))


def unproject(camera: Camera, uv: np.ndarray, z: np.ndarray) -> np.ndarray:
    """World points [N, 3] of pixels at a z-depth, the long way round: K, then the pose."""
    rays = np.linalg.solve(camera.K, np.concatenate([uv, np.ones((len(uv), 1))], 1).T).T
    return (camera.c2w @ np.concatenate([rays * z[:, None], np.ones((len(uv), 1))], 1).T).T[:, :3]


@settings(max_examples=50, deadline=None)
@given(positions, st.lists(st.tuples(st.floats(-20, 120), st.floats(-20, 90), st.floats(0.1, 50)), min_size=1))
def test_projecting_an_unprojected_pixel_gives_it_back(position, pixels):
    camera = look_at(position)
    pixels = np.array(pixels)
    uv, z = camera.project(unproject(camera, pixels[:, :2], pixels[:, 2]))
    np.testing.assert_allclose(uv, pixels[:, :2], atol=1e-8)
    np.testing.assert_allclose(z, pixels[:, 2], rtol=1e-9)
    expected = unproject(camera, pixels[:, :2], pixels[:, 2])
    np.testing.assert_allclose(camera.unproject(pixels[:, :2], pixels[:, 2]), expected, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(positions)
def test_w2c_and_c2w_undo_each_other(position):
    camera = look_at(position)
    np.testing.assert_allclose(camera.w2c @ camera.c2w, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(camera.position, position, atol=1e-12)


def test_point_on_the_optical_axis_is_at_the_principal_point():
    camera = Camera(K, np.eye(4), 64, 48)
    uv, z = camera.project(np.array([[0.0, 0.0, 3.0]]))
    assert uv.tolist() == [[31.5, 25.0]]
    assert z.tolist() == [3.0]


def test_a_step_right_and_down_moves_the_pixel_by_focal_over_depth():
    uv, _ = Camera(K, np.eye(4), 64, 48).project(np.array([[0.5, 0.2, 2.0]]))
    np.testing.assert_allclose(uv, [[31.5 + 80 * 0.25, 25.0 + 75 * 0.1]])


@pytest.mark.parametrize("z", [0.0, -1e-9, -3.0])
def test_point_not_in_front_of_the_camera_has_no_pixel(z):
    uv, depth = Camera(K, np.eye(4), 64, 48).project(np.array([[0.1, 0.2, z]]))
    assert np.isnan(uv).all()
    assert depth.tolist() == [z]


def test_forward_is_the_viewing_direction_in_the_world():
    camera = look_at((3.0, -1.0, -2.0), (0.5, 0.0, 1.0))
    want = np.array([-2.5, 1.0, 3.0])
    np.testing.assert_allclose(camera.forward, want / np.linalg.norm(want), atol=1e-12)


def test_resizing_scales_k_with_no_half_pixel_term():
    resized = Camera(K, np.eye(4), 64, 48).resized(32, 12)
    np.testing.assert_allclose(resized.K, [[40.0, 0, 15.75], [0, 18.75, 6.25], [0, 0, 1]])
    assert (resized.width, resized.height) == (32, 12)


@settings(max_examples=30, deadline=None)
@given(positions, st.integers(1, 300), st.integers(1, 300))
def test_pixels_of_a_resized_camera_are_the_resized_pixels(position, width, height):
    camera = look_at(position)
    xyz = np.array([[0.3, -0.2, 0.1], [-0.5, 0.4, 2.0]])
    uv, z = camera.project(xyz)
    small, small_z = camera.resized(width, height).project(xyz)
    np.testing.assert_allclose(small, uv * [width / camera.width, height / camera.height], rtol=1e-9)
    np.testing.assert_array_equal(small_z, z)


def with_entry(matrix: np.ndarray, index: tuple[int, int], value: float) -> np.ndarray:
    out = matrix.copy()
    out[index] = value
    return out


@pytest.mark.parametrize(
    ("K", "w2c", "size", "reason"),
    [
        (with_entry(K, (0, 0), np.nan), np.eye(4), (64, 48), "NaN or infinite"),
        (K, with_entry(np.eye(4), (0, 3), np.inf), (64, 48), "NaN or infinite"),
        (with_entry(K, (1, 1), -75.0), np.eye(4), (64, 48), "focal length"),
        (K, np.eye(4), (0, 48), "image size"),
        (K, np.diag([2.0, 2.0, 2.0, 1.0]), (64, 48), "not a rigid"),
        (K, np.diag([-1.0, 1.0, 1.0, 1.0]), (64, 48), "not a rigid"),
        (K, np.diag([1.0, 1.0, 0.0, 1.0]), (64, 48), "not a rigid"),
        (K, np.eye(3), (64, 48), r"needs \(3, 3\) and \(4, 4\)"),
    ],
)
def test_impossible_camera_is_refused(K, w2c, size, reason):
    with pytest.raises(SceneError, match=reason):
        Camera(K, w2c, *size)


def test_camera_keeps_its_own_copy_of_its_numbers():
    w2c = np.eye(4)
    camera = Camera(K, w2c, 64, 48)
    w2c[0, 3] = 9
    assert camera.position.tolist() == [0, 0, 0]


def test_many_cameras_are_those_made_one_by_one():
    cameras = [look_at((x, 0.1, -4.0 + x)) for x in (-1.0, 0.0, 2.0)]
    K, w2c = np.stack([c.K for c in cameras]), np.stack([c.w2c for c in cameras])
    sizes = np.array([(c.width, c.height) for c in cameras])
    for camera, made in zip(cameras, Camera.many(K, w2c, sizes), strict=True):
        assert (made.K.tobytes(), made.w2c.tobytes()) == (camera.K.tobytes(), camera.w2c.tobytes())
        assert (type(made.width), made.width, made.height) == (int, camera.width, camera.height)
    for spoil in ("K", "w2c", "sizes"):
        spoilt = {"K": K.copy(), "w2c": w2c.copy(), "sizes": sizes.copy()}
        spoilt[spoil][1] *= -1
        with pytest.raises(SceneError, match=r"^camera "):
            Camera.many(**spoilt)


def test_seen_points_are_those_that_project_into_the_image():
    points = np.random.default_rng(0).uniform(-5, 5, (5000, 3))
    cameras = [look_at((x, 0.1, -4.0 + x)) for x in (-1.0, 0.0, 2.0, 3.0, 3.5)]
    for camera, (indices, depths) in zip(cameras, seen_points(cameras, points), strict=True):
        uv, z = camera.project(points)
        with np.errstate(invalid="ignore"):
            inside = (z > 0) & (uv >= 0).all(1) & (uv <= (camera.width, camera.height)).all(1)
        assert (np.flatnonzero(inside) == indices).all()
        assert z[inside].tobytes() == depths.tobytes(), "depth ranges would differ by a bit"
