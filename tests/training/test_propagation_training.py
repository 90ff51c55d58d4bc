"""Training of the propagation: from procedural photos and from scenes with depth, and what it refuses."""

from __future__ import annotations

import json
import random

import numpy as np
import plane_world
import pytest
import torch

from lift3d_cli.config import TrainConfig
from lift3d_cli.errors import ModelError, SceneError
from lift3d_cli.lifting.network import Lift3DNetwork
from lift3d_cli.training.propagation import PropagationTask

CPU = torch.device("cpu")


def task_of(**settings) -> PropagationTask:
    torch.manual_seed(0)
    return PropagationTask(TrainConfig(part="propagation", height=96, **settings), Lift3DNetwork(), CPU)


def test_only_the_propagation_learns_and_the_cost_of_an_example_falls():
    task = task_of()
    learned = [name for name, p in task.network.named_parameters() if p.requires_grad]
    assert learned
    assert all(name.startswith("propagation.") for name in learned)
    optimizer = torch.optim.Adam((p for p in task.network.parameters() if p.requires_grad), 2e-3)
    losses = []
    for _ in range(25):
        loss = task.loss(random.Random(1), 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.95 * losses[0]


def test_an_example_depends_on_the_random_numbers_and_the_step_only():
    one, other = (float(task_of().loss(random.Random(3), 40).detach()) for _ in range(2))
    assert one == other


def test_without_weights_of_stage_1_there_is_nothing_to_learn_from():
    with pytest.raises(ModelError, match="what Stage I finds"):
        task_of(weights="none")


@pytest.fixture(scope="module")
def with_depth(tmp_path_factory):
    root = tmp_path_factory.mktemp("depth") / "scene"
    cameras = plane_world.rig(5)
    plane_world.write_scene(root, cameras, plane_world.WALL_AND_CARD)
    data = json.loads((root / "transforms.json").read_text())
    for number, (camera, frame) in enumerate(zip(cameras, data["frames"], strict=True)):
        np.save(root / f"{number}.npy", plane_world.photograph(camera, plane_world.WALL_AND_CARD)[1].astype(np.float32))
        frame["depth_file_path"] = f"{number}.npy"
    (root / "transforms.json").write_text(json.dumps(data))
    return root


def test_scenes_with_depth_are_learned_from_and_scored(with_depth):
    task = task_of(scenes=(with_depth,), held_out=(with_depth,), procedural=0.0)
    assert torch.isfinite(task.loss(random.Random(2), 0))
    before, after = task.scores()["found_scene"], task.scores()["propagated_scene"]
    assert 0 < before < 0.4
    assert after == before  # untrained, nothing moves
    torch.nn.init.constant_(task.network.propagation.affinity.bias, 0.0)
    task.network.propagation.affinity.bias.data[-1] = 9.0
    assert task.scores()["propagated_scene"] > before  # everything takes over what is far down to the right


def test_a_scene_without_depth_is_refused_in_one_line(tmp_path):
    root = plane_world.write_scene(tmp_path / "scene", plane_world.rig(3))
    with pytest.raises(SceneError, match="no photo has depth to learn from"):
        task_of(scenes=(root,))
