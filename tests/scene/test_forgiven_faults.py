"""The same faults are forgiven by every reader: what people's programs and disks do to names, poses and text files."""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scene_files import frame, llff_row, look_at, quaternion, write_colmap, write_llff, write_photo, write_transforms

from lift3d_cli.errors import SceneError
from lift3d_cli.scene.load import load_scene
from lift3d_cli.scene.paths import read_poses
from lift3d_cli.scene.photo_files import PhotoFinder, free_name, list_photos, natural_key

POSES = [look_at((0.3 * i, 0.1, -4.0)) for i in range(12)]
NAMES = [f"Blick é {i}.png" for i in range(12)]  # not padded, with a space and an accent
SHARED = {"fl_x": 20.0, "fl_y": 20.0, "cx": 6.0, "cy": 4.0, "w": 12, "h": 8}


Names = Callable[[str], str]


def nerfstudio(root: Path, listed: Names) -> None:
    frames = [frame(listed(f"images/{n}"), w2c) for n, w2c in zip(NAMES, POSES, strict=True)]
    write_transforms(root, frames, photos=False, **SHARED)


def blender(root: Path, listed: Names) -> None:
    frames = [frame(listed(f"./images/{n}"), w2c) for n, w2c in zip(NAMES, POSES, strict=True)]
    angle = 2 * np.arctan(6 / 20)
    write_transforms(root, frames[:6], "transforms_train.json", photos=False, camera_angle_x=angle)
    write_transforms(root, frames[6:], "transforms_test.json", photos=False, camera_angle_x=angle)


def colmap(root: Path, listed: Names, binary: bool = True) -> None:
    images = [(listed(n), quaternion(w[:3, :3]), tuple(w[:3, 3]), []) for n, w in zip(NAMES, POSES, strict=True)]
    write_colmap(root, images, params=[20.0, 20.0, 6.0, 4.0], photos="", binary=binary)


def colmap_text(root: Path, listed: Names) -> None:
    colmap(root, listed, binary=False)


def llff(root: Path, listed: Names) -> None:
    write_llff(root, [llff_row(POSES[NAMES.index(n)]) for n in sorted(NAMES)], photos=0)


READERS = [nerfstudio, blender, colmap, colmap_text, llff]


def photos(root: Path, folder="images", name: Names = str, size=(12, 8)) -> None:
    for n in NAMES:
        write_photo(root / folder / "made.png", *size).rename(root / folder / name(n))


def check(root: Path, size=(12, 8)) -> None:
    """All photos are there in the order that people count in, with their own poses and the lens at their size."""
    scene = load_scene(root)
    assert not [w for w in scene.warnings if "depth bounds" not in w]
    assert len(scene.views) == len(NAMES)
    factor = size[0] / 12
    for view, w2c in zip(scene.views, POSES, strict=True):
        np.testing.assert_allclose(view.camera.w2c, w2c, atol=1e-9)
        assert (view.camera.width, view.camera.height) == size
        np.testing.assert_allclose(view.camera.K, np.diag([factor, factor, 1]) @ [[20, 0, 6], [0, 20, 4], [0, 0, 1]])


def same(name: str) -> str:
    return name


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("on_disk", "listed"),
    {
        "as listed": (same, same),
        "ending in capitals": (lambda n: n.replace(".png", ".PNG"), same),
        "all in capitals": (str.upper, same),
        "listed in capitals": (same, str.upper),
        "no ending": (same, lambda n: n.removesuffix(".png")),
        "another ending": (same, lambda n: n.replace(".png", ".jpg")),
        "of photos in HEIC": (same, lambda n: n.replace(".png", ".HEIC")),
        "backslashes": (same, lambda n: n.replace("/", "\\")),
        "dot before": (same, lambda n: "./" + n.removeprefix("./")),
        "folder before": (same, lambda n: "images/" + n.removeprefix("./").removeprefix("images/")),
        "folders of another computer": (same, lambda n: "/srv/ann/capture/" + n.removeprefix("./")),
        "a Windows disk": (same, lambda n: "C:\\Users\\ann\\" + n.removeprefix("./").replace("/", "\\")),
        "decomposed on the disk": (lambda n: unicodedata.normalize("NFD", n), same),
        "decomposed in the file": (same, lambda n: unicodedata.normalize("NFD", n)),
    }.values(),
)
def test_names(tmp_path, reader, on_disk, listed):
    reader(tmp_path, listed)
    photos(tmp_path, name=on_disk)
    check(tmp_path)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("folder", ["images_2", "images_4", "IMAGES"])
