"""What is read is what was written, and nothing else is ever read."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lift3d_cli.cache.checksum import BLANK, sealed
from lift3d_cli.cache.format import PhotoRecord
from lift3d_cli.errors import CacheError, ModelError
from lift3d_cli.geometry.grids import FeatureGrid

GOLDEN = Path(__file__).parents[1] / "golden"


def test_features_file_is_byte_for_byte_the_golden_one(cache, encoder, data, grid):
    photo = PhotoRecord("images/one.jpg", "0123456789abcdef" * 4, (32, 24))
    cache.write_features(encoder, photo, data, grid)
    path = cache.features_path(encoder, photo)
    assert path.relative_to(cache.root).as_posix() == f"feats/tiny-{encoder.key[:8]}/one-01234567.safetensors"
    assert path.read_bytes() == (GOLDEN / "features-v2.safetensors").read_bytes()
    assert (path.parent / "encoder.json").read_bytes() == (GOLDEN / "encoder-v2.json").read_bytes()


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_features_come_back_in_the_declared_dtype(cache, encoder, photo, grid, dtype):
    encoder = replace(encoder, dtype=dtype)
    stored = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    data = torch.randn(3, 4, 2).permute(2, 1, 0)[:, 1:, :]  # not contiguous
    data = torch.cat([data, data[..., :1]], 2)
    assert not cache.has_features(encoder, photo)
    cache.write_features(encoder, photo, data, grid)
    out, out_grid = cache.read_features(encoder, photo)
    assert out.dtype == stored
    assert torch.equal(out, data.to(stored))
    assert out_grid == grid
    assert cache.missing(encoder, [photo]) == []


def test_grid_comes_back_exactly(cache, encoder, photo, data):
    grid = FeatureGrid(4, 3, (0.1 + 0.2, 1 / 14), (-0.5, 1e-17))
    cache.write_features(encoder, photo, data, grid)
    assert cache.read_features(encoder, photo)[1] == grid


@pytest.mark.parametrize("value", [1e6, float("nan"), float("-inf")])
def test_features_that_do_not_fit_the_dtype_are_refused(cache, encoder, photo, data, grid, value):
    data[0, 0, 0] = value
    with pytest.raises(ModelError, match=r"do not fit fp16\. hint: --dtype"):
        cache.write_features(encoder, photo, data, grid)
    assert not cache.has_features(encoder, photo)


def test_features_of_another_encoder_or_photo_are_not_read(cache, encoder, photo, written):
    """Even where the short hash in the file name is the same."""
    for other_encoder, other_photo in [
        (encoder, replace(photo, key=photo.key[:8] + "0" * 56)),
        (replace(encoder, fingerprint={"weights": "cd"}), photo),
    ]:
        path = cache.features_path(other_encoder, other_photo)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(written.read_bytes())
        assert not cache.has_features(other_encoder, other_photo)
        with pytest.raises(CacheError, match=r"made from another (photo|encoder)"):
            cache.read_features(other_encoder, other_photo)


def test_missing_features_name_the_command_that_makes_them(cache, encoder, photo):
    with pytest.raises(CacheError, match=r"one-.*\.safetensors: not there\. hint: lift3d encode garden$"):
        cache.read_features(encoder, photo)


def test_every_truncation_is_noticed(cache, encoder, photo, written):
    whole = written.read_bytes()
    for length in range(len(whole)):
        written.write_bytes(whole[:length])
        assert not cache.has_features(encoder, photo), length
    with pytest.raises(CacheError, match=r"damaged or cut short.*hint: lift3d encode"):
        cache.read_features(encoder, photo)
    written.write_bytes(whole + b"\0")
    assert not cache.has_features(encoder, photo)


def _file(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _tensor(begin: int = 0, end: int = 2, shape: tuple[int, ...] = (1,), dtype: str = "F16") -> dict:
    return {"features": {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}}


HOSTILE = {
    "empty": b"",
    "zeros": b"\0" * 4096,
    "noise": bytes(range(256)) * 8,
    "header length beyond the file": _file({}, length=1000),
    "header length of 2^63": _file({}, length=2**63),
    "header length too small": _file(_tensor(), b"aa", length=7),
    "not JSON": _file(b"\xff\xfe{}"),
    "a list": _file([]),
    "nested": _file(b"[" * 200_000),
    "negative offset": _file(_tensor(-2, 0), b"aa"),
    "offsets swapped": _file(_tensor(4, 2), b"aaaa"),
    "offsets beyond the file": _file(_tensor(0, 200, (100,)), b"aa"),
    "shape overflows": _file(_tensor(0, 2, (2**40, 2**40)), b"aa"),
    "shape is negative": _file(_tensor(0, 2, (-1,)), b"aa"),
    "unknown dtype": _file(_tensor(dtype="F17"), b"aa"),
    "bytes left over": _file(_tensor(), b"aabb"),
    "metadata is no text": _file({"__metadata__": {"lift3d": 1}, **_tensor()}, b"aa"),
    "no metadata": _file(_tensor(), b"aa"),
    "metadata is no JSON": _file({"__metadata__": {"lift3d": "{"}, **_tensor()}, b"aa"),
    "metadata nested": _file({"__metadata__": {"lift3d": "[" * 100_000}, **_tensor()}, b"aa"),
    "metadata of an endless number": _file({"__metadata__": {"lift3d": "9" * 9999}, **_tensor()}, b"aa"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_is_a_cache_error(cache, encoder, photo, written, name):
    written.write_bytes(HOSTILE[name])
    assert not cache.has_features(encoder, photo)
    with pytest.raises(CacheError, match=r"hint: lift3d encode garden$") as caught:
        cache.read_features(encoder, photo)
    assert "\n" not in str(caught.value)


def _with_document(whole: bytes, change: dict) -> bytes:
    """The file with its metadata changed."""
    size = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + size])
    document = {**json.loads(header["__metadata__"]["lift3d"]), "checksum": BLANK, **change}
    header["__metadata__"]["lift3d"] = json.dumps(document, separators=(",", ":"))
    return sealed(_file(json.dumps(header, separators=(",", ":")).encode(), whole[8 + size :]))


GRID = {"width": 4, "height": 3, "scale": [0.125, 0.125], "offset": [0.0, 0.0]}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema": 9}, r"made by another version of lift3d \(schema 9, this one reads 2\)"),
        ({"kind": "frame"}, "holds 'frame', not 'features'"),
        ({"keys": None}, "made from another encoder and photo"),
        ({"dtype": "fp32"}, "dtype or grid is not the declared one"),
        ({"dtype": ["fp16"]}, "dtype or grid is not the declared one"),
        ({"grid": None}, "dtype or grid is not the declared one"),
        ({"grid": {**GRID, "width": 5}}, "not on the declared grid"),
        ({"grid": {**GRID, "width": "4"}}, "not on the declared grid"),
        ({"grid": {**GRID, "scale": [0.0, 0.125]}}, "not positive"),
        ({"grid": {**GRID, "scale": [10**400, 1.0]}}, "no finite scale"),
        ({"grid": {**GRID, "offset": [float("inf"), 0.0]}}, "damaged"),
        ({"grid": {**GRID, "offset": [0.0]}}, "no finite scale and offset"),
    ],
)
def test_metadata_that_contradicts_the_tensor_is_refused(cache, encoder, photo, written, change, reason):
    written.write_bytes(_with_document(written.read_bytes(), change))
    assert not cache.has_features(encoder, photo)
    with pytest.raises(CacheError, match=reason):
        cache.read_features(encoder, photo)


def test_facts_added_by_a_later_version_do_not_matter(cache, encoder, photo, written, data):
    written.write_bytes(_with_document(written.read_bytes(), {"mood": "good"}))
    assert torch.equal(cache.read_features(encoder, photo)[0], data.half())


def test_folder_or_pipe_in_place_of_a_file_is_missing(cache, encoder, photo, written):
    for make in (os.mkdir, os.mkfifo):
        written.unlink() if written.is_file() else written.rmdir() if written.is_dir() else None
        make(written)
        assert not cache.has_features(encoder, photo)


def test_damaged_features_are_written_again(cache, encoder, photo, written, data, grid):
    written.write_bytes(b"junk")
    assert cache.missing(encoder, [photo]) == [photo]
    cache.write_features(encoder, photo, data, grid)
    assert cache.missing(encoder, [photo]) == []


def test_photo_and_arrays_round_trip(cache, photo):
    image = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)[::-1]  # not contiguous
    valid, opaque = np.eye(3, 4, dtype=bool), np.ones((3, 4), dtype=bool)
    assert not cache.has_photo(photo)
    cache.write_photo(photo, image, valid, opaque)
    for out, expected in zip(cache.read_photo(photo), (image, valid, opaque), strict=True):
        assert out.dtype == expected.dtype
        np.testing.assert_array_equal(out, expected)
    points = np.random.default_rng(0).normal(size=(5, 3))
    cache.write_arrays("points", "ab" * 32, {"xyz": points})
    np.testing.assert_array_equal(cache.read_arrays("points", "ab" * 32)["xyz"], points)
    assert not cache.has_arrays("points", "ab" * 4 + "cd" * 28)


def test_last_used_encoder_is_found_by_name(cache, encoder, written):
    other = replace(encoder, dtype="fp32")
    cache.begin(other)
    os.utime(cache.root / "feats" / other.folder / "encoder.json", ns=(0, 0))
    assert cache.find_encoder("tiny") == encoder
    cache.begin(other)
    assert cache.find_encoder("tiny") == other
    assert [record.dtype for record in cache.encoders()] == ["fp16", "fp32"]


def test_absent_or_unreadable_encoder_is_explained(cache, encoder, written):
    assert cache.find_encoder("dino") is None
    record = written.parent / "encoder.json"
    record.write_text(record.read_text().replace('"schema":2', '"schema":9'))
    with pytest.raises(CacheError, match=r"encoder\.json: made by another version"):
        cache.find_encoder("tiny")
    record.write_bytes(b"\xff")
    with pytest.raises(CacheError, match="not a text file"):
        cache.find_encoder("tiny")
    cache.begin(encoder)  # repairs it, although no photo is missing
    assert cache.find_encoder("tiny") == encoder
