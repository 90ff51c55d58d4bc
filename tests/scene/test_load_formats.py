"""Blender, COLMAP and LLFF scenes, and finding out which one it is."""

from __future__ import annotations

import struct
import subprocess
import sys

import numpy as np
import pytest
from scene_files import (
    MODEL_NUMBERS,
    colmap_params,
    frame,
    llff_row,
    look_at,
    write_colmap,
    write_llff,
    write_photo,
    write_transforms,
)

from lift3d_cli.errors import SceneError
from lift3d_cli.scene.colmap_files import read_images
from lift3d_cli.scene.distortion import CAMERA_MODELS, UNREAD_MODELS
from lift3d_cli.scene.load import load_scene
from lift3d_cli.scene.scene import Distortion

IDENTITY = (1.0, 0.0, 0.0, 0.0)
TURN_Y = (np.cos(0.3), 0.0, np.sin(0.3), 0.0)  # 0.6 radians about +Y
TWO = [
    ("b.png", IDENTITY, (1.0, 2.0, 3.0), [(1.5, 2.5, 1), (3.0, 4.0, -1)]),
    ("sub/a.png", TURN_Y, (0.0, 0.0, 5.0), []),
]


# ---- detection ------------------------------------------------------------------------------------------------------


def test_no_scene_says_what_was_looked_for(tmp_path):
    with pytest.raises(SceneError, match=r"is empty. hint: looked for transforms\.json.*sparse/0.*poses_bounds\.npy"):
        load_scene(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(SceneError, match="is not a scene"):
        load_scene(tmp_path)
    with pytest.raises(SceneError, match="is not a scene"):
        load_scene(tmp_path / "notes.txt")
    with pytest.raises(SceneError, match="does not exist"):
        load_scene(tmp_path / "nothing")


def test_transforms_win_over_colmap_and_colmap_over_llff(tmp_path):
    write_llff(tmp_path, [llff_row(np.eye(4))] * 2)
    assert load_scene(tmp_path).format == "llff"
    write_colmap(tmp_path, TWO)
    assert load_scene(tmp_path).format == "colmap"
    write_transforms(tmp_path, [frame("images/b.png"), frame("images/sub/a.png")], fl_x=20.0)
    assert load_scene(tmp_path).format == "nerfstudio"


def test_loading_a_scene_imports_neither_torch_nor_cv2(tmp_path):
    write_colmap(tmp_path, TWO)
    code = (
        "import sys; from lift3d_cli.scene.load import load_scene; import lift3d_cli.scene.bounds; "
        f"load_scene({str(tmp_path)!r}); sys.exit('torch' in sys.modules or 'cv2' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- Blender --------------------------------------------------------------------------------------------------------


def test_blender_splits_are_joined_and_absent_photos_counted(tmp_path):
    write_transforms(
        tmp_path, [frame("./train/r_0"), frame("./train/r_1")], "transforms_train.json", camera_angle_x=0.7
    )
    write_transforms(tmp_path, [frame("./test/r_0", look_at((0, 0, -4)))], "transforms_test.json", camera_angle_x=0.7)
    write_transforms(tmp_path, [frame("./val/r_0")], "transforms_val.json", photos=False, camera_angle_x=0.7)
    scene = load_scene(tmp_path)
    assert scene.format == "blender"
    assert [view.name for view in scene.views] == ["test/r_0.png", "train/r_0.png", "train/r_1.png"]
    assert "1 of 4 listed photos are absent" in scene.warnings[0]
    focal = 6 / np.tan(0.35)
    np.testing.assert_allclose(scene.views[0].camera.K, [[focal, 0, 6], [0, focal, 4], [0, 0, 1]])
    np.testing.assert_allclose(scene.views[0].camera.position, [0, 0, -4], atol=1e-12)


def test_blender_file_without_angle_is_refused(tmp_path):
    write_transforms(tmp_path, [frame("./train/r_0")], "transforms_train.json")
    with pytest.raises(SceneError, match=r"transforms_train\.json: frame 0 .*no focal length.*camera_angle_x"):
        load_scene(tmp_path)


# ---- COLMAP ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("folder", ["sparse/0", "sparse", "colmap/sparse/0"])
def test_colmap_binary_and_text(tmp_path, binary, folder):
    points = [(1, (1.0, 2.0, 9.0), 0.5, 2), (5, (3.0, 4.0, 8.0), 0.7, 4)]
    write_colmap(tmp_path, TWO, points=points, binary=binary, folder=folder)
    scene = load_scene(tmp_path)
    assert scene.format == "colmap"
    assert [view.name for view in scene.views] == ["images/b.png", "images/sub/a.png"]
    first, second = scene.views
    np.testing.assert_allclose(first.camera.w2c[:, 3], [1, 2, 3, 1])
    np.testing.assert_allclose(first.camera.K, [[20, 0, 6], [0, 21, 4], [0, 0, 1]])
    # Turning the world by +0.6 about Y takes +Z towards +X.
    np.testing.assert_allclose(second.camera.w2c[:3, 2], [np.sin(0.6), 0, np.cos(0.6)], atol=1e-12)
    assert sorted(scene.points.tolist()) == [[1, 2, 9], [3, 4, 8]]
    image = read_images(tmp_path / folder)[0]
    np.testing.assert_array_equal(image.uv, [[1.5, 2.5], [3, 4]])
    np.testing.assert_array_equal(image.point_ids, [1, -1])


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(
    ("model", "values", "distortion"),
    [
        ("SIMPLE_PINHOLE", {}, None),
        ("PINHOLE", {}, None),
        ("SIMPLE_RADIAL", {"k1": 0.1}, Distortion("opencv", (0.1, 0, 0, 0))),
        ("RADIAL", {"k1": 0.1, "k2": 0.2}, Distortion("opencv", (0.1, 0.2, 0, 0))),
        ("OPENCV", {"k1": 0.1, "k2": 0.2, "p1": 0.3, "p2": 0.4}, Distortion("opencv", (0.1, 0.2, 0.3, 0.4))),
        ("OPENCV_FISHEYE", {"k1": 0.1, "k4": 0.4}, Distortion("opencv_fisheye", (0.1, 0, 0, 0.4))),
        ("FULL_OPENCV", {"k2": 0.2, "p1": 0.3, "k3": 3, "k6": 6}, Distortion("opencv", (0, 0.2, 0.3, 0, 3, 0, 0, 6))),
        ("SIMPLE_RADIAL_FISHEYE", {"k1": 0.1}, Distortion("opencv_fisheye", (0.1, 0, 0, 0))),
        ("RADIAL_FISHEYE", {"k1": 0.1, "k2": 0.2}, Distortion("opencv_fisheye", (0.1, 0.2, 0, 0))),
        ("SIMPLE_FISHEYE", {}, Distortion("opencv_fisheye", (0, 0, 0, 0))),
        ("FISHEYE", {}, Distortion("opencv_fisheye", (0, 0, 0, 0))),
    ],
)
def test_colmap_camera_models(tmp_path, model, values, distortion, binary):
    write_colmap(tmp_path, TWO[:1], model, colmap_params(model, **values), binary=binary)
    view = load_scene(tmp_path).views[0]
    assert view.distortion == distortion
    assert view.camera.K[0, 0] == 20
    assert view.camera.K[1, 1] == (21 if "f" not in CAMERA_MODELS[model] else 20)


def test_colmap_intrinsics_scale_to_reduced_photos(tmp_path):
    write_colmap(tmp_path, TWO[:1], photos="images_2", size=(6, 4))
    view = load_scene(tmp_path).views[0]
    assert view.name == "images_2/b.png"
    np.testing.assert_allclose(view.camera.K, [[10, 0, 3], [0, 10.5, 2], [0, 0, 1]])


def test_colmap_points_of_short_tracks_or_large_error_are_left_out_of_a_dense_model(tmp_path):
    good = [(i, (float(i), 0.0, 5.0), 0.5, 3) for i in range(600)]
    bad = [(1000, (0.0, 0.0, 1.0), 0.5, 2), (1001, (0.0, 0.0, 2.0), 8.0, 5)]
    write_colmap(tmp_path, TWO, points=good + bad)
    assert len(load_scene(tmp_path).points) == 600
    write_colmap(tmp_path, TWO, points=good[:10] + bad)
    assert len(load_scene(tmp_path).points) == 12


def test_colmap_without_points_and_with_an_absent_photo(tmp_path):
    write_colmap(tmp_path, TWO)
    (tmp_path / "sparse/0/points3D.bin").unlink()
    (tmp_path / "images/b.png").unlink()
    scene = load_scene(tmp_path)
    assert scene.points is None
    assert "1 of 2 listed photos are absent" in scene.warnings[0]


@pytest.mark.parametrize("file", ["cameras", "images"])
def test_cut_off_colmap_file_is_refused_at_every_length(tmp_path, file):
    write_colmap(tmp_path, TWO, points=[(1, (1.0, 2.0, 9.0), 0.5, 2)])
    path = tmp_path / f"sparse/0/{file}.bin"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(SceneError, match=rf"{file}\.bin: ends after {length} bytes"):
            load_scene(tmp_path)


@pytest.mark.parametrize("length", [0, 50, 100, 131])
def test_cut_off_points_of_colmap_are_not_used_and_that_is_said(tmp_path, length):
    write_colmap(tmp_path, TWO, points=[(i, (1.0, 2.0, 9.0), 0.5, 2) for i in range(2)])
    path = tmp_path / "sparse/0/points3D.bin"
    path.write_bytes(path.read_bytes()[:length])
    scene = load_scene(tmp_path)
    assert scene.points is None
    assert scene.warnings == (f"{path}: ends after {length} bytes, before its last entry: these points are not used",)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(("model", "told"), [("FOV", "FOV"), ("THIN_PRISM_FISHEYE", "THIN_PRISM"), ("NEW", "")])
def test_unknown_colmap_camera_model_is_refused(tmp_path, model, told, binary):
    write_colmap(tmp_path, TWO, model, [20.0] * UNREAD_MODELS.get(model, 5), binary=binary)
    told = told or ("number 99" if binary else "NEW")
    with pytest.raises(SceneError, match=rf"model,? {told}.*hint: .*image_undistorter"):
        load_scene(tmp_path)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("model", UNREAD_MODELS)
def test_colmap_camera_that_no_photo_has_may_be_of_any_model(tmp_path, model, binary):
    write_colmap(tmp_path, TWO, binary=binary)
    params = [20.0] * UNREAD_MODELS[model]
    if binary:
        path = tmp_path / "sparse/0/cameras.bin"
        extra = struct.pack(f"<iiQQ{len(params)}d", 3, MODEL_NUMBERS[model], 12, 8, *params)
        path.write_bytes(struct.pack("<Q", 2) + extra + path.read_bytes()[8:])
    else:
        path = tmp_path / "sparse/0/cameras.txt"
        path.write_text(path.read_text() + f"3 {model} 12 8 {' '.join(map(str, params))}\n")
    scene = load_scene(tmp_path)
    assert len(scene.views) == 2
    assert scene.warnings == ()


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("cameras.txt", "7 PINHOLE 12 8 20 21 6\n", r"cameras\.txt: line 1 .*PINHOLE has 4 parameters, found 3"),
        ("cameras.txt", "7 PINHOLE 12 x 20 21 6 4\n", r"cameras\.txt: line 1"),
        ("cameras.txt", "8 PINHOLE 12 8 20 21 6 4\n", r"b\.png has camera 7, which is not in cameras"),
        ("cameras.txt", "7 PINHOLE 0 8 20 21 6 4\n", "camera is for 0x8 pixels"),
        ("cameras.txt", "7 PINHOLE 12 8 nan 21 6 4\n", r"view b\.png: the lens has a NaN"),
        ("images.txt", "1 0 0 0 0 1 2 3 7 b.png\n\n", r"b\.png: the pose has a NaN or a zero quaternion"),
        ("images.txt", "1 1 0 0 0 nan 2 3 7 b.png\n\n", r"b\.png: the pose has a NaN"),
        ("images.txt", "1 1 0 0 0 1 2\n\n", r"images\.txt: line 1"),
        ("images.txt", "1 1 0 0 0 1 2 3 7 b.png\n1 2\n", r"images\.txt: line 2"),
        ("images.txt", "", "lists no photos"),
        ("images.txt", "1 1 0 0 0 1 2 3 7 b.png\n\n2 1 0 0 0 9 2 3 7 b.png\n\n", r"b\.png is listed twice, with diff"),
    ],
)
def test_broken_colmap_text_is_refused(tmp_path, file, text, message):
    write_colmap(tmp_path, TWO, binary=False)
    (tmp_path / "sparse/0" / file).write_text(text)
    with pytest.raises(SceneError, match=message):
        load_scene(tmp_path)


