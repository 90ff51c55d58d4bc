"""Training the renderer: it learns from colour and depth, and only what it is to learn."""

from __future__ import annotations

import functools
import math
import os
import random
import statistics
import time
from dataclasses import replace

import pytest
import torch

from lift3d_cli.config import TrainConfig
from lift3d_cli.errors import SceneError
from lift3d_cli.lifting.network import Lift3DNetwork
from lift3d_cli.lifting.proposal.sweep import Frustum
from lift3d_cli.procedural.stream import StreamSpec
from lift3d_cli.training.batches import Batches
from lift3d_cli.training.loop import TrainingRun
from lift3d_cli.training.procedural_scenes import ProceduralScenes, ProceduralWorkers
from lift3d_cli.training.renderer import RendererTask, loss_of, render_crops, true_positions
from lift3d_cli.training.renderer_data import (
    CPU_CROP,
    CropSize,
    Draw,
    Example,
    assemble,
)

CPU = torch.device("cpu")
TINY = CropSize((16, 12), (24, 16))


# Kept, as making their scenes takes longer than what is tested of them.
scenes = functools.cache(functools.partial(ProceduralScenes, stock=4))


def draw(number: int, size: CropSize = CPU_CROP, seed: int = 3) -> Draw:
    return scenes(seed, size=size).draw(random.Random(number))


def example_of(draws: list[Draw], size: CropSize = CPU_CROP, num_views: int = 0) -> Example:
    views = num_views or max(len(one.sources) for one in draws)
    return assemble(draws, size, views, random.Random(0), CPU)


@pytest.fixture(scope="module")
def example() -> Example:
    return example_of([draw(1)])


def test_a_procedural_example_is_whole(example):
    assert example.image.shape[2:] == example.counts.shape[1:] == example.depth.shape[1:]
    frustum = example.frustum
    assert example.counts.shape[1:] == (frustum.height * frustum.step, frustum.width * frustum.step)
    assert 2 <= example.sources.images.shape[1] <= 7
    assert frustum.near <= example.depth[example.counts].min()
    assert example.depth.max() <= frustum.far


def test_a_procedural_example_depends_on_seed_number_and_count_alone(example):
    again = ProceduralScenes(seed=3, stock=4)
    again.draw(random.Random(7))  # what was drawn before does not matter
    torch.testing.assert_close(example_of([again.draw(random.Random(1))]).image, example.image, rtol=0, atol=0)
    other = example_of([draw(1, seed=4)])
    assert other.image.shape != example.image.shape or not torch.equal(other.image, example.image)


def in_one_batch() -> list[Draw]:
    """Some draws that agree in their step, made to agree in their number of planes.

    In these, hardly a sample lies on the border of a photo, where the last bit of a position decides if it is seen.
    """
    return [replace(draw(number, TINY), step=2, num_planes=32, is_mirrored=number == 5) for number in (4, 5, 9, 10)]


def test_crops_side_by_side_are_rendered_as_each_alone():
    network = Lift3DNetwork()
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    draws = in_one_batch()
    assert len({len(one.sources) for one in draws}) > 1  # some are filled up with sources that see nothing
    batch = example_of(draws, TINY, 8)
    image, swept = render_crops(network, batch)
    for i, one in enumerate(draws):
        alone, its_sweep = render_crops(network, replace(example_of([one], TINY), window=batch.window))
        torch.testing.assert_close(swept.logits[i], its_sweep.logits[0], atol=1e-3, rtol=1e-3)
        # Smaller photos are padded to the size of others, which moves the last bit of a position: at the border of a
        # photo, a sample is then seen by one and not by the other.
        apart = (image[i] - alone[0]).abs()
        assert (apart > 1e-3).float().mean() < 0.01
        assert apart.max() < 0.05
    each = [float(loss_of(image[i : i + 1], None, _part(batch, i)).detach()) for i in range(len(draws))]
    assert float(loss_of(image, None, batch).detach()) == pytest.approx(sum(each) / len(each), rel=1e-5)


def _part(batch: Example, i: int) -> Example:
    return replace(batch, image=batch.image[i : i + 1], counts=batch.counts[i : i + 1])


