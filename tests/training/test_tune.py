"""Tuning to a scene: better on the photos kept back or as before, resumable, and blind to what it must not see."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import plane_world
import pytest
import safetensors.torch
import torch

from lift3d_cli.cache.store import SceneCache
from lift3d_cli.config import TuneConfig
from lift3d_cli.errors import CacheError, SceneError
from lift3d_cli.pipeline.renderers import load_network
from lift3d_cli.pipeline.tuned import find_tuned
from lift3d_cli.pipeline.workspace import Workspace
from lift3d_cli.scene.load import load_scene
from lift3d_cli.training import curves, loop, tune_task
from lift3d_cli.training.renderer_data import CropSize
from lift3d_cli.training.renderer_scenes import RealScenes
from lift3d_cli.training.tune import tune, tune_scene, tune_without
from lift3d_cli.training.tune_task import TuneTask, photos_kept_back

CONFIG = TuneConfig(minutes=2, height=72, batch=1, device="cpu")


@pytest.fixture(autouse=True)
def _small_and_quick(monkeypatch, use_untrained):
    """Small crops, the network as it begins, and a clock on which every step takes 10 seconds and nothing else does."""
    use_untrained(monkeypatch)
    monkeypatch.setattr("lift3d_cli.training.renderer.CPU_CROP", CropSize((16, 12), (24, 16)))
    monkeypatch.setattr(tune_task, "_KEPT_BACK_HEIGHT", 36)
    clock, advance = [0.0], loop.TrainingRun.advance

    def ticking(run: loop.TrainingRun) -> float:
        RATES.append(0.0)
        loss = advance(run)
        RATES[-1] = run._optimizer.param_groups[0]["lr"]
        clock[0] += 10
        return loss

    RATES.clear()
    monkeypatch.setattr(loop.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(curves, "draw_curves", lambda rows, path: None)  # which takes most of the time otherwise
    monkeypatch.setattr(loop.TrainingRun, "advance", ticking)


RATES: list[float] = []


@pytest.fixture
def scored(monkeypatch):
    """Makes the photos kept back have these PSNRs, one after the other; the last one again and again."""

    def be(*values: float) -> None:
        left = list(values)
        monkeypatch.setattr(TuneTask, "_psnr", lambda task: left.pop(0) if len(left) > 1 else left[0])

    return be


@pytest.fixture
def workspace(scene_dir) -> Workspace:
    return open_workspace(scene_dir)


def open_workspace(folder: Path) -> Workspace:
    return Workspace(load_scene(folder), SceneCache(folder / ".lift3d"))


def silent(row) -> None:
    pass


def test_the_photos_kept_back_gain_or_the_start_stays(workspace):
    path, outcome = tune_scene(workspace, CONFIG, silent)
    assert outcome.psnr >= outcome.psnr_before
    assert (path is not None) == (outcome.psnr > outcome.psnr_before)
    assert outcome.kept_back == ["images/02.png", "images/06.png"]
    assert outcome.num_photos == 6


def test_the_best_of_the_scored_weights_stay(workspace, scored):
    seen = []
    scored(20.0, 21.0, 23.0, 22.0)
    path, outcome = tune_scene(workspace, CONFIG, lambda row: seen.append(row["psnr"]))
    assert seen[:3] == [20.0, 21.0, 23.0]
    assert (outcome.psnr, outcome.share) == (23.0, 1.0)
    begun, tuned = load_network("")[0].state_dict(), safetensors.torch.load_file(path)
    changed = {n.split(".")[0] for n, tensor in tuned.items() if not torch.equal(tensor, begun[n].half())}
    assert changed == {"pyramid", "regularizer", "blending"}


def test_what_lies_between_the_start_and_the_best_is_tried_too(workspace, monkeypatch):
    def psnr(task: TuneTask) -> float:  # best halfway
        now, start = task._weights(), task._start
        moved = max(float((now[n] - start[n]).abs().max()) for n in now)
        farthest.append(moved)
        return 20 + moved * (1.2 * max(farthest) - moved) * 1e6

    farthest: list[float] = []
    monkeypatch.setattr(TuneTask, "_psnr", psnr)
    _, outcome = tune_scene(workspace, CONFIG, silent)
    assert outcome.share == 0.5


def test_it_stops_when_nothing_has_been_better_for_a_while_and_keeps_the_start(workspace, scored):
    scored(20.0, 19.0)
    path, outcome = tune_scene(workspace, CONFIG, silent)
    assert path is None
    assert (outcome.psnr, outcome.share) == (20.0, 0.0)
    assert outcome.minutes == 1.0  # of 2: 0.8 of these are the patience, in scores a quarter of a minute apart
    with pytest.raises(CacheError, match=r"no weights better than it began with\. hint: render without --tuned"):
        find_tuned(workspace, "")


def test_a_finished_tuning_is_not_made_again(workspace, scored, monkeypatch):
    scored(20.0, 21.0)
    first = tune_scene(workspace, CONFIG, silent)
    monkeypatch.setattr(loop, "train", None)
    assert tune_scene(workspace, CONFIG, silent) == first
    files = {path.name for path in first[0].parent.iterdir()}
    assert files == {"weights.safetensors", "tuned.json", "curves.csv"}


def test_an_interrupted_tuning_goes_on_with_the_same_schedule(workspace, scored, scene_dir):
    class Interrupted(Exception):
        pass

    def interrupt(row) -> None:
        if row["minutes"] >= 1:
            raise Interrupted

    scored(*range(20, 40))
    tune(workspace.scene, CONFIG, scene_dir / "whole", silent)
    whole = list(RATES)
    RATES.clear()
    scored(*range(20, 40))
    with pytest.raises(Interrupted):
        tune_scene(workspace, CONFIG, interrupt)
    assert len(RATES) == 6
    with pytest.raises(CacheError, match=r"no weights are tuned to this scene\. hint: lift3d tune"):
        find_tuned(workspace, "")
    path, outcome = tune_scene(workspace, CONFIG, silent)
    assert pytest.approx(whole) == RATES
    assert len(RATES) == outcome.steps == 12
    assert (outcome.psnr_before, outcome.share) == (20.0, 0.5)  # measured last, so the best of these made-up numbers
    assert find_tuned(workspace, "") == path


def test_other_photos_poses_weights_or_settings_are_another_tuning(workspace, scored, scene_dir, tmp_path):
    scored(20.0, 21.0)
    path, _ = tune_scene(workspace, CONFIG, silent)
    assert find_tuned(open_workspace(scene_dir), "") == path
    other, _ = tune_scene(workspace, replace(CONFIG, learning_rate=1e-5), silent)
    assert find_tuned(workspace, "") == other != path
    torch.manual_seed(1)
    state = {
        name: tensor + 0.01 * torch.randn_like(tensor) for name, tensor in load_network("")[0].state_dict().items()
    }
    safetensors.torch.save_file(state, tmp_path / "mine.safetensors")
    with pytest.raises(CacheError, match=r"other weights than .*mine.* hint: lift3d tune .* --weights "):
        find_tuned(workspace, str(tmp_path / "mine.safetensors"))
    transforms = json.loads((scene_dir / "transforms.json").read_text())
    transforms["frames"][0]["transform_matrix"][0][3] += 0.01
    (scene_dir / "transforms.json").write_text(json.dumps(transforms))
    with pytest.raises(CacheError, match=r"photos or poses have changed since .* hint: lift3d tune"):
        find_tuned(open_workspace(scene_dir), "")


def test_a_changed_photo_is_another_tuning(workspace, scored, scene_dir):
    scored(20.0, 21.0)
    tune_scene(workspace, CONFIG, silent)
    photo = scene_dir / "images" / "03.png"
    plane_world.write_image(photo, 255 - plane_world.read_image(photo))
    with pytest.raises(CacheError, match="photos or poses have changed"):
        find_tuned(open_workspace(scene_dir), "")


def test_left_out_photos_are_not_even_read(scene_dir, tmp_path):
    scene = load_scene(scene_dir)
    for index in (0, 4):
        scene.views[index].image_path.unlink()
    weights, outcome = tune_without(scene, [0, 4], CONFIG, tmp_path / "run", silent)
    assert outcome.num_photos == 5
    assert not {"images/00.png", "images/04.png"} & set(outcome.kept_back)
    assert weights == ("" if not outcome.share else str(tmp_path / "run" / "tuned.safetensors"))


def test_photos_kept_back_are_neither_targets_nor_sources(workspace):
    kept_back = photos_kept_back(workspace.scene)
    names = {workspace.scene.views[i].name for i in kept_back}
    scene = replace(workspace.scene, points=workspace.points())
    config = tune_task.TrainConfig(procedural=0.0, height=72, minutes=1)
    task = TuneTask(config, load_network("")[0], torch.device("cpu"), scene, kept_back)
    learned = {view.name for each in task._real._workspaces for view in each.scene.views}
    assert learned == {view.name for view in scene.views} - names


def test_examples_are_as_photos_are_rendered(workspace):
    scenes = RealScenes([workspace.scene], 72, CropSize((16, 12), (24, 16)), as_rendered=True)
    for seed in range(4):
        draw = scenes.draw(random.Random(seed))
        target = draw.target()
        assert (target.camera.height, len(draw.sources), draw.is_mirrored) == (72, 7, False)
        assert all(not torch.equal(make().image, target.image) for make in draw.sources)
        assert draw.gain == [1.0] * 3


@pytest.mark.parametrize(("photos", "kept"), [(3, [1]), (6, [3]), (9, [2, 6]), (50, [6, 18, 31, 43])])
def test_photos_kept_back_lie_evenly_among_the_others(workspace, photos, kept):
    view = workspace.scene.views[0]
    assert photos_kept_back(replace(workspace.scene, views=(view,) * photos)) == kept


def test_three_photos_are_enough_and_two_are_refused_in_one_line(workspace, tmp_path):
    three = replace(workspace.scene, views=workspace.scene.views[:3])
    _, outcome = tune(three, replace(CONFIG, minutes=0.5), tmp_path / "three", silent)
    assert outcome.num_photos == 2
    two = replace(workspace.scene, views=workspace.scene.views[:2])
    with pytest.raises(SceneError, match=r"2 photos are too few to tune to.* hint: 3 or more"):
        tune(two, CONFIG, tmp_path / "two", silent)


def test_photos_kept_back_that_are_all_masked_are_refused(scene_dir, tmp_path):
    import numpy as np

    mask = np.zeros((72, 96), np.uint8)
    folder = plane_world.write_scene(tmp_path / "masked", plane_world.rig(4), masks={2: mask})
    with pytest.raises(SceneError, match=r"masked: the photos kept back from tuning are all masked\. hint: "):
        tune(load_scene(folder), CONFIG, tmp_path / "run", silent)
