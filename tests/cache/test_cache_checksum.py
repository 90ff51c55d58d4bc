"""A byte that flips anywhere in a file of the cache is noticed; then the file counts as missing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from lift3d_cli.cache import checksum
from lift3d_cli.cache.renders import FrameMaps, Render
from lift3d_cli.cache.tuned import Tuning, finished_tunings
from lift3d_cli.cache.verify import verify
from lift3d_cli.errors import CacheError
from lift3d_cli.machine.png import encode_png, is_whole_png, read_png

KEY = "ab" * 32
FACTS = {"scene": "garden", "fps": 24.0, "names": ["a"]}


def flipped(path: Path) -> list[int]:
    """Flip a byte of the file at each place in turn, and yield the place; at the end the file is as it was."""
    whole = path.read_bytes()
    step = max(1, len(whole) // 500)
    for place in [*range(0, len(whole), step), len(whole) - 1]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        os.utime(path, ns=(place, place))  # clocks of file systems are coarser than this loop
        yield place
    path.write_bytes(whole)


@pytest.fixture
def files(cache, encoder, photo, data, grid) -> dict[str, tuple[Path, Callable]]:
    """A file of each kind, and how it is read."""
    cache.write_features(encoder, photo, data, grid)
    cache.write_arrays("points", KEY, {"xyz": np.arange(30.0).reshape(10, 3)})
    cache.write_surface("one.jpg", KEY, {"sure": np.zeros((3, 4), np.uint8)})
    cache.write_photo(photo, np.zeros((4, 8, 3), np.uint8), *np.ones((2, 4, 8), bool))
    render = Render.create(cache.root / "renders" / "orbit-1", {"frames": 1, "dtype": "fp32"}, FACTS)
    render.color_path(0).parent.mkdir()
    render.color_path(0).write_bytes(encode_png(np.zeros((4, 8, 3), np.uint8)))
    maps = torch.ones(4, 8, dtype=torch.uint8)
    render.write_maps(0, FrameMaps(torch.rand(4, 8), maps, maps.clone(), [0]))
    features = render.begin_features(encoder, "fp16")
    features.write_frame(0, data, grid)
    (surface,) = cache.surface_paths("one.jpg")
    return {
        "features": (cache.features_path(encoder, photo), lambda: cache.read_features(encoder, photo)),
        "encoder": (cache.features_dir(encoder) / "encoder.json", lambda: cache.encoders(strict=True)),
        "points": (cache.array_paths("points")[0], lambda: cache.read_arrays("points", KEY)),
        "surface": (surface, lambda: cache.read_surface("one.jpg", KEY)),
        "photo": (cache.photo_path(photo), lambda: cache.read_photo(photo)),
        "manifest": (render.root / "manifest.json", lambda: Render.open(render.root)),
        "frame": (render.frame_path(0), lambda: render.read_maps(0)),
        "colour": (render.color_path(0), lambda: read_png(render.color_path(0))),
        "features manifest": (features.root / "manifest.json", lambda: render.feature_renders()),
        "features frame": (features.frame_path(0), lambda: features.read_frame(0)),
    }


NAMES = ["features", "encoder", "points", "surface", "photo", "manifest", "frame", "colour"]


@pytest.mark.parametrize("name", [*NAMES, "features manifest", "features frame"])
def test_flipped_byte_is_noticed_wherever_it_is(cache, files, name):
    path, read = files[name]
    read()
    assert verify(cache.root) == []
    for place in flipped(path):
        with pytest.raises(CacheError, match="hint: "):
            read()
        assert [found for found, _ in verify(cache.root)] == [path], place
    os.utime(path)
    read()


def test_record_of_another_version_is_passed_over_but_listed(cache, files):
    path, _ = files["encoder"]
    path.write_text(path.read_text().replace('"schema":2', '"schema":1'))
    assert cache.encoders(strict=True) == []
    assert [found for found, _ in verify(cache.root)] == [path]


def test_frame_whose_colours_are_damaged_counts_as_missing(cache, files):
    render = Render.open(cache.root / "renders" / "orbit-1")
    assert render.missing() == []
    for _ in flipped(render.color_path(0)):
        assert render.missing() == [0]
    render.color_path(0).unlink()
    assert render.missing() == [0]


@pytest.mark.parametrize("cut", [1, 4, 12, 20])
def test_picture_that_is_cut_short_or_too_long_is_not_whole(tmp_path, cut):
    path, whole = tmp_path / "a.png", encode_png(np.zeros((4, 8, 3), np.uint8))
    for content, expected in ((whole, True), (whole[:-cut], False), (whole + b"\0" * cut, False), (whole[:cut], False)):
        path.write_bytes(content)
        assert is_whole_png(path) == expected
    assert not is_whole_png(tmp_path)


def test_pictures_of_other_writers_are_whole(tmp_path):
    from PIL import Image

    Image.new("P", (3, 3)).save(tmp_path / "a.png")
    assert is_whole_png(tmp_path / "a.png")
    assert cv2.imwrite(str(tmp_path / "b.png"), np.zeros((3, 3, 4), np.uint8))
    assert is_whole_png(tmp_path / "b.png")


def test_tuned_weights_that_are_damaged_count_as_missing(tmp_path):
    tuning = Tuning.of(tmp_path, {"photos": "a", "weights": "b", "settings": {}})
    tuning.root.mkdir(parents=True)
    tuning.weights_path.write_bytes(b"weights")
    tuning.finish({"share": 1})
    assert tuning.facts() == {"share": 1}
    assert finished_tunings(tmp_path) == [tuning]
    tuning.weights_path.write_bytes(b"weightt")
    assert tuning.facts() is None
    assert finished_tunings(tmp_path) == []


def test_file_is_read_for_its_checksum_once_until_it_changes(cache, files, monkeypatch):
    path, read = files["features"]
    read()
    compared = []
    monkeypatch.setattr(checksum, "_compare", lambda *both: compared.append(both))
    read()
    assert compared == []
    os.utime(path, (1, 1))
    read()
    assert len(compared) == 1