def test_a_world_in_a_mirror_is_rendered_as_the_mirrored_picture():
    one = replace(draw(5, TINY), is_mirrored=False)
    plain, mirrored = (example_of([replace(one, is_mirrored=flag)], TINY) for flag in (False, True))
    torch.testing.assert_close(mirrored.image, plain.image.flip(-1), rtol=0, atol=0)
    whole = (0, 0, plain.image.shape[3], plain.image.shape[2])
    images = [render_crops(Lift3DNetwork(), replace(x, window=whole))[0] for x in (plain, mirrored)]
    # Not the same to the last bit: positions are computed from the other side.
    assert (images[1] - images[0].flip(-1)).abs().mean() < 2e-3


def test_true_positions_are_plane_numbers():
    planes = 1 / torch.linspace(1 / 2, 1 / 8, 5)
    frustum = Frustum(5, 1, 5, 2, torch.tensor([2.0]), torch.tensor([8.0]))
    got = true_positions(planes[None, None, :].repeat_interleave(2, 2).repeat(1, 2, 1), frustum)
    torch.testing.assert_close(got, torch.arange(5.0)[None, None], atol=1e-4, rtol=0)


@pytest.mark.parametrize("single_stage", [False, True])
def test_a_few_steps_on_one_example_lower_its_loss(tmp_path, monkeypatch, single_stage):
    one = draw(1)
    task = RendererTask(TrainConfig(run=tmp_path), Lift3DNetwork(), CPU, single_stage)
    monkeypatch.setattr(task, "_draw", lambda rng, drawn: one)

    def loss() -> float:
        with torch.no_grad():
            return float(loss_of(*render_crops(task.network, example_of([one]), single_stage), example_of([one])))

    run, before = TrainingRun(TrainConfig(steps=1000, run=tmp_path), task), loss()
    for _ in range(4):
        run.step = 100  # past the warm-up
        run.advance()
    assert loss() < before


def test_the_batched_path_of_a_gpu_lowers_the_loss_on_a_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr("lift3d_cli.training.renderer.CPU_CROP", TINY)
    config = TrainConfig(run=tmp_path, batch=4, seed=3, learning_rate=3e-3, steps=10_000)
    task = RendererTask(config, Lift3DNetwork(), CPU, is_batched=True)
    some = [draw(number, TINY) for number in range(2)]
    monkeypatch.setattr(task, "_draw", lambda rng, drawn: some[rng.randrange(2)])
    run = TrainingRun(config, task)
    run.step = 100
    losses = [run.advance() for _ in range(24)]
    task.close()
    assert statistics.fmean(losses[-8:]) < statistics.fmean(losses[:8])


def test_batches_agree_in_shape_and_are_the_same_for_the_same_numbers():
    firsts = []
    for _ in range(2):
        batches = Batches(lambda number: draw(number, TINY), 3, TINY, CPU, workers=2)
        firsts.append([batches.next() for _ in range(3)])
        batches.close()
    for one, other in zip(*firsts, strict=True):
        assert len(one.image) == len(one.sources.images) == len(one.lines.H) >= 1
        assert torch.equal(one.image, other.image)


def test_only_the_part_that_is_trained_changes(tmp_path, monkeypatch):
    one = draw(1)
    for single_stage, learning in ((False, {"pyramid", "regularizer", "blending"}), (True, {"blending"})):
        network = Lift3DNetwork()
        for parameter in network.parameters():  # last layers at zero stop the gradient
            torch.nn.init.normal_(parameter, std=0.1)
        before = {name: t.clone() for name, t in network.state_dict().items()}
        task = RendererTask(TrainConfig(run=tmp_path), network, CPU, single_stage)
        monkeypatch.setattr(task, "_draw", lambda rng, drawn: one)
        TrainingRun(TrainConfig(run=tmp_path), task).advance()
        changed = {n.split(".")[0] for n, t in network.state_dict().items() if not torch.equal(t, before[n])}
        assert changed == learning


def test_colour_alone_teaches_stage_one_where_the_surface_is():
    one = draw(1)
    example = replace(example_of([one]), depth=None)  # as of a real photo
    network = Lift3DNetwork()
    loss_of(*render_crops(network, example), example).backward()
    gradient = network.regularizer.head.weight.grad
    assert gradient[0].abs().max() > 0  # the logit; the rest are latents


