"""Packed scenes are the scenes, smaller; and the kit for a bare GPU machine is whole."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import plane_world
import pytest
import safetensors.torch
import torch
from PIL import Image

from lift3d_cli.errors import SceneError
from lift3d_cli.scene.load import load_scene
from lift3d_cli.scene.photos import read_photo
from lift3d_cli.training import gpu_kit, gpu_results
from lift3d_cli.training.pack import chosen_photos, pack_scene


def test_packed_scene_has_the_same_cameras_and_photos_at_its_size(scene_dir, tmp_path):
    size = pack_scene(scene_dir, tmp_path / "packed", max_size=48, quality=95)
    whole, packed = load_scene(scene_dir), load_scene(tmp_path / "packed")
    assert size == sum(p.stat().st_size for p in (tmp_path / "packed").rglob("*") if p.is_file())
    assert len(packed.views) == len(whole.views)
    for before, after in zip(whole.views, packed.views, strict=True):
        assert (after.camera.width, after.camera.height) == (48, 36)
        np.testing.assert_allclose(after.camera.w2c, before.camera.w2c, atol=1e-9)
        np.testing.assert_allclose(after.camera.K, before.camera.resized(48, 36).K, atol=1e-9)
        small = Image.fromarray(read_photo(before).image).resize((48, 36), Image.Resampling.BOX)
        # Of lightness, as JPEG keeps half of the colours' pixels each way.
        lightness = [np.asarray(x.convert("L"), float) for x in (small, Image.fromarray(read_photo(after).image))]
        assert np.abs(lightness[0] - lightness[1]).mean() < 6


def test_packed_points_are_near_the_surface(scene_dir, tmp_path):
    pack_scene(scene_dir, tmp_path / "packed", max_size=96, quality=95)
    points = load_scene(tmp_path / "packed").points
    assert len(points) > 20
    assert np.median(np.abs(points[:, 2])) < 0.05  # the wall is at z = 0


def test_masked_pixels_stay_masked(scene_dir, tmp_path):
    data = json.loads((scene_dir / "transforms.json").read_text())
    mask = np.full((72, 96), 255, np.uint8)
    mask[:, :48] = 0
    Image.fromarray(mask).save(scene_dir / "mask.png")
    data["frames"][0]["mask_path"] = "mask.png"
    (scene_dir / "transforms.json").write_text(json.dumps(data))
    pack_scene(scene_dir, tmp_path / "packed", max_size=48, quality=95)
    valid = read_photo(load_scene(tmp_path / "packed").views[0]).valid
    assert not valid[:, :24].any()
    assert valid[:, 25:].all()


@pytest.mark.parametrize(("number", "most"), [(5, 0), (5, 8), (100, 10), (31, 30)])
def test_chosen_photos_are_at_most_as_many_and_have_neighbours(number, most):
    chosen = chosen_photos(number, most)
    assert len(chosen) == len(set(chosen)) <= (most or number)
    assert {0, number - 1} <= set(chosen)
    assert any(b - a == 1 for a, b in itertools.pairwise(chosen))


@pytest.fixture
def material(tmp_path) -> tuple[Path, Path]:
    """A folder of one scene to train on and one to evaluate on, and a folder of photos."""
    for name in ("wall", gpu_kit.DEVELOPMENT[0]):
        plane_world.write_scene(tmp_path / "scenes" / name, plane_world.rig(9))
    (tmp_path / "photos").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photos" / "a.jpg")
    return tmp_path / "scenes", tmp_path / "photos"


def test_kit_without_scenes_or_too_large_is_refused_in_one_line(material, tmp_path, monkeypatch):
    with pytest.raises(SceneError, match="need folders of scenes"):
        gpu_kit.make_kit(tmp_path / "kit", tmp_path / "none", material[1])
    monkeypatch.setattr(gpu_kit, "MAX_BYTES", 1000)
    with pytest.raises(SceneError, match="MiB, more than"):
        gpu_kit.make_kit(tmp_path / "kit", *material)


@pytest.mark.slow
def test_kit_trains_evaluates_and_goes_on_where_it_was(material, tmp_path):
    """The whole of it, without a GPU and small, as it will be run: twice."""
    sizes = gpu_kit.make_kit(tmp_path / "kit", *material)
    assert sizes["total"] < gpu_kit.MAX_BYTES
    small = {"BATCH": "1", "EVAL_HEIGHT": "48", "SIZE": "48", "ROUNDS": "1", "TOTAL": "0.5", "WORKERS": "1"}
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **small}
    for minutes in ("0.25", "0.25"):
        call = ["bash", tmp_path / "kit" / "run.sh", minutes, tmp_path / "out"]
        subprocess.run(call, env=environment, check=True, capture_output=True, timeout=600)
    out = tmp_path / "out"
    log = (out / "log.txt").read_text()
    assert log.count("training, batch 1: exit 0") == 2
    assert "exit 1" not in log
    assert len(list(out.iterdir())) <= 8
    with safetensors.safe_open(out / "state.safetensors", "pt") as file:
        assert 25 < float(file.metadata()["seconds"]) < 60
    found = json.loads((out / "figures.json").read_text())
    assert {"before", "after", "training_speed", "frame_steps"} <= set(found)
    assert found["after"]["mean"]["psnr"] > 15
    assert Image.open(out / "sheet.jpg").width > 100
    assert load_weights_of(out / "weights.safetensors")


def load_weights_of(path: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(path)


def test_weights_of_a_state_are_its_averages(tmp_path):
    state = {"network.a": torch.zeros(2), "average.a": torch.ones(2), "network.b": torch.full((2,), 3.0)}
    safetensors.torch.save_file({**state, "optimizer.exp_avg.a": torch.ones(2)}, tmp_path / "state.safetensors")
    gpu_results.weights(str(tmp_path / "state.safetensors"), str(tmp_path / "weights.safetensors"))
    got = load_weights_of(tmp_path / "weights.safetensors")
    assert {name: float(t[0]) for name, t in got.items()} == {"a": 1, "b": 3}
    assert got["a"].dtype == torch.float16


@pytest.mark.parametrize(("seconds", "want"), [(None, 12), (480, 12), (720, 16), (600, 14)])
def test_schedule_is_as_planned_or_as_long_as_this_call_needs(tmp_path, capsys, seconds, want):
    path = tmp_path / "checkpoint.safetensors"
    if seconds is not None:
        safetensors.torch.save_file({"a": torch.zeros(1)}, path, {"seconds": str(seconds)})
    gpu_results.total(str(path), "4", "12")
    assert float(capsys.readouterr().out) == want
