"""Reading, undistorting and resizing photos."""

from __future__ import annotations

import re
import struct
import tracemalloc
import zlib
from pathlib import Path

import cv2
import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image
from scene_files import frame, lens_camera, look_at, plane_photo, smooth_texture, write_photo, write_transforms

from lift3d_cli.errors import SceneError
from lift3d_cli.scene import photos
from lift3d_cli.scene.distortion import undistortion_map
from lift3d_cli.scene.load import load_scene
from lift3d_cli.scene.photos import photo_size, read_photo, resize_photo
from lift3d_cli.scene.scene import Distortion, Photo, View


def view_of(path, distortion=None, mask_path=None) -> View:
    width, height = Image.open(path).size
    return View("a", path, lens_camera(width, height), distortion, mask_path)


# ---- kinds of photos ------------------------------------------------------------------------------------------------


def test_gray_sixteen_bit_palette_and_cmyk_photos(tmp_path):
    gray = np.arange(96, dtype=np.uint8).reshape(8, 12)
    iio.imwrite(tmp_path / "gray.png", gray)
    cv2.imwrite(str(tmp_path / "gray16.png"), gray.astype(np.uint16) * 257)
    cv2.imwrite(str(tmp_path / "rgb16.png"), np.repeat(gray[..., None], 3, axis=2).astype(np.uint16) * 257)
    Image.fromarray(np.repeat(gray[..., None], 3, axis=2)).quantize(256).save(tmp_path / "palette.png")
    Image.fromarray((gray > 40).astype(np.uint8) * 255).convert("1").save(tmp_path / "bits.png")
    for name in ("gray", "gray16", "rgb16", "palette"):
        photo = read_photo(view_of(tmp_path / f"{name}.png"))
        assert photo.image.dtype == np.uint8
        np.testing.assert_array_equal(photo.image, np.repeat(gray[..., None], 3, axis=2), err_msg=name)
        assert photo.valid.all()
        assert photo.opaque.all()
    np.testing.assert_array_equal(read_photo(view_of(tmp_path / "bits.png")).image[..., 0], (gray > 40) * 255)
    Image.new("CMYK", (12, 8), (0, 0, 0, 0)).save(tmp_path / "cmyk.jpg")
    assert (read_photo(view_of(tmp_path / "cmyk.jpg")).image > 250).all()


def test_transparent_pixels_are_on_white_and_not_opaque(tmp_path):
    rgba = np.zeros((8, 12, 4), np.uint8)
    rgba[:, :4] = (10, 20, 30, 255)
    rgba[:, 4:8] = (10, 20, 30, 51)  # a fifth of the pixel
    iio.imwrite(tmp_path / "a.png", rgba)
    photo = read_photo(view_of(tmp_path / "a.png"))
    np.testing.assert_array_equal(photo.image[0, [0, 4, 8]], [[10, 20, 30], [206, 208, 210], [255, 255, 255]])
    np.testing.assert_array_equal(photo.opaque[0], [True] * 4 + [False] * 8)
    assert photo.valid.all()


def test_palette_with_a_transparent_colour(tmp_path):
    image = Image.new("P", (12, 8), 0)
    image.putpalette([200, 0, 0, 0, 100, 0])
    image.paste(1, (0, 0, 6, 8))
    image.save(tmp_path / "a.png", transparency=0)
    photo = read_photo(view_of(tmp_path / "a.png"))
    np.testing.assert_array_equal(photo.image[0, [0, 11]], [[0, 100, 0], [255, 255, 255]])
    np.testing.assert_array_equal(photo.opaque[0, [0, 11]], [True, False])


