"""`transforms.json` of nerfstudio and instant-ngp."""

from __future__ import annotations

import json
import os
import struct

import numpy as np
import pytest
from scene_files import frame, look_at, opengl_c2w, write_photo, write_transforms

from lift3d_cli.errors import SceneError
from lift3d_cli.scene.load import load_scene
from lift3d_cli.scene.scene import Distortion

SHARED = {"fl_x": 20.0, "fl_y": 21.0, "cx": 6.5, "cy": 3.5, "w": 12, "h": 8}


def test_opengl_axes_become_opencv_axes(tmp_path):
    identity = {"file_path": "images/a.png", "transform_matrix": np.eye(4).tolist()}
    camera = load_scene(write_transforms(tmp_path, [identity], **SHARED)).views[0].camera
    # OpenGL looks along -Z with +Y up: a point ahead is at the principal point, one above it has a smaller v.
    uv, z = camera.project(np.array([[0, 0, -5.0], [1, 0, -5.0], [0, 1, -5.0]]))
    np.testing.assert_allclose(z, 5)
    np.testing.assert_allclose(uv, [[6.5, 3.5], [6.5 + 20 / 5, 3.5], [6.5, 3.5 - 21 / 5]])


def test_pose_and_intrinsics_arrive_unchanged_and_views_are_sorted_by_name(tmp_path):
    w2c = look_at((1, 2, -3))
    frames = [frame("images/b.png"), frame("./images/a.png", w2c)]
    scene = load_scene(write_transforms(tmp_path, frames, **SHARED))
    assert scene.format == "nerfstudio"
    assert [view.name for view in scene.views] == ["images/a.png", "images/b.png"]
    np.testing.assert_allclose(scene.views[0].camera.w2c, w2c, atol=1e-12)
    np.testing.assert_allclose(scene.views[0].camera.K, [[20, 0, 6.5], [0, 21, 3.5], [0, 0, 1]])
    assert (scene.views[0].camera.width, scene.views[0].camera.height) == (12, 8)
    assert scene.views[0].distortion is None
    assert scene.points is None
    assert scene.warnings == ()


def test_the_file_itself_can_be_given(tmp_path):
    write_transforms(tmp_path, [frame("a.png")], name="transforms_half.json", **SHARED)
    assert len(load_scene(tmp_path / "transforms_half.json").views) == 1


def test_intrinsics_of_a_frame_override_the_shared_ones(tmp_path):
    frames = [frame("a.png", fl_x=30.0, fl_y=31.0, k1=0.1), frame("b.png")]
    views = load_scene(write_transforms(tmp_path, frames, **SHARED)).views
    assert views[0].camera.K[0, 0] == 30
    assert views[0].distortion == Distortion("opencv", (0.1, 0.0, 0.0, 0.0))
    assert views[1].camera.K[0, 0] == 20
    assert views[1].distortion is None


def test_focal_length_from_camera_angle_and_size_from_the_photo(tmp_path):
    root = write_transforms(tmp_path, [frame("a.png")], camera_angle_x=2 * np.arctan(0.5))
    K = load_scene(root).views[0].camera.K
    np.testing.assert_allclose(K, [[12, 0, 6], [0, 12, 4], [0, 0, 1]])


def test_camera_angle_y_gives_its_own_focal_length(tmp_path):
    angles = {"camera_angle_x": 2 * np.arctan(0.5), "camera_angle_y": 2 * np.arctan(0.25)}
    K = load_scene(write_transforms(tmp_path, [frame("a.png")], w=12.0, h=8.0, **angles)).views[0].camera.K
    np.testing.assert_allclose([K[0, 0], K[1, 1]], [12, 16])


def test_intrinsics_scale_to_the_size_of_the_photo(tmp_path):
    root = write_transforms(tmp_path, [frame("a.png")], **{**SHARED, "w": 24.0, "h": 16.0})
    scene = load_scene(root)
    camera = scene.views[0].camera
    np.testing.assert_allclose(camera.K, [[10, 0, 3.25], [0, 10.5, 1.75], [0, 0, 1]])
    assert (camera.width, camera.height) == (12, 8)


