"""Training the colorizer: its batches, its loss under a move, and that only better weights are published."""

from __future__ import annotations

import json
import random

import cv2
import numpy as np
import pytest
import torch
from learning import share_left, write_photos

from lift3d_cli.config import TrainConfig
from lift3d_cli.errors import SceneError
from lift3d_cli.models.builtin.tiny_colorizer import ColorizerNet, TinyColorizer
from lift3d_cli.training import colorizer, loop
from lift3d_cli.weights import read_manifest


def _photo(seed: int) -> np.ndarray:
    """A blue sky above green ground of some relief, uint8 [100, 120, 3]."""
    noise = np.random.default_rng(seed).integers(-40, 40, (5, 6, 1)).astype(np.float32)
    relief = cv2.resize(noise, (120, 100), interpolation=cv2.INTER_CUBIC)[..., None]
    ground = np.arange(100)[:, None, None] > 50
    return (np.where(ground, (60, 130, 50), (110, 160, 220)) + relief).clip(0, 255).astype(np.uint8)


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos", _photo, 4)


@pytest.fixture
def small(monkeypatch):
    """Batches of a size for tests."""
    monkeypatch.setattr(colorizer, "_BATCH", 2)
    monkeypatch.setattr(colorizer, "_CROP_PX", 64)


def _config(tmp_path, **other) -> TrainConfig:
    settings = {"steps": 2, "evaluate_every": 2, "output": tmp_path / "out" / "w.safetensors"}
    return TrainConfig("colorizer", run=tmp_path / "run", **(settings | other))


def test_batch_depends_on_its_seed_only_and_is_in_labs_units(small):
    photos = [_photo(i) for i in range(3)]
    (light, ab), (again, _), (other, _) = (colorizer.make_batch(photos, random.Random(seed)) for seed in (1, 1, 2))
    assert (light.shape, ab.shape) == ((2, 1, 64, 64), (2, 2, 64, 64))
    assert torch.equal(light, again)
    assert not torch.equal(light, other)
    assert 0 <= light.min() < light.max() <= 100
    assert ab.abs().max() > 10


def test_rare_colours_weigh_more_and_the_mean_is_one():
    weights = colorizer.color_weights([_photo(0)])
    assert weights.shape == (81,)
    assert weights.max() > 3 * weights.min()


def test_loss_of_features_moved_by_a_whole_cell_is_that_of_the_photo_cut_there(small):
    torch.manual_seed(0)
    net, weights = ColorizerNet().eval(), torch.ones(81)
    torch.nn.init.normal_(net.decoder[-1].weight)
    flat = torch.full((1, 1, 64, 64), 50.0)  # the same features everywhere, away from the border
    ab = torch.zeros(1, 2, 64, 64)
    ab[..., 32:, :] = 40.0
    with torch.no_grad():
        still = colorizer.loss_on(net, flat, ab, (0, 0), weights)
        moved = colorizer.loss_on(net, flat, ab.roll(4, 2), (0, 4), weights)
    torch.testing.assert_close(moved, still, rtol=0.05, atol=0)


def test_a_few_steps_lower_the_loss(small, tmp_path, monkeypatch):
    monkeypatch.setattr(loop.TrainingTask, "warm_up_steps", 1)
    torch.manual_seed(0)
    task = colorizer.ColorizerTask([_photo(i) for i in range(4)], [], 20)
    run = loop.TrainingRun(_config(tmp_path, steps=40, learning_rate=5e-3), task)
    assert share_left(run, 20) < 0.7


def test_weights_are_published_with_how_they_came_about_and_worse_ones_are_not(
    small, photos, tmp_path, monkeypatch, capsys
):
    colorizer.train(photos, _config(tmp_path), "skies")
    path = tmp_path / "out" / "w.safetensors"
    first, facts = path.read_bytes(), read_manifest(path.parent)[path.name]
    TinyColorizer(str(path))
    assert facts["command"] == (
        "python -m lift3d_cli.training.colorizer --photos PHOTOS --steps 2 --learning-rate 0.001 --seed 0"
    )
    assert facts["data"] == "skies (4 photos; 2)"
    monkeypatch.setattr(colorizer, "held_out_scores", lambda net, photos: {"ab_error": 9.0})
    colorizer.train(photos, _config(tmp_path, seed=1), "skies")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["published"] for line in lines if "published" in line] == [True, False]
    assert lines[-1]["new"] == lines[-1]["there"] == {"ab_error": 9.0}
    assert path.read_bytes() == first


def test_folder_without_photos_is_refused_in_one_line(tmp_path):
    with pytest.raises(SceneError, match="has no photos to learn from"):
        colorizer.train(tmp_path, _config(tmp_path), "nothing")
