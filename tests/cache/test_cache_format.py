"""Keys change if and only if what they identify changes."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from lift3d_cli.cache import format as fmt
from lift3d_cli.cache.store import describe_photo
from lift3d_cli.errors import ModelError, SceneError

K = [[60.0, 0.0, 32.0], [0.0, 60.0, 24.0], [0.0, 0.0, 1.0]]
PHOTO = {
    "image_sha256": "a" * 64,
    "mask_sha256": None,
    "K": K,
    "width": 64,
    "height": 48,
    "distortion": ("opencv", (0.1, 0.0, 0.0, 0.0)),
    "working_size": (32, 24),
}
PHOTO_CHANGES = [
    {"image_sha256": "b" * 64},
    {"mask_sha256": "a" * 64},
    {"K": [[math.nextafter(60.0, 61), 0.0, 32.0], *K[1:]]},
    {"K": [[60.0, 0.0, 32.5], *K[1:]]},
    {"width": 65},
    {"height": 49},
    {"distortion": None},
    {"distortion": ("opencv_fisheye", (0.1, 0.0, 0.0, 0.0))},
    {"distortion": ("opencv", (0.1, 0.0, 0.0, 1e-9))},
    {"distortion": ("opencv", (0.1, 0.0, 0.0, 0.0, 0.0))},
    {"working_size": (24, 32)},
]


def test_photo_key_changes_with_each_ingredient():
    keys = [fmt.photo_key(**{**PHOTO, **change}) for change in [{}, *PHOTO_CHANGES]]
    assert len(set(keys)) == len(keys)


def test_photo_key_is_the_same_for_equal_ingredients_of_other_types():
    same = {"K": np.array(K), "width": np.int64(64), "distortion": ["opencv", np.array([0.1, -0.0, 0, 0])]}
    assert fmt.photo_key(**{**PHOTO, **same}) == fmt.photo_key(**PHOTO)


def test_schema_is_part_of_every_key(monkeypatch):
    before = fmt.photo_key(**PHOTO), fmt.encoder_key({}, "fp16"), fmt.key_of("points", {})
    monkeypatch.setattr(fmt, "SCHEMA", 3)
    after = fmt.photo_key(**PHOTO), fmt.encoder_key({}, "fp16"), fmt.key_of("points", {})
    assert all(a != b for a, b in zip(before, after, strict=True))


def test_kinds_never_share_a_key():
    assert fmt.key_of("points", {"a": 1}) != fmt.key_of("render", {"a": 1})


def test_encoder_key_depends_on_fingerprint_and_dtype_alone(encoder):
    same = replace(encoder, ref="tiny", spec={"channels": 3}, fingerprint=dict(reversed(encoder.fingerprint.items())))
    assert same.key == encoder.key
    others = [replace(encoder, dtype=dtype) for dtype in ("fp32", "bf16")]
    others += [replace(encoder, fingerprint=f) for f in ({}, {"weights": "ab12"}, {"weights": "ab12", "version": 1})]
    keys = [record.key for record in [encoder, *others]]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("value", [math.nan, math.inf, {1, 2}, object(), {"a": np.zeros(2)}])
def test_fingerprint_without_a_json_form_is_a_model_error(value):
    with pytest.raises(ModelError, match="preprocessing"):
        fmt.encoder_key({"setting": value}, "fp16")


def test_canonical_json_has_one_spelling():
    assert fmt.canonical_json({"b": (1, 0.1), "a": "é"}) == '{"a":"\\u00e9","b":[1,0.1]}'
    for order in itertools.permutations("abc"):
        assert fmt.canonical_json(dict.fromkeys(order, 1e-30)) == '{"a":1e-30,"b":1e-30,"c":1e-30}'


PINNED_PHOTO = "6b54010c05da076fe8f00e33a31bf5e975a96d5101748047dce85452eca10701"
PINNED_ENCODER = "814fcd5e4c6e541649be476d93d826f9572286eb68a1e94a2c578c2a773ea97c"


def test_keys_are_pinned():
    """These keys are in users' caches: a change here means that all features are encoded again, and a new SCHEMA."""
    assert fmt.photo_key(**PHOTO) == PINNED_PHOTO
    assert fmt.encoder_key({"weights": "ab12"}, "fp16") == PINNED_ENCODER


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("images/DSC_0001.JPG", "DSC_0001"),
        ("a b[1].png", "a-b-1"),
        ("日本.jpg", "photo"),
        ("../..", "photo"),
        (".hidden", "hidden"),
        ("x" * 300 + ".png", "x" * 48),
    ],
)
def test_file_names_are_plain_whatever_the_photo_is_called(name, stem):
    assert fmt.PhotoRecord(name, "0123456789abcdef", (1, 1)).file_name == f"{stem}-01234567.safetensors"


def test_same_pixels_have_the_same_key_wherever_the_file_is(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(b"other" if name == "c.png" else b"same")
    a, b, c = (describe_photo(f"{n}.png", tmp_path / f"{n}.png", np.eye(3), 4, 3) for n in "abc")
    masked = describe_photo("a.png", tmp_path / "a.png", np.eye(3), 4, 3, mask_path=tmp_path / "c.png")
    assert a.key == b.key
    assert len({a.key, c.key, masked.key}) == 3
    assert a.size == (4, 3)


def test_absent_photo_is_a_scene_error(tmp_path):
    with pytest.raises(SceneError, match=r"none\.png: cannot be read"):
        describe_photo("none.png", tmp_path / "none.png", np.eye(3), 4, 3)


def test_encoder_record_survives_its_file(encoder):
    assert fmt.EncoderRecord.from_json(encoder.to_json()) == encoder


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("ab12", "ab13", "key is not that of its content"),
        ("fp16", "fp64", "key is not that of its content"),
        ('"schema":2', '"schema":9', r"another version of lift3d \(schema 9, this one reads 2\)"),
        ('"schema":2', '"schema":"1"', "not made by lift3d"),
        ('"kind":"encoder"', '"kind":"render"', "holds 'render', not 'encoder'"),
        ('"name":"tiny"', '"name":3', "not an encoder.json"),
        ('"version":"1"', '"version":NaN', "damaged"),
        ("{", "[", "damaged"),
    ],
)
def test_altered_encoder_record_is_refused(encoder, old, new, reason):
    assert old in encoder.to_json()
    with pytest.raises(ValueError, match=reason):
        fmt.EncoderRecord.from_json(encoder.to_json().replace(old, new))


@pytest.mark.parametrize(
    "module",
    [
        *(f"cache.{name}" for name in ("format", "files", "store", "renders", "inventory", "location", "session")),
        "machine.atomic",
    ],
)
def test_import_does_not_load_torch(module):
    code = f"import sys, lift3d_cli.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
