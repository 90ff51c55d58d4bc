"""Depth that photos come with: where it is found, and how it gets into the photo's pixels."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from scene_files import frame, lens_camera, look_at, write_colmap, write_photo, write_transforms
from written_depth import SHARED, VALUES, scene_with, write_depth

from lift3d_cli.errors import SceneError
from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.scene.depth_files import count_depth_formats, with_depth_from
from lift3d_cli.scene.depth_formats import read_stored_depth
from lift3d_cli.scene.depth_maps import DEPTH_KINDS, DepthMap, Meaning, ray_lengths, read_depth_map, z_depth
from lift3d_cli.scene.distortion import undistortion_map
from lift3d_cli.scene.load import load_scene
from lift3d_cli.scene.scene import DepthFile, Distortion, View

# ---- where it is found ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "declared", "unit"),
    [(".png", None, 1e-3), (".npy", None, 1.0), (".png", 0.01, 0.01), (".npy", 0.5, 0.5)],
)
def test_depth_of_transforms_comes_with_its_unit(tmp_path, suffix, declared, unit):
    write_depth(tmp_path / f"depth/a{suffix}")
    more = {} if declared is None else {"depth_unit_scale_factor": declared}
    found = read_depth_map(scene_with(tmp_path, f"depth/a{suffix}", **more).views[0])
    assert found.unit == unit
    np.testing.assert_array_equal(found.values, VALUES)


def test_absent_depth_of_transforms_is_a_warning(tmp_path):
    scene = scene_with(tmp_path, "depth/a.png")
    assert scene.views[0].depth_file is None
    assert "1 depth files that it lists are absent" in scene.warnings[0]


@pytest.mark.parametrize(
    ("depth", "unit", "says"), [("a.jpg", 0.001, "is none of .npy"), ("a.png", 0, '"depth_unit_scale_factor" is 0')]
)
def test_impossible_depth_of_transforms_names_the_frame(tmp_path, depth, unit, says):
    with pytest.raises(SceneError, match=rf"frame 0 \(images/a.png\): .*{says}"):
        scene_with(tmp_path, depth, depth_unit_scale_factor=unit)


@pytest.mark.parametrize("photo", ["color/7.png", "rgb/7.png"])
def test_folder_depth_beside_the_photos_is_found_as_rgbd_captures_have_it(tmp_path, photo):
    write_depth(tmp_path / "depth/7.png")
    found = read_depth_map(scene_with(tmp_path, None, photo).views[0])
    assert found.unit == 1e-3
    np.testing.assert_array_equal(found.values, VALUES)


def test_polycam_s_keyframes_are_found(tmp_path):
    write_depth(tmp_path / "keyframes/depth/12345.png")
    assert read_depth_map(scene_with(tmp_path, None, "keyframes/images/12345.png").views[0]).unit == 1e-3


def test_tum_s_files_are_paired_by_time(tmp_path):
    for name in ("rgb.txt", "depth.txt"):
        tmp_path.joinpath(name).write_text("# timestamp filename\n")
    write_depth(tmp_path / "depth/10.015.png")
    write_depth(tmp_path / "depth/11.000.png")
    write_transforms(tmp_path, [frame("rgb/10.001.png"), frame("rgb/10.500.png")], **SHARED)
    views = load_scene(tmp_path).views
    assert views[0].depth_file == DepthFile(tmp_path / "depth/10.015.png", 1 / 5000, is_found=True)
    assert views[1].depth_file is None


def test_folder_named_depth_outside_the_scene_is_not_looked_at(tmp_path):
    write_depth(tmp_path / "depth/a.npy")
    assert scene_with(tmp_path / "scene", None, "a.png").views[0].depth_file is None


def test_folder_named_depth_with_pictures_is_passed_over_with_a_warning(tmp_path):
    write_photo(tmp_path / "depth/a.png", channels=1)
    scene = scene_with(tmp_path, None)
    assert scene.views[0].depth_file is None
    assert "depth/a.png: has 8 bits per pixel" in scene.warnings[-1]
    assert "hint" not in scene.warnings[-1]


def colmap_dense(root: Path, scale: float = 1.0) -> Path:
    """A COLMAP scene of a distorted camera with its dense folder; the maps are of `scale` times the photos' pixels."""
    identity = ((1, 0, 0, 0), (0, 0, 0))
    write_colmap(root, [("a.png", *identity, [])], "SIMPLE_RADIAL", [20.0, 6.0, 4.0, 0.02])
    dense = root / "dense"
    # The undistorted camera has a longer focal length and another centre: it shows a part of the photo.
    write_colmap(dense, [("a.png", *identity, [])], "PINHOLE", [40.0, 40.0, 6.0, 4.0], folder="sparse")
    shape = (int(8 * scale), int(12 * scale))
    write_depth(dense / "stereo/depth_maps/a.png.geometric.bin", np.full(shape, 5.0, np.float32))
    return root


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_colmap_s_dense_maps_are_brought_into_the_photo_s_camera(tmp_path, scale):
    view = load_scene(colmap_dense(tmp_path, scale)).views[0]
    assert view.depth_file.is_settled
    found = read_depth_map(view).values
    # Twice as many pixels a radian; the middle half of the photo is known.
    assert found.shape == (16 * scale, 24 * scale)
    height, width = found.shape
    known = found > 0
    assert known[height // 4 : -height // 4, width // 4 : -width // 4].all()
    assert known.sum() == known.size / 4


def test_a_dense_folder_is_a_scene_itself(tmp_path):
    view = load_scene(colmap_dense(tmp_path) / "dense").views[0]
    np.testing.assert_array_equal(read_depth_map(view).values, np.full((8, 12), 5.0))


@pytest.mark.parametrize(
    "name", ["images/left/a.png.npy", "left/a.png.npy", "a.png.npy", "images/left/a.npy", "left/a.npy", "a.npy"]
)
def test_folder_of_files_named_like_the_photos(tmp_path, name):
    scene = scene_with(tmp_path / "scene", None, "images/left/a.png")
    write_depth(tmp_path / "maps" / name)
    found = with_depth_from(scene, tmp_path / "maps")
    assert found.views[0].depth_file == DepthFile(tmp_path / "maps" / name)
    assert count_depth_formats(found) == {".npy": 1}


def test_folder_takes_the_place_of_what_the_scene_names_and_says_what_is_missing(tmp_path):
    write_depth(tmp_path / "depth/a.png")
    frames = [frame("images/a.png", depth_file_path="depth/a.png"), frame("images/b.png", look_at((0, 0, -4)))]
    write_transforms(tmp_path, frames, **SHARED)
    write_depth(tmp_path / "maps/b.npy")
    scene = with_depth_from(load_scene(tmp_path), tmp_path / "maps")
    assert [view.depth_file and view.depth_file.path.name for view in scene.views] == [None, "b.npy"]
    assert scene.warnings == (f"{tmp_path / 'maps'}: 1 of 2 photos have no depth file, for example images/a.png",)


def test_floats_go_before_pictures_of_the_same_photo(tmp_path):
    write_photo(tmp_path / "maps/a.png")
    write_depth(tmp_path / "maps/a.npy")
    scene = with_depth_from(scene_with(tmp_path / "scene", None), tmp_path / "maps")
    assert scene.views[0].depth_file.path.name == "a.npy"


@pytest.mark.parametrize(
    ("folder", "mesh", "says"),
    [
        ("none", None, "none: is no folder"),
        ("maps", None, "has no depth file named like a photo, such as images/a.png. hint: a.npy"),
        (None, "mesh.ply", "mesh.ply: is not there"),
        (None, "maps/other.npy", "other.npy: is neither PLY nor OBJ"),
    ],
)
def test_what_is_not_there_is_one_line(tmp_path, folder, mesh, says):
    write_depth(tmp_path / "maps/other.npy")
    scene = scene_with(tmp_path / "scene", None)
    with pytest.raises(SceneError, match=says):
        with_depth_from(scene, folder and tmp_path / folder, mesh and tmp_path / mesh)


# ---- into the photo's pixels ----------------------------------------------------------------------------------------


def test_map_of_another_size_keeps_its_own(tmp_path):
    write_depth(tmp_path / "depth/a.npy", VALUES[:4, :6])
    assert read_depth_map(scene_with(tmp_path, "depth/a.npy").views[0]).values.shape == (4, 6)


def test_map_of_another_shape_is_refused(tmp_path):
    write_depth(tmp_path / "depth/a.npy", VALUES[:, :8])
    view = scene_with(tmp_path, "depth/a.npy").views[0]
    with pytest.raises(SceneError, match=r"a.npy: is 8x8, which is another shape than the 12x8 of images/a.png. hint"):
        read_depth_map(view)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_map_stored_like_a_photo_that_is_turned_is_turned_with_it(tmp_path, orientation):
    from PIL import ImageOps

    stored = Image.fromarray(VALUES.astype(np.uint8))
    stored.getexif()[0x0112] = orientation
    turned = np.asarray(ImageOps.exif_transpose(stored))
    (tmp_path / "images").mkdir()
    stored.save(tmp_path / "images/a.jpg", exif=stored.getexif())
    write_depth(tmp_path / "depth/a.npy")
    frames = [frame("images/a.jpg", depth_file_path="depth/a.npy")]
    write_transforms(tmp_path, frames, photos=False, fl_x=20.0, w=8, h=12)
    np.testing.assert_array_equal(read_depth_map(load_scene(tmp_path).views[0]).values, turned)


def test_distorted_map_is_undistorted_without_mixing_depths(tmp_path):
    camera, distortion = lens_camera(), Distortion("opencv", (-0.2, 0.05, 0.002, -0.001))
    stored = np.where(np.arange(camera.width) < 70, 2.0, 9.0) * np.ones((camera.height, 1))
    path = write_depth(tmp_path / "a.npy", stored)
    found = read_depth_map(View("a", tmp_path / "a.png", camera, distortion, depth_file=DepthFile(path))).values
    source_x, _, has_source = undistortion_map(camera, distortion)
    assert set(np.unique(found)) <= {0.0, 2.0, 9.0}
    inner = has_source & (np.abs(source_x - 69.5) > 0.51)
    inner[:1] = inner[-1:] = False
    inner[:, :1] = inner[:, -1:] = False
    np.testing.assert_array_equal(found[inner], np.where(source_x < 69.5, 2.0, 9.0)[inner])


def test_kinds_of_depth_agree_on_a_plane():
    camera = Camera(np.array([[10.0, 0, 6], [0, 9.0, 3], [0, 0, 1]]), np.eye(4), 12, 8)
    z = np.full((8, 12), 4.0, np.float32)
    z[0, 0] = 0
    u, v = np.meshgrid(np.arange(12) + 0.5, np.arange(8) + 0.5)
    distance = z * np.sqrt(((u - 6) / 10) ** 2 + ((v - 3) / 9) ** 2 + 1)
    inverse = np.divide(1, z, out=np.zeros_like(z), where=z > 0)
    np.testing.assert_allclose(ray_lengths(camera, z.shape) * z, distance, rtol=1e-6)
    for kind, values in zip(DEPTH_KINDS, (z, distance, inverse), strict=True):
        scale = 1 / 3 if kind == "inverse depth" else 3
        stored = DepthMap((values / 0.5 / 3).astype(np.float32), 0.5)
        found = z_depth(stored, Meaning(kind, scale), camera)
        np.testing.assert_allclose(found, z, rtol=1e-6)
        assert found.dtype == np.float32


def test_depth_file_in_json_may_have_backslashes(tmp_path):
    write_depth(tmp_path / "depth/a.png")
    scene_with(tmp_path, "depth/a.png")
    path = tmp_path / "transforms.json"
    path.write_text(path.read_text().replace(json.dumps("depth/a.png"), json.dumps("depth\\a.png")))
    assert load_scene(tmp_path).views[0].depth_file is not None


def test_16_bit_png_of_opencv_is_read(tmp_path):
    assert cv2.imwrite(str(tmp_path / "a.png"), VALUES.astype(np.uint16))
    np.testing.assert_array_equal(read_stored_depth(tmp_path / "a.png")[0], VALUES)
