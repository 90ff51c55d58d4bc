"""Shipped weights are found, verified and refused when they are not what the manifest lists."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lift3d_cli import weights
from lift3d_cli.errors import ModelError
from lift3d_cli.training.publish import publish_weights

FACTS = {"command": "none", "data": "none", "scores": {"error": 1.0}}


@pytest.fixture
def folders(tmp_path, monkeypatch):
    installed, checkout = tmp_path / "_weights", tmp_path / "weights"
    monkeypatch.setattr(weights, "WEIGHT_FOLDERS", (installed, checkout))
    return installed, checkout


def test_every_shipped_file_is_listed_with_its_facts_and_the_other_way_round():
    folder = weights.find_weights(weights.MANIFEST).parent
    manifest = weights.read_manifest(folder)
    assert {path.name for path in folder.glob("*.safetensors")} == set(manifest)
    for name, facts in manifest.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == facts["sha256"]
        assert {"license", "command", "data", "scores", "date"} <= facts.keys()


def test_published_weights_come_back_and_are_listed(folders):
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(1, dtype=torch.float16)}
    publish_weights(tensors, folders[1] / "m.safetensors", **FACTS)
    publish_weights({"c": torch.zeros(1)}, folders[1] / "a.safetensors", **FACTS)
    loaded = weights.load_weights("m.safetensors")
    assert loaded.keys() == tensors.keys()
    assert all(
        torch.equal(loaded[name], tensors[name]) and loaded[name].dtype == tensors[name].dtype for name in tensors
    )
    manifest = json.loads((folders[1] / "manifest.json").read_text())
    assert list(manifest) == ["a.safetensors", "m.safetensors"]
    assert manifest["m.safetensors"]["scores"] == {"error": 1.0}


def test_installed_weights_go_before_those_of_a_checkout(folders):
    for value, folder in enumerate(folders):
        publish_weights({"a": torch.tensor([value])}, folder / "m.safetensors", **FACTS)
    assert weights.load_weights("m.safetensors")["a"].item() == 0


def test_missing_weights_say_where_was_looked(folders):
    with pytest.raises(ModelError, match=r"no weights m\.safetensors in ") as error:
        weights.load_weights("m.safetensors")
    assert all(str(folder) in str(error.value) for folder in folders)


def test_changed_weights_are_refused(folders):
    path = folders[1] / "m.safetensors"
    publish_weights({"a": torch.zeros(4)}, path, **FACTS)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match="damaged or replaced") as error:
        weights.load_weights("m.safetensors")
    assert str(path) in str(error.value)


def test_unlisted_weights_are_refused(folders):
    folders[1].mkdir()
    save_file({"a": torch.zeros(4)}, folders[1] / "m.safetensors")
    with pytest.raises(ModelError, match=r"not in manifest\.json"):
        weights.load_weights("m.safetensors")


def test_a_path_of_the_users_own_needs_no_manifest(tmp_path):
    save_file({"a": torch.ones(4)}, tmp_path / "mine.safetensors")
    assert weights.load_weights("m.safetensors", tmp_path / "mine.safetensors")["a"].sum() == 4


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{}extra"], ids=repr)
def test_what_is_not_safetensors_is_one_line(tmp_path, content):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="not a readable safetensors file") as error:
        weights.load_weights("bad.safetensors", path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["nothing.safetensors", "."])
def test_a_path_that_cannot_be_read_is_one_line(tmp_path, name):
    with pytest.raises(ModelError, match="cannot be read"):
        weights.load_weights("m.safetensors", tmp_path / name)


@pytest.mark.parametrize("text", ["{", "[]", '{"m.safetensors": 1}'])
def test_a_damaged_manifest_is_one_line(folders, text):
    publish_weights({"a": torch.zeros(4)}, folders[1] / "m.safetensors", **FACTS)
    (folders[1] / "manifest.json").write_text(text)
    with pytest.raises(ModelError, match=r"manifest\.json") as error:
        weights.load_weights("m.safetensors")
    assert "\n" not in str(error.value)


def test_shipped_colorizer_is_small():
    path = weights.find_weights("tiny-colorizer.safetensors")
    assert path.stat().st_size < 4_200_000
    assert all(t.dtype == torch.float16 for t in load_file(path).values())


# ---- weights of others -----------------------------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FIND = "from lift3d_cli.weights import find_other_weights as f; print(f('{}', 'lift3d.safetensors'))"


@pytest.fixture
def hub(tmp_path) -> dict[str, str]:
    """The hub's own cache on this machine, with one repository in it, and no network."""
    repository = tmp_path / "hub" / "models--somebody--other-weights"
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots" / COMMIT / "lift3d.safetensors").write_bytes(b"weights")
    return {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}


def find_in(hub: dict[str, str], reference: str) -> subprocess.CompletedProcess:
    # A process of its own: the library reads its environment when it is imported.
    return subprocess.run([sys.executable, "-c", FIND.format(reference)], env=hub, capture_output=True, text=True)


@pytest.mark.parametrize("revision", ["", "@main", f"@{COMMIT}"])
def test_weights_of_a_hub_repository_come_from_its_cache(hub, revision):
    done = find_in(hub, f"somebody/other-weights{revision}")
    assert done.returncode == 0, done.stderr
    assert open(done.stdout.strip(), "rb").read() == b"weights"  # noqa: SIM115


@pytest.mark.parametrize("reference", ["somebody/absent", "somebody/other-weights@v9"])
def test_repository_that_is_not_to_be_had_is_one_line(hub, reference):
    done = find_in(hub, reference)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert f"ModelError: weights {reference}: no such file, and not available from the Hugging Face hub" in last


def test_existing_file_goes_before_a_repository_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "somebody").mkdir()
    (tmp_path / "somebody" / "other-weights").write_bytes(b"")
    assert weights.find_other_weights("somebody/other-weights", "x") == Path("somebody/other-weights")
    assert weights.find_other_weights("runs/a.safetensors", "x") == Path("runs/a.safetensors")