def test_folder_of_smaller_photos_stands_for_images(tmp_path, reader, folder):
    reader(tmp_path, same)
    if folder != "IMAGES":
        (tmp_path / "images").mkdir()
        (tmp_path / "images/.DS_Store").write_text("x")
    # A Blender file gives an angle, which is of any size; the others say the size that their lens is for.
    photos(tmp_path, folder, size=(6, 4))
    check(tmp_path, (6, 4))


@pytest.mark.parametrize("factor", [2, 4])
def test_focal_length_without_a_size_is_that_of_the_photo_that_is_listed(tmp_path, factor):
    lens = {"fl_x": 20.0 * factor, "cx": 6.0 * factor, "cy": 4.0 * factor}
    write_transforms(tmp_path, [frame("images/a.png"), frame("images/b.png", POSES[1])], photos=False, **lens)
    for name in "ab":
        write_photo(tmp_path / f"images_{factor}/{name}.png")
    K = load_scene(tmp_path).views[0].camera.K
    np.testing.assert_allclose(K, [[20, 0, 6], [0, 20, 4], [0, 0, 1]])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("reader", [nerfstudio, blender, colmap_text])
def test_byte_order_mark(tmp_path, reader, encoding):
    if reader is colmap_text and encoding == "utf-16":
        pytest.skip("COLMAP itself reads bytes")
    reader(tmp_path, same)
    photos(tmp_path)
    for path in [*tmp_path.glob("*.json"), *tmp_path.rglob("*.txt")]:
        path.write_text(path.read_text("utf-8"), encoding)
    check(tmp_path)
    for path in tmp_path.glob("transforms.json"):
        assert len(read_poses(path)) == len(NAMES)


def scaled(matrix) -> list:
    matrix = np.array(matrix)
    matrix[:3, :3] *= 0.37
    return matrix.tolist()


@pytest.mark.parametrize(
    "shape", [same, lambda m: m[:3], lambda m: [x for row in m for x in row]], ids=["4x4", "3x4", "flat"]
)
def test_scale_in_rotations_and_shapes_of_matrices(tmp_path, shape):
    frames = [frame(f"images/{n}", w2c) for n, w2c in zip(NAMES, POSES, strict=True)]
    for entry in frames:
        entry["transform_matrix"] = shape(scaled(entry["transform_matrix"]))
    write_transforms(tmp_path, frames, photos=False, **SHARED)
    photos(tmp_path)
    check(tmp_path)
    for camera, w2c in zip(read_poses(tmp_path / "transforms.json").cameras, POSES, strict=True):
        np.testing.assert_allclose(camera.w2c, w2c, atol=1e-9)


def test_scale_in_rotations_of_llff(tmp_path):
    rows = [llff_row(POSES[NAMES.index(n)]) for n in sorted(NAMES)]
    for row in rows:
        row[:15].reshape(3, 5)[:, :3] *= 2.5
    write_llff(tmp_path, rows, photos=0)
    photos(tmp_path)
    check(tmp_path)


