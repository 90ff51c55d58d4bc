"""Training the style network: what is drawn, what is compared, and that it learns."""

from __future__ import annotations

import json
import random

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch
from learning import share_left, write_photos

from lift3d_cli.config import TrainConfig
from lift3d_cli.errors import ModelError
from lift3d_cli.models.builtin.style import Style
from lift3d_cli.training import loop, style
from lift3d_cli.weights import read_manifest


def _photo(seed: int) -> np.ndarray:
    """Soft blobs of colour, uint8 [60, 70, 3]."""
    noise = np.random.default_rng(seed).integers(0, 256, (5, 6, 3)).astype(np.uint8)
    return cv2.resize(noise, (70, 60), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def vgg_file(tmp_path):
    """Random weights of VGG's layout and scale."""
    torch.manual_seed(3)
    state = {}
    for name, inputs, outputs in style.Vgg._WIDTHS:
        state[f"{name}.weight"] = torch.randn(outputs, inputs, 3, 3).half() * (2 / (9 * inputs)) ** 0.5
        state[f"{name}.bias"] = torch.zeros(outputs).half()
    path = tmp_path / "models" / "vgg19_relu3_1.safetensors"
    path.parent.mkdir()
    safetensors.torch.save_file(state, path)
    return path


@pytest.fixture
def small(monkeypatch):
    """Crops and picture of a size for tests."""
    drawn = style.style_picture(64)
    monkeypatch.setattr(style, "_CROP_PX", 32)
    monkeypatch.setattr(style, "style_picture", lambda: drawn)


def test_the_style_picture_is_the_same_every_time_and_has_all_colours():
    picture = style.style_picture(96)
    assert np.array_equal(picture, style.style_picture(96))
    for color in style._PALETTE:
        assert (np.abs(picture.astype(int) - color).max(-1) < 45).mean() > 0.01


def test_gram_forgets_where_things_are():
    features = torch.rand(1, 4, 5, 6)
    shuffled = features.flatten(2)[..., torch.randperm(30)].reshape(features.shape)
    torch.testing.assert_close(style.gram(features), style.gram(shuffled))


def test_a_photo_has_its_own_content_and_the_style_picture_its_own_style(vgg_file, small):
    task = style.StyleTask([_photo(0)], [], style.Vgg(vgg_file), 10)
    photo, picture = (
        torch.from_numpy(x.transpose(2, 0, 1).copy())[None].float() / 255 for x in (_photo(0), style.style_picture())
    )
    content, of_photo, _ = task.errors(photo, photo)
    assert content == 0
    _, of_picture, _ = task.errors(picture, picture)
    assert of_picture < 1e-8 < of_photo


def test_statistics_of_batchnorm_are_frozen_in_the_second_half(vgg_file, small):
    task = style.StyleTask([_photo(0)], [], style.Vgg(vgg_file), 10)
    for step, changes in ((0, True), (9, False)):
        before = {name: t.clone() for name, t in task.network.named_buffers() if "running" in name}
        task.loss(random.Random(0), step)
        changed = any(not torch.equal(t, before[n]) for n, t in task.network.named_buffers() if n in before)
        assert changed == changes


def test_a_few_steps_bring_the_style_nearer(vgg_file, small, tmp_path, monkeypatch):
    monkeypatch.setattr(loop.TrainingTask, "warm_up_steps", 1)
    monkeypatch.setattr(loop, "FROZEN_FROM", 1)  # a few steps know no statistics
    torch.manual_seed(0)
    task = style.StyleTask([_photo(i) for i in range(4)], [_photo(9)], style.Vgg(vgg_file), 30)
    run = loop.TrainingRun(TrainConfig("style", run=tmp_path, steps=30, learning_rate=1e-2), task)
    assert share_left(run, 16) < 0.7


def test_train_writes_weights_that_paint_and_how_they_came_about(vgg_file, small, tmp_path, capsys):
    path = tmp_path / "out" / "style.safetensors"
    config = TrainConfig("style", run=tmp_path / "run", output=path, steps=2, evaluate_every=2)
    style.train(write_photos(tmp_path / "photos", _photo, 4), vgg_file, config, "blobs")
    assert [json.loads(line)["step"] for line in capsys.readouterr().out.splitlines()] == [2]
    model = Style(str(path)).eval()
    assert model.encode(torch.rand(3, 20, 20)).data.shape == (64, 5, 5)
    facts = read_manifest(path.parent)[path.name]
    assert set(facts["scores"]) == {"content", "style", "style_of_photo"}
    assert "--models FOLDER" in facts["command"]


def test_other_weights_than_vggs_are_one_line(tmp_path):
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="not the weights of VGG-19"):
        style.Vgg(tmp_path / "other.safetensors")