def test_colmap_without_photos_or_cameras_is_refused(tmp_path):
    write_colmap(tmp_path, TWO, photos="")
    with pytest.raises(SceneError, match=r"none of its 2 photos is there, .* hint: looked in .* without a photo"):
        load_scene(tmp_path)
    write_photo(tmp_path / "images/other.png")
    with pytest.raises(
        SceneError, match=r"for example b\.png\. hint: looked in .*images \(1 photos, such as other\.png"
    ):
        load_scene(tmp_path)
    (tmp_path / "sparse/0/cameras.bin").unlink()
    with pytest.raises(SceneError, match=r"has no cameras\.bin or cameras\.txt"):
        load_scene(tmp_path)


# ---- LLFF -----------------------------------------------------------------------------------------------------------


def test_llff_axes_intrinsics_and_bounds(tmp_path):
    w2c = look_at((1, 2, -3))
    scene = load_scene(
        write_llff(tmp_path, [llff_row(w2c, 16, 24, 40.0, 2.0, 30.0), llff_row(np.eye(4), 16, 24, 40.0)])
    )
    assert scene.format == "llff"
    assert [view.name for view in scene.views] == ["images/000.png", "images/001.png"]
    np.testing.assert_allclose(scene.views[0].camera.w2c, w2c, atol=1e-12)
    np.testing.assert_allclose(scene.views[0].camera.K, [[20, 0, 6], [0, 20, 4], [0, 0, 1]])
    assert scene.views[0].depth_range == (2.0, 30.0)


