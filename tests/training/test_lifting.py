"""Training the rendering network: it learns, and a resumed run is the run."""

from __future__ import annotations

import random

import torch

from lift3d_cli.training.lifting import Run, TrainConfig, loss_of, render_crop
from lift3d_cli.training.lifting_data import Example, ProceduralScenes, crop, true_positions


def example() -> Example:
    return ProceduralScenes(seed=3).draw(random.Random(1))


def test_a_procedural_example_is_whole():
    got = example()
    assert got.image.shape[1:] == got.counts.shape == got.depth.shape == (got.target.height, got.target.width)
    assert 2 <= len(got.sources.cameras) <= 7
    assert got.depth_range[0] <= got.depth.min()
    assert got.depth.max() <= got.depth_range[1]


def test_a_crop_shows_what_the_whole_picture_shows_there():
    K = torch.tensor([[50.0, 0, 100], [0, 50, 80], [0, 0, 1]]).numpy()
    whole = example()
    camera = type(whole.target)(K, whole.target.w2c, 200, 160)
    v, u = torch.meshgrid(torch.arange(160.0), torch.arange(200.0), indexing="ij")
    image = torch.stack([u, v, u * 0])
    part = crop(
        Example(camera, whole.sources, (1, 2), image, torch.ones(160, 200, dtype=torch.bool), None), random.Random(0)
    )
    left, top = part.image[0, 0, 0], part.image[1, 0, 0]
    assert part.target.K[0, 2] == K[0, 2] - float(left)
    assert part.target.K[1, 2] == K[1, 2] - float(top)


def test_true_positions_are_plane_numbers():
    planes = 1 / torch.linspace(1 / 2, 1 / 8, 5)
    got = true_positions(planes[None, :].repeat_interleave(2, 1).repeat(2, 1), 2, (2.0, 8.0), 5)
    torch.testing.assert_close(got, torch.arange(5.0)[None], atol=1e-4, rtol=0)


def test_a_few_steps_on_one_example_lower_its_loss():
    one = example()
    run = Run(TrainConfig(steps=1000))
    before = loss_of(*render_crop(run.network, one, 32), one).item()
    for _ in range(3):
        run.step = 100  # past the warm-up
        run.advance(one, random.Random(0))
    assert loss_of(*render_crop(run.network, one, 32), one).item() < before


def test_a_resumed_run_takes_the_same_step_as_the_one_that_went_on(tmp_path):
    one = example()
    config = TrainConfig(run=tmp_path, steps=10)
    run = Run(config)
    run.advance(one, random.Random(0))
    run.save()
    run.advance(one, random.Random(1))
    resumed = Run(TrainConfig(run=tmp_path, steps=10, resume=True))
    assert resumed.step == 1
    resumed.advance(one, random.Random(1))
    for a, b in zip(run.network.parameters(), resumed.network.parameters(), strict=True):
        torch.testing.assert_close(a, b)
