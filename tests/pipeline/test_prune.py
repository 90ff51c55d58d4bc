"""Pruning keeps what the photos and the latest encoders explain."""

from __future__ import annotations

import json

from plane_world import read_image, write_image
from workbench import edit, stamps

from lift3d_cli.pipeline.prune import prune_features


def prune(work) -> int:
    workspace = work.workspace
    return prune_features(workspace.scene, workspace.cache)


def test_features_in_use_stay(work):
    work.encode()
    work.encode("rgb")
    work.render()
    before = stamps(work.scene / ".lift3d")
    assert prune(work) == 0
    assert stamps(work.scene / ".lift3d") == before


def test_features_of_changed_photos_and_older_models_go(work, model_file):
    old = work.encode().folder
    edit(model_file, 'version="1"', 'version="2"')
    work.encode()
    path = work.scene / "images" / "03.png"
    write_image(path, 255 - read_image(path))
    new = work.encode().folder
    assert prune(work) > 0
    assert not old.exists()
    assert len(list(new.glob("*.safetensors"))) == 8
    assert (work.encode().num_encoded, work.encode().num_reused) == (0, 8)


def test_features_just_made_at_another_size_stay(work):
    work.encode(max_size=48)
    work.encode(max_size=64)
    prune(work)
    assert work.encode(max_size=64).num_encoded == 0
    assert work.encode(max_size=48).num_encoded == 8


def test_renders_stay(work):
    work.encode()
    render = work.render()
    prune(work)
    assert render.missing() == []


def test_surfaces_of_photos_that_are_gone_go_too(work):
    work.encode()
    folder, transforms = work.scene / ".lift3d" / "surfaces", work.scene / "transforms.json"
    before = stamps(folder)
    content = json.loads(transforms.read_text())
    del content["frames"][3]
    transforms.write_text(json.dumps(content))
    assert prune(work) > 0
    after = stamps(folder)
    assert len(before) == 8
    assert len(after) == 7
    assert after.items() <= before.items()
    assert not any("03" in name.split("-")[0] for name in after)
