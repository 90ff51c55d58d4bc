"""Inputs that people report to tools of this field, made of the example scene: each works as the plain scene does, or
says what is wrong with it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scene_files import frame, look_at, quaternion, write_colmap, write_photo, write_transforms

from lift3d_cli.errors import SceneError
from lift3d_cli.scene import photos
from lift3d_cli.scene.load import load_scene
from lift3d_cli.scene.photos import photo_size, read_photo
from lift3d_cli.scene.scene import Scene, View

TABLETOP = Path(__file__).parents[2] / "examples" / "tabletop"
LENS = {"fl_x": 20.0, "w": 12, "h": 8}


@pytest.fixture(scope="module")
def plain() -> Scene:
    return load_scene(TABLETOP)


@pytest.fixture
def copy(tmp_path) -> Path:
    shutil.copytree(TABLETOP / "images", tmp_path / "images")
    shutil.copy(TABLETOP / "transforms.json", tmp_path)
    return tmp_path


def assert_same(scene: Scene, plain: Scene) -> None:
    assert len(scene.views) == 14
    for got, wanted in zip(scene.cameras, plain.cameras, strict=True):
        np.testing.assert_allclose(got.w2c, wanted.w2c, atol=1e-9)
        np.testing.assert_allclose(got.K, wanted.K)


def test_splits_that_are_copies_of_one_file(copy, plain):
    for split in ("train", "val", "test"):
        shutil.copy(copy / "transforms.json", copy / f"transforms_{split}.json")
    (copy / "transforms.json").unlink()
    scene = load_scene(copy)
    assert_same(scene, plain)
    assert len(scene.warnings) == 1
    assert "28 entries repeat a photo with the same pose" in scene.warnings[0]


@pytest.mark.parametrize("empty", ["val", "test"])
def test_empty_split(copy, plain, empty):
    (copy / "transforms.json").rename(copy / "transforms_train.json")
    (copy / f"transforms_{empty}.json").write_text('{"camera_angle_x": 0.9, "frames": []}')
    scene = load_scene(copy)
    assert_same(scene, plain)
    assert scene.warnings == (f"{copy}/transforms_{empty}.json: has no frames, and is passed over",)


def test_large_photos_are_read_and_too_large_ones_say_what_to_do(tmp_path, monkeypatch, recwarn):
    Image.new("L", (12000, 9000), 90).save(tmp_path / "a.png")
    assert photo_size(tmp_path / "a.png") == (12000, 9000)
    assert not recwarn
    monkeypatch.setattr(photos, "_MAX_PIXELS", 10**6)
    with pytest.raises(SceneError, match=r"is 12000x9000 pixels, too large \(the limit is 1 megapixels\)\. hint"):
        photo_size(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "is HEIC, which is not supported. hint: convert it"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "is a video, which is not supported"),
        (b"v/1\x01\2\0\0\0", "is EXR, which is not supported"),
        (b"II*\0\x08\0\0\0", "is camera raw, or TIFF with float or 16-bit colours, which is not supported"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS. hint: git lfs pull"),
        (b"<html>not found</html>", "is no picture. hint: copy it again"),
        (b"", "is empty. hint: copy it again"),
    ],
)
def test_file_that_is_no_photo_says_what_it_is(tmp_path, data, told):
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(SceneError) as caught:
        photo_size(tmp_path / "a.jpg")
    assert told in str(caught.value)
    assert "cut off" not in str(caught.value)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_only_what_lacks_its_end_is_cut_off(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    view = View("a", path, load_scene(TABLETOP).cameras[0].resized(64, 64))
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SceneError, match="cut off|damaged" if ending == "webp" else "is cut off"):
        read_photo(view)
    if ending == "png":
        path.write_bytes(whole[:100] + b"\0" * 40 + whole[140:])
        with pytest.raises(SceneError, match="is damaged"):
            read_photo(view)


def test_json_is_cut_off_only_if_it_ends_early(copy):
    path = copy / "transforms.json"
    text = path.read_text()
    for content, told in (
        (text[:2000], "is cut off at line"),
        ("", "is empty"),
        (text[:50] + ",," + text[50:], "is not"),
    ):
        path.write_text(content)
        with pytest.raises(SceneError, match=told):
            load_scene(copy)


def test_photos_of_colmap_in_any_case_without_ending_with_folder_or_smaller(copy, plain):
    camera = plain.cameras[0]
    params = [camera.K[0, 0], camera.K[1, 1], camera.K[0, 2], camera.K[1, 2]]
    (copy / "transforms.json").unlink()
    for rename in (str.upper, lambda n: n[:-4], lambda n: "images/" + n):
        images = [
            (rename(Path(v.name).name), quaternion(v.camera.w2c[:3, :3]), tuple(v.camera.w2c[:3, 3]), [])
            for v in plain.views
        ]
        write_colmap(copy, images, params=params, photos="", binary=False)
        cameras = copy / "sparse/0/cameras.txt"
        cameras.write_text(cameras.read_text().replace(" 12 8 ", f" {camera.width} {camera.height} "))
        assert_same(load_scene(copy), plain)


# ---- folders that are no scene --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("garden/transforms.json", r"is not a scene, but .*garden is one\. hint: name that"),
        ("garden/sparse/0/images.bin", r"garden is one"),
        ("transforms_half.json", r"has transforms_half\.json\. hint: name the file"),
        ("keyframes/cameras/1.json", r"raw export of Polycam\. hint: ns-process-data polycam"),
        ("capture.r3d", "Record3D"),
        ("cameras.xml", "Metashape"),
        ("cameras.csv", "RealityCapture"),
        ("database.db", "COLMAP's database without a model"),
        ("images/a.png", r"has 1 photos without poses\. hint: COLMAP"),
    ],
)
def test_folder_that_is_nearly_a_scene(tmp_path, file, told):
    path = tmp_path / file
    write_photo(path) if file.endswith("png") else path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text("{}")
    with pytest.raises(SceneError, match=told):
        load_scene(tmp_path)


# ---- degenerate captures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("poses", "told"),
    [
        ([np.eye(4)], "has one photo, so that no surface can be found"),
        ([np.eye(4)] * 3, "all 3 photos have the same pose"),
        ([look_at((0, 0, 0), (x, 0, 1)) for x in (0, 0.2, 0.4)], "all 3 photos were taken from one place"),
    ],
)
def test_degenerate_captures_are_named(tmp_path, poses, told):
    frames = [frame(f"{i}.png", w2c) for i, w2c in enumerate(poses)]
    scene = load_scene(write_transforms(tmp_path, frames, **LENS))
    assert len(scene.views) == len(poses)
    assert len(scene.warnings) == 1
    assert told in scene.warnings[0]


def test_small_baselines_far_from_the_origin_are_none(tmp_path):
    frames = [frame(f"{i}.png", look_at((4e6 + i, 0, 0), (4e6, 0, 9))) for i in range(3)]
    assert load_scene(write_transforms(tmp_path, frames, **LENS)).warnings == ()


def test_unused_broken_things_do_not_stop_a_scene(copy, plain):
    data = json.loads((copy / "transforms.json").read_text())
    gone = {"file_path": "images/gone.jpg", "transform_matrix": "never solved", "mask_path": "no.png"}
    data["frames"].append(gone)
    (copy / "transforms.json").write_text(json.dumps(data))
    scene = load_scene(copy)
    assert_same(scene, plain)
    assert "1 of 15 listed photos are absent" in scene.warnings[0]
