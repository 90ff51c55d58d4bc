"""Lenses: their formulas, the half pixel to OpenCV, and what `read_photo` undoes."""

from __future__ import annotations

import cv2
import imageio.v3 as iio
import numpy as np
import pytest
from scene_files import LENS_K as K
from scene_files import invert_distortion, lens_camera, look_at, plane_photo, smooth_texture, write_photo

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.scene.distortion import (
    corner_from_opencv_pixels,
    distort,
    opencv_from_corner_pixels,
    undistortion_map,
)
from lift3d_cli.scene.photos import read_photo
from lift3d_cli.scene.scene import Distortion, View

LENSES = [
    Distortion("opencv", (0.15, 0.0, 0.0, 0.0)),
    Distortion("opencv", (-0.2, 0.05, 0.01, -0.008)),
    Distortion("opencv", (0.1, 0.02, 0.003, 0.004, 0.01, 0.12, 0.03, 0.002)),
    Distortion("opencv_fisheye", (0.05, -0.02, 0.004, -0.001)),
]


def opencv_from_corner_intrinsics(K: np.ndarray) -> np.ndarray:
    return K - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]


def opencv_pixels_of_rays(lens: Distortion, xy: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Where cv2 says that rays (x, y, 1) land, in OpenCV's pixels."""
    K = opencv_from_corner_intrinsics(K)
    if lens.model == "opencv_fisheye":
        return cv2.fisheye.distortPoints(xy[:, None], K, np.array(lens.coeffs))[:, 0]
    rays = np.concatenate([xy, np.ones((len(xy), 1))], axis=1)
    return cv2.projectPoints(rays, np.zeros(3), np.zeros(3), K, np.array(lens.coeffs))[0][:, 0]


@pytest.mark.parametrize("lens", LENSES)
def test_distort_agrees_with_opencv_shifted_by_half_a_pixel(lens):
    xy = np.random.default_rng(0).uniform(-0.5, 0.5, (200, 2))
    x, y = distort(lens, xy[:, 0], xy[:, 1])
    ours = np.stack([K[0, 0] * x + K[0, 2], K[1, 1] * y + K[1, 2]], axis=1)
    np.testing.assert_allclose(opencv_from_corner_pixels(ours), opencv_pixels_of_rays(lens, xy, K), atol=1e-6)


def test_fisheye_keeps_the_ray_on_the_axis():
    x, y = distort(LENSES[3], np.array([0.0, 1e-12]), np.array([0.0, 0.0]))
    np.testing.assert_allclose([x, y], 0, atol=1e-11)


def test_pixel_converters_undo_each_other_and_put_the_first_centre_at_zero():
    np.testing.assert_array_equal(opencv_from_corner_pixels(np.array([0.5, 0.5])), 0)
    uv = np.random.default_rng(0).uniform(0, 100, (5, 2))
    np.testing.assert_allclose(corner_from_opencv_pixels(opencv_from_corner_pixels(uv)), uv)


@pytest.mark.parametrize("lens", LENSES)
def test_undistortion_map_agrees_with_opencv(lens):
    source_x, source_y, _ = undistortion_map(lens_camera(), lens)
    K_cv = opencv_from_corner_intrinsics(K)
    if lens.model == "opencv_fisheye":
        coeffs = np.array(lens.coeffs)
        maps = cv2.fisheye.initUndistortRectifyMap(K_cv, coeffs, np.eye(3), K_cv, (128, 96), cv2.CV_32FC1)
    else:
        maps = cv2.initUndistortRectifyMap(K_cv, np.array(lens.coeffs), None, K_cv, (128, 96), cv2.CV_32FC1)
    np.testing.assert_allclose(source_x, maps[0], atol=1e-3)
    np.testing.assert_allclose(source_y, maps[1], atol=1e-3)


def test_undistortion_map_is_made_once_for_cameras_with_the_same_numbers():
    first = undistortion_map(lens_camera(), LENSES[0])[0]
    moved = lens_camera(w2c=look_at((0, 0, -3)))
    assert undistortion_map(moved, Distortion("opencv", (0.15, 0.0, 0.0, 0.0)))[0] is first
    assert undistortion_map(lens_camera(), LENSES[1])[0] is not first
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0] = 1


