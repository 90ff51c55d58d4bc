"""Of several files of poses in a folder, the one that fits the photos best and most is read."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from scene_files import frame, llff_row, look_at, opengl_c2w, quaternion, write_colmap, write_photo, write_transforms

from lift3d_cli.errors import SceneError
from lift3d_cli.scene.load import load_scene

TABLETOP = Path(__file__).parents[2] / "examples" / "tabletop"
W2C = [look_at((x, -0.2, -4.0)) for x in (-0.6, 0.1, 0.5)]
NAMES = ["a.png", "b.png", "c.png"]

PLACES = [
    "sparse/0", "sparse/1", "sparse", "colmap/sparse/2", "colmap/text", "colmap", "dense/0/sparse", "dense/sparse",
    "distorted/sparse/0", "undistorted/sparse", ".",
]  # fmt: skip


def colmap_images(w2c=W2C, names=NAMES) -> list:
    return [(n, quaternion(m[:3, :3]), tuple(m[:3, 3]), []) for n, m in zip(names, w2c, strict=False)]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("folder", PLACES)
def test_a_model_is_found_wherever_people_have_it(folder, binary, tmp_path):
    write_colmap(tmp_path, colmap_images(), folder=folder, binary=binary)
    scene = load_scene(tmp_path)
    assert (scene.format, len(scene.views), scene.warnings) == ("colmap", 3, ())
    np.testing.assert_allclose(scene.views[0].camera.w2c, W2C[0], atol=1e-9)


def test_the_model_with_most_photos_is_read_and_the_other_is_named(tmp_path):
    write_colmap(tmp_path, colmap_images()[:1], folder="sparse/0")
    write_colmap(tmp_path, colmap_images(), folder="sparse/10")
    scene = load_scene(tmp_path)
    assert len(scene.views) == 3
    (warning,) = scene.warnings
    assert "sparse/10 (3 photos) is read" in warning
    assert "not sparse/0 (1 photos)" in warning


def test_files_that_say_the_same_in_two_worlds_need_no_word(tmp_path):
    frames = [frame(f"images/{name}", w2c) for name, w2c in zip(NAMES, W2C, strict=True)]
    write_transforms(tmp_path, frames, fl_x=20.0, fl_y=21.0, cx=6.0, cy=4.0, w=12, h=8)
    moved = []
    for w2c in W2C:
        moved.append(w2c.copy())
        moved[-1][:3, 3] = 7 * (w2c[:3, 3] - w2c[:3, :3] @ [1.0, 2.0, 3.0])
    write_colmap(tmp_path, colmap_images(moved), photos=None, folder="colmap/sparse/0")
    scene = load_scene(tmp_path)
    assert (scene.format, scene.warnings) == ("nerfstudio", ())


def test_a_broken_file_does_not_hide_a_good_one(tmp_path):
    write_colmap(tmp_path, colmap_images())
    (tmp_path / "transforms.json").write_text("{")
    scene = load_scene(tmp_path)
    assert scene.format == "colmap"
    assert "not transforms.json: is cut off" in scene.warnings[0]


def test_renamed_small_photos_beside_a_model_of_the_originals_are_read_as_llff(tmp_path):
    write_colmap(tmp_path, colmap_images(), photos=None)
    for i in range(3):
        write_photo(tmp_path / f"images_4/image{i:03d}.png")
    np.save(tmp_path / "poses_bounds.npy", np.array([llff_row(w2c) for w2c in W2C]))
    scene = load_scene(tmp_path)
    assert (scene.format, len(scene.views)) == ("llff", 3)
    assert "sparse/0" in scene.warnings[0]


def test_if_all_are_broken_the_first_says_why(tmp_path):
    (tmp_path / "transforms.json").write_text("{")
    (tmp_path / "poses_bounds.npy").write_text("")
    with pytest.raises(SceneError, match=r"transforms\.json: is cut off"):
        load_scene(tmp_path)


def test_of_two_models_with_all_photos_the_one_that_fits_them_is_read(tmp_path):
    """The first has its poses in the order of other photos."""
    data = json.loads((TABLETOP / "transforms.json").read_text())
    (tmp_path / "images").mkdir()
    frames = data["frames"][::3]
    for each in frames:
        small = cv2.resize(cv2.imread(str(TABLETOP / each["file_path"])), (320, 240), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(tmp_path / each["file_path"]), small)
    names = [Path(each["file_path"]).name for each in frames]
    c2w = [np.array(each["transform_matrix"]) @ np.diag([1, -1, -1, 1]) for each in frames]
    right = [np.linalg.inv(m) for m in c2w]
    lens = {"params": [304.0, 304.0, 160.0, 120.0], "calibrated": (320, 240), "photos": None}
    write_colmap(tmp_path, colmap_images([*right[2:], *right[:2]], names), folder="sparse/0", **lens)
    write_colmap(tmp_path, colmap_images(right, names), folder="sparse/1", **lens)
    scene = load_scene(tmp_path)
    np.testing.assert_allclose(opengl_c2w(scene.views[0].camera.w2c), frames[0]["transform_matrix"], atol=1e-9)
    assert "sparse/1 (5 photos, 100% of the matches fit) is read" in scene.warnings[0]
