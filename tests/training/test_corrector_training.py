"""Training the corrector: what it learns from, that it learns, and `train` from settings to weights."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from lift3d_cli.cache.location import cache_dir
from lift3d_cli.cache.store import SceneCache
from lift3d_cli.config import RenderConfig, TrainConfig
from lift3d_cli.errors import ModelError, ResourceError, SceneError
from lift3d_cli.lifting.network import Lift3DNetwork
from lift3d_cli.pipeline.renderers import load_network, make_renderer
from lift3d_cli.scene.load import load_scene
from lift3d_cli.training import corrector
from lift3d_cli.training.corrector import CorrectorTask, PredictionTask, disturb
from lift3d_cli.training.curves import CURVES
from lift3d_cli.training.loop import CHECKPOINT, TrainingRun
from lift3d_cli.training.train import train, train_command
from lift3d_cli.training.training_surfaces import split_targets
from lift3d_cli.weights import read_manifest

CPU = torch.device("cpu")


@pytest.fixture
def config(wall_scene, model_ref, tmp_path, monkeypatch) -> TrainConfig:
    monkeypatch.setattr(corrector, "_HEIGHTS", ((72, range(1, 1000)),))
    return TrainConfig(
        "corrector", (wall_scene,), (wall_scene,), (model_ref,), run=tmp_path / "run", examples=2, steps=2,
        evaluate_every=2, device="cpu", weights="none",
    )  # fmt: skip


def test_examples_are_the_same_for_the_same_seed(config):
    network = Lift3DNetwork()
    one, again = (CorrectorTask(config, network, CPU) for _ in range(2))
    losses = [task.loss(random.Random(5), 0).item() for task in (one, again)]
    assert losses[0] == losses[1]


def test_truth_and_blend_of_an_example_belong_together(config):
    # On the wall, the untrained renderer's blend is near the truth: nothing is shifted against each other.
    task = CorrectorTask(config, Lift3DNetwork(), CPU)
    scores = task.scores()
    assert scores["blended_scene"] < 0.1
    assert set(scores) == {"blended_scene", "corrected_scene"}


def test_examples_are_rendered_from_surfaces_of_photos_that_are_never_left_out(config, scene_dir):
    config = replace(config, scenes=(scene_dir,), held_out=(), weights="", examples=4)
    CorrectorTask(config, load_network("")[0], CPU)
    cache, views = SceneCache(cache_dir(scene_dir).path), load_scene(scene_dir).views
    targets, others = split_targets(len(views))
    assert any(cache.surface_paths(views[i].name) for i in others)
    assert not any(cache.surface_paths(views[i].name) for i in targets)


def test_only_the_corrector_learns(config):
    network = Lift3DNetwork()
    before = {name: t.clone() for name, t in network.state_dict().items()}
    TrainingRun(config, CorrectorTask(config, network, CPU)).advance()
    changed = {n.split(".")[0] for n, t in network.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == {"corrector"}


def test_the_head_of_feature_prediction_learns_and_nothing_else(config):
    network = Lift3DNetwork()
    task = PredictionTask(config, network, CPU)
    before = {name: t.clone() for name, t in network.state_dict().items()}
    head = [p.clone() for p in task.prediction.parameters()]
    TrainingRun(config, task).advance()
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())
    assert any(not torch.equal(a, b) for a, b in zip(head, task.prediction.parameters(), strict=True))


def test_disturbed_maps_differ_in_one_photo_only():
    maps = torch.randn(4, 3, 8, 8)
    for seed in range(10):
        got = disturb(maps, random.Random(seed))
        assert ((got != maps).flatten(1).any(1)).sum() <= 1


def test_corrector_without_a_model_is_refused(config):
    with pytest.raises(ModelError, match="hint: --model"):
        CorrectorTask(TrainConfig("corrector", config.scenes), Lift3DNetwork(), CPU)


def test_train_writes_weights_that_render_and_says_how_they_came_about(config, tmp_path):
    rows = []
    path = train(config, rows.append)
    assert path == config.run / "weights.safetensors"
    assert [row["step"] for row in rows] == [2]
    assert (config.run / CHECKPOINT).exists()
    assert (config.run / CURVES).read_text().startswith("step,minutes,loss,")
    facts = read_manifest(config.run)["weights.safetensors"]
    assert facts["command"] == train_command(config)
    assert "corrected_scene" in facts["scores"]
    load_network(str(path))
    assert make_renderer(RenderConfig(weights=str(path))).corrector is not None


def test_train_does_not_write_over_another_training(config):
    train(config, lambda row: None)
    with pytest.raises(ResourceError, match=r"has a training already\. hint: --resume"):
        train(config, lambda row: None)


def test_nothing_to_learn_from_is_refused():
    with pytest.raises(SceneError, match="nothing to learn from"):
        train(TrainConfig(weights="none"), lambda row: None)