def test_photo_of_another_shape_gives_a_warning(tmp_path):
    scene = load_scene(write_transforms(tmp_path, [frame("a.png")], **{**SHARED, "w": 12, "h": 12}))
    assert "1 photos have another shape than their camera; they are taken as stretched" in scene.warnings[0]


def test_absent_photos_do_not_cost_a_look_at_the_disk_each(tmp_path, monkeypatch):
    frames = [frame("images/a.png"), *(frame(f"images/none_{i}.png") for i in range(500))]
    write_transforms(tmp_path, frames, photos=False, camera_angle_x=0.6)
    write_photo(tmp_path / "images" / "a.png")
    looks = []
    monkeypatch.setattr("os.path.isfile", lambda path, real=os.path.isfile: looks.append(path) or real(path))
    monkeypatch.setattr("os.listdir", lambda path, real=os.listdir: looks.append(path) or real(path))
    assert len(load_scene(tmp_path).views) == 1
    assert len(looks) < 50


def test_absent_photos_give_one_warning_with_their_number(tmp_path):
    root = write_transforms(tmp_path, [frame(f"{n}.png", look_at((i, 0, -4))) for i, n in enumerate("abcd")], **SHARED)
    (root / "b.png").unlink()
    (root / "c.png").unlink()
    scene = load_scene(root)
    assert [view.name for view in scene.views] == ["a.png", "d.png"]
    assert len(scene.warnings) == 1
    assert "2 of 4 listed photos are absent" in scene.warnings[0]


def test_photo_listed_without_extension_or_with_backslashes_is_found(tmp_path):
    root = write_transforms(tmp_path, [frame("images/a"), frame("images\\b")], photos=False, **SHARED)
    write_photo(root / "images/a.JPG")
    write_photo(root / "images/b.png")
    assert [view.name for view in load_scene(root).views] == ["images/a.JPG", "images/b.png"]


def test_photo_outside_the_scene_has_a_name_without_steps_upwards(tmp_path):
    write_photo(tmp_path / "photos/a.png")
    root = write_transforms(tmp_path / "poses", [frame("../photos/a.png")], photos=False, **SHARED)
    assert [view.name for view in load_scene(root).views] == ["photos/a.png"]


def test_mask_path_is_kept(tmp_path):
    write_photo(tmp_path / "masks/a.png", channels=1)
    view = load_scene(write_transforms(tmp_path, [frame("a.png", mask_path="masks/a.png")], **SHARED)).views[0]
    assert view.mask_path == tmp_path / "masks/a.png"


def test_scaled_rotation_is_normalised_and_applied_transform_is_left_alone(tmp_path):
    w2c = look_at((1, 2, -3))
    scaled = np.array(opengl_c2w(w2c))
    scaled[:3, :3] *= 1.7
    entry = {"file_path": "a.png", "transform_matrix": scaled.tolist()}
    extra = {"applied_transform": [[0, 1, 0, 5], [1, 0, 0, 0], [0, 0, -1, 0]], "applied_scale": 3.0}
    camera = load_scene(write_transforms(tmp_path, [entry], **SHARED, **extra)).views[0].camera
    np.testing.assert_allclose(camera.w2c, w2c, atol=1e-12)


