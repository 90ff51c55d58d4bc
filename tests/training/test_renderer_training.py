"""Training the renderer: it learns from colour and depth, and only what it is to learn."""

from __future__ import annotations

import math
import random

import pytest
import torch

from lift3d_cli.config import TrainConfig
from lift3d_cli.errors import SceneError
from lift3d_cli.lifting.network import Lift3DNetwork
from lift3d_cli.training.loop import Run
from lift3d_cli.training.renderer import RendererTask, loss_of, render_crop
from lift3d_cli.training.renderer_data import Example, ProceduralScenes, crop, true_positions

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def example() -> Example:
    return ProceduralScenes(seed=3).draw(random.Random(1))


def test_a_procedural_example_is_whole(example):
    assert example.image.shape[1:] == example.counts.shape == example.depth.shape
    assert example.counts.shape == (example.target.height, example.target.width)
    assert 2 <= len(example.sources.cameras) <= 7
    assert example.depth_range[0] <= example.depth.min()
    assert example.depth.max() <= example.depth_range[1]


def test_a_procedural_example_depends_on_seed_number_and_step_alone(example):
    again = ProceduralScenes(seed=3)
    again.draw(random.Random(7))  # what was drawn before does not matter
    torch.testing.assert_close(again.draw(random.Random(1)).image, example.image, rtol=0, atol=0)
    other = ProceduralScenes(seed=4).draw(random.Random(1))
    assert other.image.shape != example.image.shape or not torch.equal(other.image, example.image)


def test_a_crop_shows_what_the_whole_picture_shows_there(example):
    K = torch.tensor([[50.0, 0, 100], [0, 50, 80], [0, 0, 1]]).numpy()
    camera = type(example.target)(K, example.target.w2c, 200, 160)
    v, u = torch.meshgrid(torch.arange(160.0), torch.arange(200.0), indexing="ij")
    image = torch.stack([u, v, u * 0])
    known = torch.ones(160, 200, dtype=torch.bool)
    part = crop(Example(camera, example.sources, (1, 2), image, known, None), random.Random(0))
    left, top = part.image[0, 0, 0], part.image[1, 0, 0]
    assert part.target.K[0, 2] == K[0, 2] - float(left)
    assert part.target.K[1, 2] == K[1, 2] - float(top)


def test_true_positions_are_plane_numbers():
    planes = 1 / torch.linspace(1 / 2, 1 / 8, 5)
    got = true_positions(planes[None, :].repeat_interleave(2, 1).repeat(2, 1), 2, (2.0, 8.0), 5)
    torch.testing.assert_close(got, torch.arange(5.0)[None], atol=1e-4, rtol=0)


@pytest.mark.parametrize("single_stage", [False, True])
def test_a_few_steps_on_one_example_lower_its_loss(example, tmp_path, monkeypatch, single_stage):
    task = RendererTask(TrainConfig(run=tmp_path), Lift3DNetwork(), CPU, single_stage)
    monkeypatch.setattr(task._procedural, "draw", lambda rng, step: example)
    voxels_per_plane = None if single_stage else 1.25

    def loss() -> float:
        with torch.no_grad():
            return float(loss_of(*render_crop(task.network, example, voxels_per_plane), example))

    run, before = Run(TrainConfig(steps=1000, run=tmp_path), task), loss()
    for _ in range(4):
        run.step = 100  # past the warm-up
        run.advance()
    assert loss() < before


def test_only_the_part_that_is_trained_changes(example, tmp_path, monkeypatch):
    for single_stage, learning in ((False, {"pyramid", "regularizer", "blending"}), (True, {"blending"})):
        network = Lift3DNetwork()
        for parameter in network.parameters():  # last layers at zero stop the gradient
            torch.nn.init.normal_(parameter, std=0.1)
        before = {name: t.clone() for name, t in network.state_dict().items()}
        task = RendererTask(TrainConfig(run=tmp_path), network, CPU, single_stage)
        monkeypatch.setattr(task._procedural, "draw", lambda rng, step: example)
        Run(TrainConfig(run=tmp_path), task).advance()
        changed = {n.split(".")[0] for n, t in network.state_dict().items() if not torch.equal(t, before[n])}
        assert changed == learning


def test_example_without_a_known_pixel_is_passed_over(example, tmp_path, monkeypatch):
    task = RendererTask(TrainConfig(run=tmp_path), Lift3DNetwork(), CPU)
    unknown = Example(*(getattr(example, f) for f in ("target", "sources", "depth_range", "image")), example.counts & False, None)  # fmt: skip  # noqa: E501
    monkeypatch.setattr(task._procedural, "draw", lambda rng, step: unknown)
    assert math.isnan(Run(TrainConfig(run=tmp_path), task).advance())


def test_folder_without_photos_for_textures_is_refused(tmp_path):
    with pytest.raises(SceneError, match=r"has no \.jpg photos"):
        RendererTask(TrainConfig(textures=tmp_path), Lift3DNetwork(), CPU)