@pytest.mark.parametrize("size", [(12, 8), (24, 16)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_mask_of_any_size_and_kind(tmp_path, size, channels):
    mask = np.full((size[1], size[0], channels), 255, np.uint8)
    mask[: size[1] // 2, :, : min(channels, 3)] = 0
    iio.imwrite(tmp_path / "mask.png", mask[..., 0] if channels == 1 else mask)
    photo = read_photo(view_of(write_photo(tmp_path / "a.png"), mask_path=tmp_path / "mask.png"))
    np.testing.assert_array_equal(photo.valid, np.repeat(np.arange(8) >= 4, 12).reshape(8, 12))


def test_mask_and_transparency_are_undistorted_with_the_photo(tmp_path):
    rgba = np.full((96, 128, 4), 255, np.uint8)
    rgba[:, 64:, 3] = 0
    mask = np.full((96, 128), 255, np.uint8)
    mask[:48] = 0
    iio.imwrite(tmp_path / "a.png", rgba)
    iio.imwrite(tmp_path / "mask.png", mask)
    lens = Distortion("opencv", (-0.1, 0, 0, 0))
    photo = read_photo(View("a", tmp_path / "a.png", lens_camera(), lens, tmp_path / "mask.png"))
    source_x, source_y, _ = undistortion_map(lens_camera(), lens)
    np.testing.assert_array_equal(photo.opaque[source_x < 62.9], True)
    np.testing.assert_array_equal(photo.opaque[source_x > 63.1], False)
    np.testing.assert_array_equal(photo.valid[source_y > 48.1], True)
    np.testing.assert_array_equal(photo.valid[source_y < 47.9], False)


def turned_photo(path) -> np.ndarray:
    pixels = np.zeros((40, 64, 3), np.uint8)
    pixels[:, :32] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise: the left edge becomes the top
    Image.fromarray(pixels).save(path, exif=exif, quality=95)
    return pixels


def test_exif_rotation_is_ignored_if_the_camera_has_the_stored_shape_or_says_nothing(tmp_path):
    pixels = turned_photo(tmp_path / "a.jpg")
    for size in ({"w": 64, "h": 40}, {}):
        scene = load_scene(write_transforms(tmp_path, [frame("a.jpg")], photos=False, fl_x=50.0, **size))
        photo = read_photo(scene.views[0])
        assert np.abs(photo.image.astype(int) - pixels).max() < 20


def test_exif_rotation_is_applied_if_the_camera_has_the_turned_shape(tmp_path):
    turned_photo(tmp_path / "a.jpg")
    scene = load_scene(write_transforms(tmp_path, [frame("a.jpg")], photos=False, fl_x=50.0, w=40, h=64))
    photo = read_photo(scene.views[0])
    assert photo.image.shape == (64, 40, 3)
    assert (photo.image[:30] > 235).all()
    assert (photo.image[34:] < 20).all()


# ---- bad photos -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_cut_off_photo_is_refused_with_its_path(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    iio.imwrite(path, np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    view = view_of(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SceneError, match=rf"a\.{suffix}: is cut off\. hint"):
        read_photo(view)


def test_photo_that_changed_its_size_is_refused(tmp_path):
    view = view_of(write_photo(tmp_path / "a.png"))
    write_photo(tmp_path / "a.png", 20, 20)
    with pytest.raises(SceneError, match="is 20x20, its camera is for 12x8"):
        read_photo(view)


def test_photo_or_mask_that_went_away_is_refused(tmp_path):
    view = view_of(write_photo(tmp_path / "a.png"), mask_path=tmp_path / "mask.png")
    with pytest.raises(SceneError, match=r"mask\.png"):
        read_photo(view)
    (tmp_path / "a.png").unlink()
    with pytest.raises(SceneError, match=r"a\.png"):
        read_photo(view)


def test_float_photo_is_refused(tmp_path):
    Image.fromarray(np.ones((8, 12), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(SceneError, match=r"float pixels.*no known range.*hint"):
        read_photo(view_of(tmp_path / "a.tif"))


# ---- resizing -------------------------------------------------------------------------------------------------------


def make_photo(height=8, width=12) -> Photo:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Photo(image, np.ones((height, width), bool), np.ones((height, width), bool))


def test_shrinking_averages_areas():
    photo = make_photo()
    small = resize_photo(photo, 6, 4)
    expected = photo.image.reshape(4, 2, 6, 2, 3).mean(axis=(1, 3))
    assert np.abs(small.image - expected).max() <= 0.5
    assert small.image.dtype == np.uint8
    assert small.valid.shape == small.opaque.shape == (4, 6)


def test_resized_mask_is_true_only_where_all_of_it_was():
    photo = make_photo()
    photo.valid[3, 5] = False
    photo.opaque[0, 0] = False
    small = resize_photo(photo, 6, 4)
    assert not small.valid[1, 2]
    assert small.valid.sum() == 23
    assert not small.opaque[0, 0]
    assert small.opaque.sum() == 23
    odd = resize_photo(photo, 5, 3)  # a source pixel is shared by up to four: all of them are invalid
    touched = np.zeros((3, 5), bool)
    touched[int(3 * 3 / 8) : int(np.ceil(4 * 3 / 8)), int(5 * 5 / 12) : int(np.ceil(6 * 5 / 12))] = True
    np.testing.assert_array_equal(odd.valid, ~touched)


def test_resizing_follows_the_lens_camera(tmp_path):
    cam = lens_camera(256, 192, look_at((0.3, -0.2, -2.5)))
    shape = np.ones((192, 256), bool)
    photo = resize_photo(Photo(plane_photo(cam, smooth_texture), shape, shape), 128, 96)
    expected = plane_photo(cam.resized(128, 96), smooth_texture)
    assert np.abs(photo.image.astype(int) - expected).max() <= 4
    grown = resize_photo(photo, 256, 192).image.astype(int) - plane_photo(cam, smooth_texture)
    assert np.abs(grown[4:-4, 4:-4]).max() <= 6


def test_resizing_to_the_same_size_changes_nothing_and_to_nothing_is_refused():
    photo = make_photo()
    assert resize_photo(photo, 12, 8) is photo
    with pytest.raises(SceneError, match="0x8"):
        resize_photo(photo, 0, 8)


@pytest.mark.parametrize(
    "head", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 12 8\n%%EndComments\n", b"P5 12 8 255\n" + bytes(96)]
)
def test_other_formats_are_not_opened_whatever_they_are_called(tmp_path, head):
    """PIL would run Ghostscript for the first."""
    (tmp_path / "a.png").write_bytes(head)
    with pytest.raises(SceneError, match=r"a\.png: "):
        photo_size(tmp_path / "a.png")


def test_pictures_are_opened_by_the_formats_that_are_promised_only():
    source = Path(photos.__file__).parents[1]
    calls = [call for path in source.rglob("*.py") for call in re.findall(r"Image\.open\(.*", path.read_text())]
    assert calls
    assert [call for call in calls if "formats=" not in call] == []


def test_photo_of_too_many_pixels_is_refused_before_they_are_decoded(tmp_path):
    """13,000 by 13,000 grey pixels, all black: 20 kB, and gigabytes when they are encoded."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", 13000, 13000, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(data)
    tracemalloc.start()
    with pytest.raises(SceneError, match="is 13000x13000 pixels, too large"):
        photo_size(tmp_path / "a.png")
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()
