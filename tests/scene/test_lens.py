"""Keys of a `transforms.json` that change the picture: read right, or refused in one line."""

from __future__ import annotations

import numpy as np
import pytest
from scene_files import frame, lens_camera, look_at, plane_photo, smooth_texture, write_photo, write_transforms

from lift3d_cli.errors import SceneError
from lift3d_cli.scene.distortion import distort
from lift3d_cli.scene.lens import Intrinsics
from lift3d_cli.scene.load import load_scene
from lift3d_cli.scene.paths import read_poses
from lift3d_cli.scene.photos import read_photo
from lift3d_cli.scene.scene import Distortion

SHARED = {"fl_x": 20.0, "fl_y": 21.0, "cx": 6.5, "cy": 3.5, "w": 12, "h": 8}


def scene(tmp_path, in_frame=False, **keys):
    own = keys if in_frame else {}
    frames = [frame("a.png", **own), frame("b.png", look_at((1, 0, -4)), **own)]
    return load_scene(write_transforms(tmp_path, frames, **{**SHARED, **({} if in_frame else keys)}))


@pytest.mark.parametrize("in_frame", [False, True])
@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"latlong": True}, '"latlong" is True, which cannot be undone. hint: '),
        ({"equirectangular": True}, '"equirectangular" is True'),
        ({"orthographic": True}, '"orthographic" is True'),
        ({"ftheta_p0": 0.1}, '"ftheta_p0" is 0.1'),
        ({"rolling_shutter": [0, 0, 1, 0]}, '"rolling_shutter" is '),
        ({"crop": {"x": 3}}, '"crop" is '),
        ({"crop_left": 3}, '"crop_left" is 3'),
        ({"p3": 0.1}, '"p3" is 0.1'),
        ({"b1": 2.0}, '"b1" is 2.0'),
        ({"sx1": 0.1}, '"sx1" is 0.1'),
        ({"distortion_params": [0.1] * 12}, '"distortion_params" is '),
        ({"camera_model": "EQUIRECTANGULAR"}, "camera model EQUIRECTANGULAR cannot be read"),
        ({"camera_model": "ORTHOPHOTO"}, "camera model ORTHOPHOTO cannot be read"),
        ({"camera_model": "VR180_L"}, "camera model VR180_L cannot be read"),
        ({"camera_type": "equirectangular"}, "camera model EQUIRECTANGULAR cannot be read"),
        ({"k4": 0.25}, '"k4" is 0.25, which has three meanings. hint: "camera_model": "BROWN"'),
        ({"camera_model": "OPENCV", "k1": 0.1, "k4": 0.25}, "which has three meanings"),
        ({"camera_model": "PINHOLE", "k1": 0.1}, '"k1" is 0.1, but camera model PINHOLE has no such coefficient'),
        ({"camera_model": "OPENCV_FISHEYE", "p1": 0.1}, '"p1" is 0.1, but camera model OPENCV_FISHEYE has no such'),
        ({"camera_model": "OPENCV", "is_fisheye": True}, 'has "is_fisheye" and "camera_model" OPENCV'),
        ({"fl_x": None, "fl_y": None, "camera_angle_x": 58.2}, "hint: if these are degrees, write 1.01578"),
        ({"fl_x": None, "fl_y": None, "camera_angle_x": -1}, '"camera_angle_x" is -1, needs radians between 0 and pi'),
        ({"fl_x": None, "fl_y": None, "x_fov": 200}, '"x_fov" is 200, needs degrees between 0 and 180'),
        ({"transform_matrix_start": [1], "transform_matrix_end": [2]}, "the camera moves while the photo is taken"),
    ],
)
def test_refused(tmp_path, keys, message, in_frame):
    if in_frame and None in keys.values():
        pytest.skip("null in a frame takes the place of the file's value as well")
    if "transform_matrix_start" in keys and not in_frame:
        pytest.skip("is of a frame")
    with pytest.raises(SceneError) as caught:
        scene(tmp_path, in_frame, **keys)
    assert message in str(caught.value)
    assert "transforms.json: frame 0 (a.png)" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "keys",
    [
        {"latlong": False, "equirectangular": None, "crop": None, "crop_factor": [0, 0, 0, 0], "b1": 0, "p3": 0.0},
        {"rolling_shutter": [0, 0, 0], "k4": 0, "is_fisheye": False, "camera_model": "pinhole"},
        {"camera_model": "PERSPECTIVE", "camera_type": "perspective"},
    ],
)
def test_keys_that_change_nothing(tmp_path, keys):
    got = scene(tmp_path, **keys)
    assert got.views[0].distortion is None
    assert got.warnings == ()