@pytest.mark.parametrize(
    ("fields", "distortion"),
    [
        ({"k1": 0.1, "k2": 0.2, "p1": 0.3, "p2": 0.4}, Distortion("opencv", (0.1, 0.2, 0.3, 0.4))),
        ({"camera_model": "OPENCV", "k1": 0.0, "p1": 0}, None),
        ({"camera_model": "PINHOLE"}, None),
        ({"camera_model": "SIMPLE_RADIAL", "k1": 0.1}, Distortion("opencv", (0.1, 0, 0, 0))),
        ({"camera_model": "OPENCV", "k1": 0.1, "k3": 0.3}, Distortion("opencv", (0.1, 0, 0, 0, 0.3, 0, 0, 0))),
        ({"camera_model": "OPENCV_FISHEYE", "k1": 0.1, "k4": 0.4}, Distortion("opencv_fisheye", (0.1, 0, 0, 0.4))),
        ({"camera_model": "OPENCV_FISHEYE"}, Distortion("opencv_fisheye", (0, 0, 0, 0))),
        ({"is_fisheye": True, "k1": 0.1}, Distortion("opencv_fisheye", (0.1, 0, 0, 0))),
    ],
)
def test_camera_models(tmp_path, fields, distortion):
    assert (
        load_scene(write_transforms(tmp_path, [frame("a.png")], **SHARED, **fields)).views[0].distortion == distortion
    )


XYZ = np.array([[1.0, 2, 3], [4, 5, 6]])
HEADER = (
    "ply\nformat {}\ncomment x\nelement vertex 2\nproperty {} x\nproperty {} y\nproperty {} z\nproperty uchar red\n"
)
FACES = "element face 0\nproperty list uchar int vertex_indices\nend_header\n"


@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian"])
@pytest.mark.parametrize("number", ["float", "double"])
def test_points_of_a_ply_file(tmp_path, kind, number):
    header = HEADER.format(f"{kind} 1.0", number, number, number) + FACES
    if kind == "ascii":
        body = b"1 2 3 255\n4 5 6 255\n"
    else:
        body = b"".join(struct.pack("<3fB" if number == "float" else "<3dB", *xyz, 255) for xyz in XYZ)
    (tmp_path / "points.ply").write_bytes(header.encode() + body)
    scene = load_scene(write_transforms(tmp_path, [frame("a.png")], ply_file_path="points.ply", **SHARED))
    np.testing.assert_array_equal(scene.points, XYZ)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not a PLY file"),
        (b"plx", "is not a PLY file"),
        (HEADER.format("binary_big_endian 1.0", *["float"] * 3).encode() + FACES.encode(), "binary_big_endian"),
        (
            HEADER.format("binary_little_endian 1.0", *["float"] * 3).encode() + FACES.encode() + b"xx",
            "2 points cannot be read",
        ),
        (HEADER.format("ascii 1.0", *["float"] * 3).encode() + FACES.encode() + b"1 2 3 4\n", "cannot be read"),
        (b"ply\nformat ascii 1.0\nelement vertex 0\nproperty float x\nend_header\n", "no vertices with x, y and z"),
        (b"ply\nformat ascii 1.0\nelement vertex many\nend_header\n", "header cannot be read"),
    ],
)
def test_broken_ply_file_is_not_used_and_that_is_said(tmp_path, data, message):
    (tmp_path / "points.ply").write_bytes(data)
    write_transforms(tmp_path, [frame("a.png")], ply_file_path="points.ply", **SHARED)
    scene = load_scene(tmp_path)
    assert scene.points is None
    assert message in scene.warnings[0]
    assert scene.warnings[0].endswith(": these points are not used")


def test_absent_ply_file_is_said(tmp_path):
    scene = load_scene(write_transforms(tmp_path, [frame("a.png")], ply_file_path="points.ply", **SHARED))
    assert scene.points is None
    assert "points.ply: these points, which" in scene.warnings[0]


def test_broken_json_is_refused_with_its_line(tmp_path):
    (tmp_path / "transforms.json").write_text('{\n "frames": [\n  {]\n}')
    with pytest.raises(SceneError, match=r"transforms\.json: is not valid JSON \(line 3"):
        load_scene(tmp_path)


def bad_frame(**changes) -> dict:
    entry = frame("a.png")
    entry.update(changes)
    return {key: value for key, value in entry.items() if value is not None}