@pytest.mark.parametrize("lens", LENSES)
def test_undistorted_photo_is_the_pinhole_photo(tmp_path, lens):
    cam = lens_camera(w2c=look_at((0.3, -0.2, -2.5), (0.1, 0.1, 0)))
    iio.imwrite(tmp_path / "a.png", plane_photo(cam, smooth_texture, lens))
    photo = read_photo(View("a", tmp_path / "a.png", cam, lens))
    expected = plane_photo(cam, smooth_texture)
    inner = photo.valid.copy()
    inner[:1] = inner[-1:] = inner[:, :1] = inner[:, -1:] = False  # bilinear against the replicated edge
    error = np.abs(photo.image.astype(int) - expected)[inner]
    assert photo.valid.mean() > 0.8
    # Bilinear interpolation and rounding cost 2 levels; half a pixel of shift costs 5 on average (next test).
    assert error.mean() < 1.0
    assert np.percentile(error, 99) <= 4


def test_a_shift_of_half_a_pixel_would_be_noticed(tmp_path):
    cam = lens_camera(w2c=look_at((0.3, -0.2, -2.5), (0.1, 0.1, 0)))
    shifted = Camera(np.array([[110.0, 0, 66.8], [0, 104.0, 48.3], [0, 0, 1]]), cam.w2c, 128, 96)
    difference = plane_photo(cam, smooth_texture).astype(int) - plane_photo(shifted, smooth_texture)
    assert np.abs(difference).mean() > 2.0


@pytest.mark.parametrize("lens", LENSES)
def test_valid_is_exactly_where_the_photo_shows_the_pixel(tmp_path, lens):
    cam = lens_camera()
    photo = read_photo(View("a", write_photo(tmp_path / "a.png", 128, 96), cam, lens))
    for v, u in np.random.default_rng(0).integers(0, (96, 128), (300, 2)):
        x, y = (u + 0.5 - K[0, 2]) / K[0, 0], (v + 0.5 - K[1, 2]) / K[1, 1]
        [[su, sv]] = corner_from_opencv_pixels(opencv_pixels_of_rays(lens, np.array([[x, y]]), K))
        assert photo.valid[v, u] == (0 <= su <= 128 and 0 <= sv <= 96)


def test_pixels_beyond_the_fold_of_the_polynomial_are_invalid(tmp_path):
    # r (1 - 0.9 r^2) turns round at r = 0.609; beyond, the corners would show the middle of the photo again.
    photo = read_photo(
        View("a", write_photo(tmp_path / "a.png", 128, 96), lens_camera(), Distortion("opencv", (-0.9, 0, 0, 0)))
    )
    assert photo.valid[48, 66]
    assert not photo.valid[0, 0]
    assert not photo.valid[95, 127]


def test_known_point_moves_where_the_lens_says(tmp_path):
    lens = LENSES[1]
    image = np.zeros((96, 128, 3), np.uint8)
    image[20, 30] = 255  # centre (30.5, 20.5)
    iio.imwrite(tmp_path / "a.png", image)
    out = read_photo(View("a", tmp_path / "a.png", lens_camera(), lens)).image[..., 0].astype(float)
    x, y = invert_distortion(lens, np.array([(30.5 - K[0, 2]) / K[0, 0]]), np.array([(20.5 - K[1, 2]) / K[1, 1]]))
    expected = K[0, 0] * x[0] + K[0, 2], K[1, 1] * y[0] + K[1, 2]
    v, u = np.mgrid[0.5:96, 0.5:128]
    centroid = (out * u).sum() / out.sum(), (out * v).sum() / out.sum()
    np.testing.assert_allclose(centroid, expected, atol=0.15)