@pytest.mark.parametrize("reader", [nerfstudio, colmap, colmap_text])
def test_own_size_of_each_photo(tmp_path, reader):
    reader(tmp_path, same)
    photos(tmp_path)
    write_photo(tmp_path / "images" / NAMES[3], 24, 16)
    cameras = load_scene(tmp_path).cameras
    assert cameras[3].K[0].tolist() == [40, 0, 12]
    assert cameras[4].K[0].tolist() == [20, 0, 6]


# ---- what is not forgiven -------------------------------------------------------------------------------------------


def test_photo_that_is_listed_itself_is_not_found_for_another(tmp_path):
    write_photo(tmp_path / "images/a.png")
    frames = [frame("images/a.png"), frame("images/a.jpg", POSES[1]), frame("b/images/a.png", POSES[2])]
    scene = load_scene(write_transforms(tmp_path, frames, photos=False, **SHARED))
    assert [view.name for view in scene.views] == ["images/a.png"]
    assert "2 of 3 listed photos are absent" in scene.warnings[0]


def test_two_that_would_be_one_photo_are_refused(tmp_path):
    write_photo(tmp_path / "images/a.png")
    frames = [frame("left/a.png"), frame("right/a.png", POSES[1])]
    write_transforms(tmp_path, frames, photos=False, **SHARED)
    with pytest.raises(SceneError, match=r"left/a\.png and right/a\.png are both .*different cameras"):
        load_scene(tmp_path)


def test_exact_name_wins_over_a_forgiven_one(tmp_path):
    for name in ("a.png", "A.png", "a.jpg"):
        write_photo(tmp_path / "images" / name)
    finder = PhotoFinder(tmp_path, ["images/A.png"])
    assert finder.find("images/A.png") == tmp_path / "images/A.png"
    assert PhotoFinder(tmp_path, []).find("images/a.jpg") == tmp_path / "images/a.jpg"


def test_absent_photos_say_where_they_were_looked_for_and_what_is_there(tmp_path):
    write_transforms(tmp_path, [frame("images/frame_01.png")], photos=False, **SHARED)
    for i in range(3):
        write_photo(tmp_path / f"images/frame_1{i}.png")
    with pytest.raises(SceneError, match=r"hint: looked in .*images \(3 photos, such as frame_1.\.png\)"):
        load_scene(tmp_path)
    shutil.rmtree(tmp_path / "images")
    with pytest.raises(SceneError, match=r"none of its 1 photos is there.*hint: looked in .*without a photo"):
        load_scene(tmp_path)


# ---- order and names ------------------------------------------------------------------------------------------------


def test_natural_order():
    names = ["r_10.png", "r_2.png", "R_3.png", "r_02.png", "b/1.png", "b10/1.png", "b9/1.png"]
    expected = ["b/1.png", "b9/1.png", "b10/1.png", "r_02.png", "r_2.png", "R_3.png", "r_10.png"]
    assert sorted(names, key=natural_key) == expected


def test_photos_of_a_folder_are_in_natural_order_without_hidden_ones(tmp_path):
    for name in ("10.png", "9.JPG", ".1.png"):
        write_photo(tmp_path / "made.png").rename(tmp_path / name)
    assert [photo.name for photo in list_photos(tmp_path)] == ["9.JPG", "10.png"]


def test_free_names_differ_by_more_than_case():
    assert free_name("a/b.png", ["a/c.png"]) == "a/b.png"
    assert free_name("a/b.png", ["A/B.png", "a/b-2.png"]) == "a/b-3.png"


def test_photos_inside_and_outside_the_scene_have_two_names(tmp_path):
    write_photo(tmp_path / "a/0.png")
    write_photo(tmp_path / "scene/a/0.png")
    frames = [frame("a/0.png"), frame("../a/0.png", POSES[1])]
    scene = load_scene(write_transforms(tmp_path / "scene", frames, photos=False, **SHARED))
    assert [(view.name, view.image_path.resolve()) for view in scene.views] == [
        ("a/0-2.png", tmp_path / "a/0.png"),
        ("a/0.png", tmp_path / "scene/a/0.png"),
    ]