def test_llff_takes_the_largest_folder_with_as_many_photos_as_poses(tmp_path):
    rows = [llff_row(np.eye(4), 16, 24, 40.0)] * 2
    write_llff(tmp_path, rows, photos=3)
    write_llff(tmp_path, rows, photos=2, folder="images_8", size=(3, 2))
    write_llff(tmp_path, rows, photos=2, folder="images_4", size=(6, 4))
    assert load_scene(tmp_path).views[0].name == "images_4/000.png"


@pytest.mark.parametrize(
    ("rows", "photos", "message"),
    [
        ([llff_row(np.eye(4))] * 3, 2, r"has 3 poses, but images/ has 2"),
        ([llff_row(np.eye(4))] * 3, 0, r"has 3 poses, but there are no photos"),
        (np.zeros((2, 15)), 2, r"has shape \(2, 15\), needs \(photos, 17\)"),
        (np.zeros((0, 17)), 2, r"has shape \(0, 17\)"),
        (np.full((2, 17), np.nan), 2, r"view 000\.png: the pose has a NaN"),
        ([llff_row(np.diag([1.0, 1, 1, 1])) * ([0] * 3 + [1] * 14)] * 2, 2, r"view 000\.png: .*singular"),
        (np.full((2, 17), "x"), 2, "does not hold numbers"),
        (np.array([{}], dtype=object), 2, "cannot be read as a numpy array"),
    ],
)
def test_broken_llff_is_refused(tmp_path, rows, photos, message):
    write_llff(tmp_path, rows, photos)
    with pytest.raises(SceneError, match=message):
        load_scene(tmp_path)


def test_cut_off_llff_file_is_refused(tmp_path):
    write_llff(tmp_path, [llff_row(np.eye(4))] * 2)
    path = tmp_path / "poses_bounds.npy"
    whole = path.read_bytes()
    for broken in [whole[:length] for length in (0, 5, 60, len(whole) - 1)] + [whole.replace(b"(", b"[")]:
        path.write_bytes(broken)
        with pytest.raises(SceneError, match=r"poses_bounds\.npy: cannot be read"):
            load_scene(tmp_path)
