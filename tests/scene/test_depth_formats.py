"""Depth in files: every format, and what is wrong with bad ones."""

from __future__ import annotations

import contextlib
import os
import sys

import numpy as np
import pytest
from scene_files import write_photo
from written_depth import VALUES, write_depth

from lift3d_cli.errors import SceneError
from lift3d_cli.scene import depth_formats
from lift3d_cli.scene.depth_formats import DEPTH_SUFFIXES, read_stored_depth


@pytest.mark.parametrize("suffix", DEPTH_SUFFIXES)
def test_every_format_gives_the_values_that_were_written(tmp_path, suffix):
    values, is_integer = read_stored_depth(write_depth(tmp_path / f"a{suffix}"))
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, VALUES)
    assert is_integer == (suffix == ".png")


@pytest.mark.parametrize("channel", ["ViewLayer.Depth.Z", "R", "depth"])
def test_depth_is_found_among_the_channels_of_an_exr(tmp_path, channel):
    exr = pytest.importorskip("OpenEXR")
    header = {"compression": exr.ZIP_COMPRESSION, "type": exr.scanlineimage}
    channels = {name: np.zeros((8, 12), np.float16) for name in ("A", "B", "G")} | {channel: VALUES}
    exr.File(header, channels).write(str(tmp_path / "a.exr"))
    np.testing.assert_array_equal(read_stored_depth(tmp_path / "a.exr")[0], VALUES)


def test_exr_without_its_library_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "OpenEXR", None)
    (tmp_path / "a.exr").write_bytes(b"")
    with pytest.raises(Exception, match=r"OpenEXR is not installed. hint: pip install 'lift3d-cli\[depth\]'"):
        read_stored_depth(tmp_path / "a.exr")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0, 0.0, 1e10])
def test_values_that_are_no_depth_are_unknown(tmp_path, bad):
    values = VALUES.copy()
    values[2, 3] = bad
    read, _ = read_stored_depth(write_depth(tmp_path / "a.npy", values))
    assert read[2, 3] == 0
    assert (read > 0).sum() == VALUES.size - 1


def test_saturated_16_bit_values_are_unknown(tmp_path):
    values = VALUES.copy()
    values[2, 3] = 65535
    assert read_stored_depth(write_depth(tmp_path / "a.png", values))[0][2, 3] == 0


@pytest.mark.parametrize("shape", [(1, 8, 12), (8, 12, 1)])
def test_an_axis_of_one_channel_is_dropped(tmp_path, shape):
    np.save(tmp_path / "a.npy", VALUES.reshape(shape))
    np.testing.assert_array_equal(read_stored_depth(tmp_path / "a.npy")[0], VALUES)


@pytest.mark.parametrize("suffix", [s for s in DEPTH_SUFFIXES if s != ".exr"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_truncated_file_is_one_line_with_its_name(tmp_path, suffix, share):
    path = write_depth(tmp_path / f"a{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(SceneError, match=r"a\.\w+.*: cannot be read as depth \([^\n]+\)\. hint: ") as error:
        read_stored_depth(path)
    assert "\n" not in str(error.value)


def test_truncated_exr_is_one_line_with_its_name(tmp_path, capfd):
    path = write_depth(tmp_path / "a.exr")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(SceneError, match=r"a\.exr: cannot be read as depth"):
        read_stored_depth(path)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda path: write_photo(path.with_suffix(".png"), channels=1), "8 bits per pixel, which is a picture"),
        (lambda path: write_photo(path.with_suffix(".png")), "its pixels are RGB, not one number each"),
        (lambda path: np.save(path, np.zeros((2, 3, 4))), "not one depth per pixel"),
        (lambda path: np.save(path, np.array(["a"])), "not one depth per pixel"),
        (lambda path: np.save(path, np.array([[None]]), allow_pickle=True), "cannot be read as depth"),
        (lambda path: np.savez(path.with_suffix(".npz"), a=VALUES, b=VALUES), "it has a, b, none of them named depth"),
        (lambda path: path.with_suffix(".pfm").write_bytes(b"PF\n1 1\n-1\n" + b"\0" * 12), "it is no gray PFM"),
        (lambda path: None, "is not there"),
    ],
)
def test_what_is_no_depth_is_refused_with_the_reason(tmp_path, write, says):
    write(tmp_path / "a.npy")
    path = next(iter(tmp_path.iterdir()), tmp_path / "a.npy")
    with pytest.raises(SceneError, match=says):
        read_stored_depth(path)


@pytest.mark.parametrize("place", [350, 360, 500])
def test_damaged_exr_prints_nothing_by_itself(tmp_path, capfd, place):
    pytest.importorskip("OpenEXR")
    path = write_depth(tmp_path / "a.exr")
    data = bytearray(path.read_bytes())
    data[place : place + 8] = b"\xff" * 8
    path.write_bytes(data)
    with contextlib.suppress(SceneError):
        read_stored_depth(path)
    assert capfd.readouterr() == ("", "")
    sys.stderr.write("still there\n")
    assert capfd.readouterr().err == "still there\n"


@pytest.mark.parametrize("suffix", DEPTH_SUFFIXES)
def test_pipe_is_not_waited_for(tmp_path, suffix):
    os.mkfifo(tmp_path / f"a{suffix}")
    with pytest.raises(SceneError, match="is not there"):
        read_stored_depth(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", DEPTH_SUFFIXES)
def test_file_without_end_is_not_read(tmp_path, suffix):
    path = write_depth(tmp_path / f"a{suffix}")
    os.truncate(path, 2**40)  # takes no place on the disk
    with pytest.raises(SceneError, match="it is too large"):
        read_stored_depth(path)


def test_archive_that_unpacks_to_more_than_it_may(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", depth=np.zeros((1000, 1000)))
    monkeypatch.setattr(depth_formats, "_MAX_BYTES", 10**6)
    with pytest.raises(SceneError, match="it is too large when it is unpacked"):
        read_stored_depth(tmp_path / "a.npz")


def test_depth_of_too_many_pixels_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(depth_formats, "_MAX_PIXELS", 11)
    np.save(tmp_path / "d.npy", np.ones((3, 4), np.float32))
    with pytest.raises(SceneError, match="12 numbers, too many for a depth map") as error:
        depth_formats.read_stored_depth(tmp_path / "d.npy")
    assert str(error.value).count("hint:") == 1
