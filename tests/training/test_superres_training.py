"""Training the super-resolution: its data is aligned, it learns, and only better weights are published."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from learning import write_photos

from lift3d_cli.config import TrainConfig
from lift3d_cli.models.builtin.tiny_superres import SuperresNet, TinySuperres
from lift3d_cli.training import loop, superres
from lift3d_cli.training.photo_set import moved
from lift3d_cli.weights import read_manifest


def _stripes(seed: int) -> np.ndarray:
    """Sharp stripes of random directions and colours, uint8 [120, 130, 3]."""
    rng = np.random.default_rng(seed)
    v, u = np.mgrid[:120, :130]
    wave = np.sin(u * rng.uniform(0.2, 0.6) + v * rng.uniform(-0.6, 0.6))[..., None]
    dark, light = rng.integers(0, 100, 3), rng.integers(150, 256, 3)
    return (dark + (light - dark) * (3 * wave + 0.5).clip(0, 1)).astype(np.uint8)


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos", _stripes, 6)


def _config(tmp_path, **other) -> TrainConfig:
    settings = {"steps": 60, "evaluate_every": 60, "learning_rate": 3e-3, "output": tmp_path / "out" / "w.safetensors"}
    return TrainConfig("superres", run=tmp_path / "run", **(settings | other))


def test_a_pixel_of_the_small_picture_lies_on_its_four_of_the_large_one():
    large = torch.zeros(1, 3, 32, 32)
    large[..., 12:14, 20:22] = 1
    rows = superres.smaller(large)[0, 0]
    assert divmod(int(rows.argmax()), 16) == (6, 10)
    torch.testing.assert_close(rows[5], rows[7])
    torch.testing.assert_close(rows[:, 9], rows[:, 11])


def test_moved_features_are_those_further_right_and_down():
    features = torch.rand(1, 2, 6, 7)
    torch.testing.assert_close(moved(features, (1, 0))[..., :-1], features[..., 1:])
    torch.testing.assert_close(moved(features, (0, 2))[..., :-2, :], features[..., 2:, :])
    half = (features[..., 1:] + features[..., :-1]) / 2
    torch.testing.assert_close(moved(features, (0.5, 0))[..., :-1], half)


def test_worn_pictures_are_softer_but_no_darker():
    small = torch.from_numpy(_stripes(0).transpose(2, 0, 1).copy())[None].float() / 255
    out = superres.worn(small, random.Random(1))
    assert out.shape == small.shape
    assert out.std() < small.std()
    torch.testing.assert_close(out.mean(), small.mean(), atol=0.01, rtol=0)


def test_untrained_network_is_bicubic_interpolation():
    scores = superres.held_out_scores(SuperresNet(), [_stripes(0)])
    assert scores["psnr"] == scores["psnr_bicubic"] == scores["psnr_moved"]


def test_loss_of_a_step_depends_on_its_seed_only():
    torch.manual_seed(0)
    task = superres.SuperresTask([_stripes(i) for i in range(3)], [])
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(task.loss(random.Random(seed), 0).item())
    assert losses[0] == losses[1] != losses[2]


def test_a_few_steps_beat_bicubic_on_pictures_of_the_same_kind(monkeypatch, tmp_path, photos, capsys):
    monkeypatch.setattr(loop.TrainingTask, "warm_up_steps", 5)
    for name, value in (("_BATCH", 4), ("_CROP_PX", 24), ("_WORN_SHARE", 0)):
        monkeypatch.setattr(superres, name, value)
    superres.train(photos, _config(tmp_path), "stripes")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0]["step"] == 60
    assert lines[-1]["published"]
    assert lines[-1]["new"]["psnr"] > lines[-1]["new"]["psnr_bicubic"] + 0.2
    path = tmp_path / "out" / "w.safetensors"
    TinySuperres(str(path))
    facts = read_manifest(path.parent)[path.name]
    assert facts["command"] == (
        "python -m lift3d_cli.training.superres --photos PHOTOS --steps 60 --learning-rate 0.003 --seed 0"
    )
    assert facts["data"] == "stripes (6 photos; 2)"
    assert (tmp_path / "run" / loop.CHECKPOINT).exists()


def test_weights_that_are_no_better_are_not_published(monkeypatch, tmp_path, photos):
    monkeypatch.setattr(superres, "_BATCH", 1)
    monkeypatch.setattr(superres, "held_out_scores", lambda net, photos: {"psnr": 20.0, "psnr_bicubic": 20.0})
    superres.train(photos, _config(tmp_path, steps=1), "stripes")
    assert not (tmp_path / "out").exists()