@pytest.mark.parametrize(
    ("keys", "distortion"),
    [
        ({"camera_model": "BROWN", "k1": 0.1, "k4": 0.4}, Distortion("brown", (0.1, 0, 0, 0, 0, 0.4))),
        ({"camera_model": "BROWN", "k1": 0.1, "k3": 0.3}, Distortion("opencv", (0.1, 0, 0, 0, 0.3, 0, 0, 0))),
        ({"camera_model": "FULL_OPENCV", "k4": 0.4}, Distortion("opencv", (0, 0, 0, 0, 0, 0.4, 0, 0))),
        ({"k5": 0.5}, Distortion("opencv", (0, 0, 0, 0, 0, 0, 0.5, 0))),
        ({"camera_model": "fisheye", "k4": 0.4}, Distortion("opencv_fisheye", (0, 0, 0, 0.4))),
        ({"is_fisheye": True, "k4": 0.4}, Distortion("opencv_fisheye", (0, 0, 0, 0.4))),
    ],
)
def test_lens_that_a_key_tells(tmp_path, keys, distortion):
    assert scene(tmp_path, **keys).views[0].distortion == distortion


def test_brown_lens_is_the_polynomial_of_metashape():
    x, y = np.array([0.3]), np.array([-0.4])
    bent = distort(Distortion("brown", (0.12, -0.05, 0.0, 0.0, 0.02, 0.25)), x, y)
    factor = 1 + 0.12 * 0.25 - 0.05 * 0.25**2 + 0.02 * 0.25**3 + 0.25 * 0.25**4
    np.testing.assert_allclose(bent, [x * factor, y * factor], rtol=1e-12)


def test_brown_lens_is_undone(tmp_path):
    camera, lens = lens_camera(w2c=look_at((0.2, -0.1, -2.5))), Distortion("brown", (0.1, -0.05, 0, 0, 0.02, 0.2))
    path = write_photo(tmp_path / "a.png", 128, 96)
    import imageio.v3 as iio

    iio.imwrite(path, plane_photo(camera, smooth_texture, lens))
    K = camera.K
    keys = {"camera_model": "BROWN", "k1": 0.1, "k2": -0.05, "k3": 0.02, "k4": 0.2, "w": 128, "h": 96}
    keys |= {"fl_x": K[0, 0], "fl_y": K[1, 1], "cx": K[0, 2], "cy": K[1, 2]}
    write_transforms(tmp_path, [frame("a.png", camera.w2c)], photos=False, **keys)
    photo = read_photo(load_scene(tmp_path).views[0])
    error = np.abs(photo.image.astype(int) - plane_photo(camera, smooth_texture))
    assert error[photo.valid].mean() < 1


def test_instant_ngps_angles_are_degrees(tmp_path):
    keys = {"fl_x": None, "fl_y": None, "x_fov": np.degrees(2 * np.arctan(0.5)), "y_fov": 90.0}
    K = scene(tmp_path, **keys).views[0].camera.K
    np.testing.assert_allclose([K[0, 0], K[1, 1]], [12, 4])


def test_path_refuses_the_same_keys_and_needs_no_distortion(tmp_path):
    frames = [frame("a.png")]
    write_transforms(tmp_path, frames, photos=False, **SHARED, k4=0.25)
    assert len(read_poses(tmp_path / "transforms.json")) == 1
    write_transforms(tmp_path, frames, photos=False, **SHARED, latlong=True)
    with pytest.raises(SceneError, match='pose 0: "latlong" is True'):
        read_poses(tmp_path / "transforms.json")


def test_keys_that_are_not_understood_are_kept_for_info(tmp_path):
    got = scene(tmp_path, aabb_scale=16, applied_scale=0.5, applied_transform=[[1, 0, 0, 0]])
    assert got.unread_keys == ("aabb_scale",)
    assert scene(tmp_path, in_frame=True, sharpness=3.0).unread_keys == ("sharpness",)


@pytest.mark.parametrize("key", ["mask_color", "white_transparent", "black_transparent"])
def test_colours_that_instant_ngp_leaves_out_are_said(tmp_path, key):
    assert f'"{key}" is not followed' in scene(tmp_path, **{key: True}).warnings[0]


@pytest.mark.parametrize(
    ("cx", "cy", "told"),
    [(0.5, 0.5, "parts of the size"), (640, 480, "photos of 1280x960, write that size"), (630, 100, "another photo")],
)
def test_principal_point_far_from_the_middle_is_doubted(cx, cy, told):
    assert told in (Intrinsics(500, 500, cx, cy, 640, 480).doubt() or "")
    assert Intrinsics(500, 500, 380, 200, 640, 480).doubt() is None
