"""A render is filled frame by frame, never with frames of another one; prune removes what nothing explains."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from lift3d_cli.cache.format import document_json
from lift3d_cli.cache.frames import FrameFolder, render_key
from lift3d_cli.cache.inventory import inventory, prune
from lift3d_cli.cache.renders import Render, all_renders, cache_of, is_render, render_dir
from lift3d_cli.cache.store import SceneCache
from lift3d_cli.errors import CacheError

CONTENT = {"frames": 3, "dtype": "fp16", "path": (1.0, 2.0), "encoder": "ab"}


@pytest.fixture
def render(cache) -> Render:
    return Render.create(render_dir(cache.root, "orbit", CONTENT), CONTENT, {"command": "lift3d render garden"})


def test_interrupted_render_goes_on(render, data, grid):
    render.write_frame(1, data, grid, {"coverage": torch.ones(24, 32)})
    again = FrameFolder.create(render.root, CONTENT)
    assert again.missing() == [0, 2]
    assert again.facts == {"command": "lift3d render garden"}
    out, out_grid, extra = Render.open(render.root).read_frame(1)
    assert torch.equal(out, data.half())
    assert out_grid == grid
    assert extra["coverage"].shape == (24, 32)


def test_opened_render_has_the_content_of_the_created_one(render):
    assert Render.open(render.root).content == render.content == {**CONTENT, "path": [1.0, 2.0]}


def test_renders_of_other_content_have_other_folders(cache):
    folders = [render_dir(cache.root, "orbit", {**CONTENT, **c}) for c in ({}, {"frames": 4}, {"encoder": "cd"})]
    assert len(set(folders)) == 3
    assert folders[0].parent == cache.root / "renders"


def test_latest_render_is_the_one_that_was_used_last(cache, render):
    other = Render.create(render_dir(cache.root, "spiral", CONTENT), CONTENT)
    for used, then in ((render, 1), (other, 2)):
        os.utime(used.root / "manifest.json", (then, then))
    assert all_renders(cache.root)[-1] == other.root
    os.utime(render.root / "manifest.json")
    assert all_renders(cache.root)[-1] == render.root
    assert is_render(render.root)
    assert not is_render(cache.root)


def test_cache_that_a_render_lies_in_is_found_if_it_has_features(cache, written, render, tmp_path):
    assert cache_of(render.root) == cache.root
    assert cache_of(tmp_path / "mine") is None
    assert cache_of(tmp_path / "renders" / "mine") is None
    assert all_renders(tmp_path / "none") == []


def test_features_lie_in_their_render_and_the_last_used_are_at_the_end(render, encoder):
    first, second = (render.begin_features(encoder, dtype) for dtype in ("fp16", "fp32"))
    for used, then in ((second, 1), (first, 2)):
        os.utime(used.root / "manifest.json", (then, then))
    found = render.feature_renders()
    assert [r.root for r in found] == [second.root, first.root]
    assert [r.dtype for r in found] == ["fp32", "fp16"]
    assert {(r.model, r.ref, r.encoder, r.num_frames) for r in found} == {("tiny", "./tiny.py:Tiny", encoder.key, 3)}


def test_folder_with_another_render_is_refused(render, data, grid):
    render.write_frame(0, data, grid)
    with pytest.raises(CacheError, match="holds another render"):
        Render.create(render.root, {**CONTENT, "encoder": "cd"})


def test_frame_of_another_render_or_number_is_not_read(render, tmp_path, data, grid):
    render = FrameFolder.open(render.root)
    other = FrameFolder.create(tmp_path / "other", {**CONTENT, "encoder": "cd"})
    other.write_frame(0, data, grid)
    other.frame_path(1).write_bytes(other.frame_path(0).read_bytes())
    assert other.missing() == [1, 2]
    render.frame_path(0).parent.mkdir()
    render.frame_path(0).write_bytes(other.frame_path(0).read_bytes())
    assert render.missing() == [0, 1, 2]
    with pytest.raises(CacheError, match="made from another render"):
        render.read_frame(0)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"encoder":"ab"', '"encoder":"cd"', "its key is not that of its content"),
        ('"schema":2', '"schema":9', "another version of lift3d"),
        ('"facts":{', '"notes":{', "not a manifest"),
        ("}", "", "damaged"),
    ],
)
def test_altered_manifest_is_refused(render, old, new, reason):
    manifest = render.root / "manifest.json"
    assert old in manifest.read_text()
    manifest.write_text(manifest.read_text().replace(old, new))
    with pytest.raises(CacheError, match=rf"manifest\.json: .*{reason}.*hint: lift3d render"):
        Render.open(render.root)


@pytest.mark.parametrize("change", [{"frames": -1}, {"frames": 10**12}, {"frames": "3"}, {"dtype": ["fp16"]}])
def test_impossible_number_of_frames_or_dtype_is_refused(tmp_path, change):
    content = {**CONTENT, **change}
    with pytest.raises(ValueError, match="number of frames or their dtype"):
        Render.create(tmp_path, content)
    text = document_json("render", key=render_key(content), content=content, facts={})
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(CacheError, match="number of frames or their dtype"):
        Render.open(tmp_path)


def test_open_without_a_render_says_how_to_make_one(tmp_path):
    with pytest.raises(CacheError, match=r"manifest\.json: not there\. hint: lift3d render"):
        Render.open(tmp_path)


@pytest.fixture
def full(cache, encoder, photo, data, grid, render) -> SceneCache:
    cache.write_features(encoder, photo, data, grid)
    cache.write_features(replace(encoder, dtype="fp32"), photo, data, grid)
    cache.write_photo(photo, np.zeros((2, 2, 3), np.uint8), np.ones((2, 2), bool), np.ones((2, 2), bool))
    cache.write_arrays("points", "ab" * 32, {"xyz": np.zeros((1, 3))})
    render.write_frame(0, data, grid)
    render.color_path(0).parent.mkdir()
    render.color_path(0).write_bytes(b"png")
    return cache


def test_inventory_counts_every_byte_but_once(full):
    holdings = inventory(full.root)
    assert sorted(h.kind for h in holdings) == ["arrays", "features", "features", "photos", "render"]
    assert sorted(h.encoder.dtype for h in holdings if h.encoder) == ["fp16", "fp32"]
    assert [h.num_files for h in holdings] == [1] * 5
    assert sum(h.num_bytes for h in holdings) == sum(p.stat().st_size for p in full.root.rglob("*") if p.is_file())


def test_inventory_says_which_features_cannot_be_used(full, encoder):
    (full.root / "feats" / encoder.folder / "encoder.json").write_text("{}")
    problems = [h.problem for h in inventory(full.root) if h.problem]
    assert len(problems) == 1
    assert "not made by lift3d" in problems[0]


def test_inventory_of_no_cache_is_empty(tmp_path):
    assert inventory(tmp_path / "none") == []
    assert prune(tmp_path / "none", []) == 0


def test_prune_keeps_exactly_what_it_is_told(full, encoder, photo, render):
    kept = full.features_path(encoder, photo)
    before = sum(p.stat().st_size for p in full.root.rglob("*") if p.is_file())
    freed = prune(full.root, [kept])
    left = sorted(p for p in full.root.rglob("*") if p.is_file())
    assert left == sorted([kept, kept.parent / "encoder.json"])
    assert freed == before - sum(p.stat().st_size for p in left)
    assert not render.root.exists()
    assert not (full.root / "photos").exists()


def test_prune_keeps_whole_folders(full, render):
    prune(full.root, [render.root])
    assert FrameFolder.open(render.root).missing() == [1, 2]
    assert render.color_path(0).exists()
    assert not (full.root / "feats").exists()


def test_prune_leaves_foreign_files_and_links_alone(full, tmp_path):
    outside = tmp_path / "precious" / "model.safetensors"
    outside.parent.mkdir()
    outside.write_bytes(b"weights")
    (full.root / "feats" / "link").symlink_to(outside.parent)
    (full.root / "notes.txt").write_text("mine")
    prune(full.root, [])
    assert outside.exists()
    assert (full.root / "notes.txt").exists()