SINGULAR = np.diag([1.0, 1.0, 0.0, 1.0]).tolist()
MIRRORED = np.diag([1.0, 1.0, -1.0, 1.0]).tolist()
SHEARED = [[1, 0.01, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("entry", "shared", "message"),
    [
        (bad_frame(transform_matrix=SINGULAR), {}, r"frame 0 \(a\.png\).*singular"),
        (bad_frame(transform_matrix=MIRRORED), {}, "mirrored"),
        (bad_frame(transform_matrix=SHEARED), {}, "sheared"),
        (bad_frame(transform_matrix=[[float("nan")] * 4] * 3), {}, r"a\.png.*NaN"),
        (bad_frame(transform_matrix=[[1, 2], [3, 4]]), {}, r"a\.png\): \"transform_matrix\" has 4 numbers"),
        (bad_frame(transform_matrix=[[1, 2, 3, 4], [5]]), {}, "has 5 numbers, needs a 4x4 matrix"),
        (bad_frame(transform_matrix=[[0.0] * 4] * 4), {}, "last row"),
        (bad_frame(transform_matrix=None), {}, 'lacks "transform_matrix"'),
        (bad_frame(file_path=None), {}, 'frame 0: has no "file_path"'),
        (bad_frame(file_path=3), {}, 'frame 0: has no "file_path"'),
        (bad_frame(mask_path="mask.png"), {}, r"mask mask\.png is not there"),
        (bad_frame(), {"fl_x": None, "fl_y": None}, "no focal length"),
        (bad_frame(), {"fl_x": "20"}, "\"fl_x\" is '20'"),
        (bad_frame(), {"k1": float("inf")}, '"k1" is inf'),
        (bad_frame(), {"fl_x": -5}, r"a\.png\): the focal length is -5"),
        (bad_frame(), {"w": 0}, "camera is for 0x8 pixels"),
        (
            bad_frame(),
            {"camera_model": "FISHEYE624"},
            r"camera model FISHEYE624 cannot be read\. hint: ",
        ),
    ],
)
def test_broken_frame_is_refused(tmp_path, entry, shared, message):
    write_photo(tmp_path / "a.png")
    write_transforms(tmp_path, [entry], photos=False, **{**SHARED, **shared})
    with pytest.raises(SceneError, match=message):
        load_scene(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "is a list, not a JSON object"),
        ({"frames": []}, '"frames" is empty'),
        ({"fl_x": 3}, 'has no list "frames"'),
        ({"frames": {"a": 1}}, 'has no list "frames"'),
        ({"frames": [1]}, 'has no list "frames"'),
        (
            {**SHARED, "frames": [frame("x/a.png"), frame("x/b.png")]},
            r"none of its 2 photos is there.*x/a\.png",
        ),
    ],
)
def test_broken_file_is_refused(tmp_path, content, message):
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    with pytest.raises(SceneError, match=message):
        load_scene(tmp_path)


def test_photo_listed_twice_is_used_once_and_refused_with_two_poses(tmp_path):
    frames = [frame("a.png"), frame("./a.png"), frame("b.png", look_at((0, 0, -4)))]
    scene = load_scene(write_transforms(tmp_path, frames, **SHARED))
    assert [view.name for view in scene.views] == ["a.png", "b.png"]
    assert len(scene.warnings) == 1
    assert "1 entries repeat a photo with the same pose" in scene.warnings[0]
    write_transforms(tmp_path, [frame("a.png"), frame("./a.png", look_at((0, 0, -4)))], **SHARED)
    with pytest.raises(SceneError, match=r"a\.png and \./a\.png are both .*a\.png, with different cameras"):
        load_scene(tmp_path)


def test_file_that_is_no_photo_is_refused(tmp_path):
    write_transforms(tmp_path, [frame("a.png")], **SHARED)
    (tmp_path / "a.png").write_bytes(b"not a photo")
    with pytest.raises(SceneError, match=r"a\.png: is no picture\. hint"):
        load_scene(tmp_path)