def test_example_without_a_known_pixel_is_passed_over(tmp_path, monkeypatch):
    one = draw(1)
    target = one.target()
    unknown = replace(one, target=lambda: replace(target, valid=target.valid & False))
    task = RendererTask(TrainConfig(run=tmp_path), Lift3DNetwork(), CPU)
    monkeypatch.setattr(task, "_draw", lambda rng, drawn: unknown)
    assert math.isnan(TrainingRun(TrainConfig(run=tmp_path), task).advance())


def test_folder_without_photos_for_textures_is_refused(tmp_path):
    with pytest.raises(SceneError, match=r"has no \.jpg photos"):
        RendererTask(TrainConfig(textures=tmp_path), Lift3DNetwork(), CPU)


@pytest.mark.parametrize("single_stage", [False, True])
def test_every_tensor_of_a_step_is_on_the_device_that_trains(single_stage):
    """The device `meta` computes nothing, but like a GPU it takes no tensor of a CPU."""
    meta = torch.device("meta")
    network = Lift3DNetwork().to(meta)
    draws = [
        replace(one, target=lambda p=one.target: p().to(meta), sources=[lambda p=p: p().to(meta) for p in one.sources])
        for one in in_one_batch()
    ]
    batch = assemble(draws, TINY, 8, random.Random(0), meta)
    loss = loss_of(*render_crops(network, batch, single_stage), batch)
    loss.backward()
    assert loss.device == network.blending.view_encoder[0].weight.grad.device == meta


def test_workers_make_scenes_meanwhile_and_end_with_the_training():
    spec = StreamSpec(num_views=3, width=32, height=24, num_objects=(2, 3), num_textures=2, texture_size=16)
    workers = ProceduralWorkers(1, [], TINY, CPU, workers=1, spec=spec)
    deadline = time.monotonic() + 300
    while not len(workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    one = workers.draw(random.Random(0))
    assert one.has_depth
    assert torch.isfinite(example_of([one], TINY).image).all()
    processes = list(workers._pool._processes)
    workers.close()
    while processes and time.monotonic() < deadline:
        time.sleep(0.1)
        processes = [pid for pid in processes if _is_running(pid)]
    assert not processes


def _is_running(pid: int) -> bool:
    # Not by the process's own object: the pool waits for it too, and who comes second is told that it still runs.
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_compiled_stage_two_renders_and_learns_as_it_does_eagerly(tmp_path, monkeypatch):
    one = example_of([draw(1, TINY)], TINY)
    results = []
    for is_compiled in (False, True):
        torch.manual_seed(0)
        network = Lift3DNetwork()
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        RendererTask(TrainConfig(run=tmp_path, compile=is_compiled), network, CPU)
        monkeypatch.setattr(torch._dynamo.config, "suppress_errors", False)  # else it may be eager twice
        image, swept = render_crops(network, one)
        loss_of(image, swept, one).backward()
        results.append((image.detach(), network.blending.view_encoder[0].weight.grad))
    for eager, compiled in zip(*results, strict=True):
        # bfloat16 is rounded at other places: to 8 bits each time, a handful of times in a gradient (measured: 1.7 %).
        torch.testing.assert_close(compiled, eager, atol=0.03 * float(eager.abs().max()), rtol=0)


@pytest.mark.gpu
def test_a_gpu_renders_crops_and_learns_from_them_as_a_cpu_does():
    draws = in_one_batch()
    losses, gradients = [], []
    for device in (CPU, torch.device("cuda")):
        torch.manual_seed(0)
        network = Lift3DNetwork()
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        network.to(device)
        batch = assemble(draws, TINY, 8, random.Random(0), device)
        loss = loss_of(*render_crops(network, batch), batch)
        loss.backward()
        losses.append(float(loss.detach()))
        gradients.append(network.regularizer.encoder0[0].weight.grad.cpu())
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    torch.testing.assert_close(gradients[1], gradients[0], atol=0.03 * float(gradients[0].abs().max()), rtol=0.1)


@pytest.mark.gpu
def test_training_on_a_gpu_lowers_the_loss(tmp_path):
    config = TrainConfig(run=tmp_path, batch=2, seed=3, learning_rate=3e-3, steps=10_000)
    task = RendererTask(config, Lift3DNetwork(), torch.device("cuda"))
    run = TrainingRun(config, task)
    run.step = 100
    losses = [run.advance() for _ in range(24)]
    task.close()
    assert statistics.fmean(losses[-8:]) < statistics.fmean(losses[:8])
