"""What a report compares the lifted frames with: the 2D model on each frame, and the features before correction."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import plane_world
import pytest
import torch
from reporting import lift3d, open_run

from lift3d_cli.config import RenderConfig, ReportConfig
from lift3d_cli.errors import ModelError
from lift3d_cli.machine.progress import no_progress
from lift3d_cli.models.base import RenderedView
from lift3d_cli.models.registry import find_model
from lift3d_cli.pipeline.lift import SceneLifter
from lift3d_cli.pipeline.render import CachedFeatures
from lift3d_cli.pipeline.renderers import make_renderer
from lift3d_cli.report import compare

# ---- the 2D model ----------------------------------------------------------------------------------------------------


def test_2d_pictures_are_those_of_the_model_on_the_rendered_colour(folder):
    run = open_run(folder)
    task = next(task for task in run.tasks if task.name == "negative")
    made = compare.run_2d(run, task, run.decoded_frames(task), ReportConfig(), no_progress)
    model = find_model("./patches.py:Patches").load()
    for picture, frame in zip(made.images, run.frames, strict=True):
        image = torch.from_numpy(frame.image).permute(2, 0, 1) / 255
        alone = model.decode(model.encode(image), RenderedView(image, frame.coverage), "negative")
        expected = (alone.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        assert np.array_equal(picture, expected)


def test_pictures_that_the_model_would_not_make_again_are_compared_with_nothing(folder):
    run = open_run(folder)
    task = run.tasks[0]
    other = [255 - image for image in run.decoded_frames(task)]
    with pytest.raises(ModelError, match="options that are not recorded"):
        compare.run_2d(run, task, other, ReportConfig(), no_progress)


def test_contradiction_is_the_difference_in_parts_of_the_contrast():
    # Three frames of one camera, half dark and half bright; the second is brighter by 51 of 255.
    camera = plane_world.look_at((0, 0, -4.0), width=16, height=12, focal=20.0)
    half = np.zeros((12, 16, 3), np.uint8)
    half[:, 8:] = 204
    depth, coverage = torch.full((12, 16), 4.0), torch.ones(12, 16)
    frames = [SimpleNamespace(index=i, depth=depth, coverage=coverage) for i in range(3)]
    run = SimpleNamespace(frames=frames, cameras=[camera] * 3)
    found = compare._contradictions(run, [half, half + 51, half], is_chroma=False)
    values = np.array([0, 0.8, 0.2, 1.0, 0, 0.8])
    assert found["contrast"] == pytest.approx(values.std(), abs=1e-6)
    assert found["near"] == pytest.approx(0.2 / values.std(), abs=1e-4)
    assert found["far"] == pytest.approx(0, abs=1e-6)


def test_uncovered_pixels_contradict_nothing():
    camera = plane_world.look_at((0, 0, -4.0), width=16, height=12, focal=20.0)
    dark, depth, coverage = np.zeros((12, 16, 3), np.uint8), torch.full((12, 16), 4.0), torch.zeros(12, 16)
    frames = [SimpleNamespace(index=i, depth=depth, coverage=coverage) for i in range(2)]
    run = SimpleNamespace(frames=frames, cameras=[camera] * 2)
    assert np.isnan(compare._contradictions(run, [dark, dark + 255], is_chroma=False)["near"])


# ---- the corrector ---------------------------------------------------------------------------------------------------


def test_correction_is_that_from_the_blended_to_the_corrected_features(folder):
    run = open_run(folder)
    (maps,) = compare.corrections(run, [2], ReportConfig(), no_progress).values()
    frame = run.frames[2]
    config = RenderConfig(planes=8, samples=2, views=3, precision=run.render.precision)
    renderer = make_renderer(config)
    lifter = SceneLifter(run.workspace, run.workspace.points(), renderer, 3, torch.device("cpu"))
    source = CachedFeatures(run.workspace, run.encoders["patches"], 8)
    correctors = {"with": renderer.corrector, "without": None}
    camera = run.cameras[2]
    view = lifter.lift(lifter.plan(camera, lifter.choose(camera), dict.fromkeys(correctors, source), correctors))
    moved, blended = (view.frame.features[name].float() for name in correctors)
    assert list(frame.sources) == list(view.choice.sources)
    expected = (moved - blended).norm(dim=0) / blended.norm() * blended[0].numel() ** 0.5
    assert expected.mean() > 1e-2
    assert maps[0] == pytest.approx(expected.numpy(), abs=5e-3)  # stored in half precision


def test_corrector_that_does_nothing_has_a_dark_map(tmp_path, monkeypatch, use_untrained, reported):
    shutil.copytree(reported / "scene", tmp_path / "scene", ignore=shutil.ignore_patterns("renders"))
    shutil.copy(reported / "patches.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    use_untrained(monkeypatch)
    lift3d("path", "scene", "orbit", "--frames", "2", "--max-size", "48")
    lift3d("render", "scene", "--planes", "8", "--samples", "2", "--views", "2")
    (maps,) = compare.corrections(open_run(tmp_path), [0, 1], ReportConfig(), no_progress).values()
    assert np.max(maps) < 1e-3


def test_correction_with_other_weights_than_the_renders_is_refused(folder, monkeypatch, use_untrained):
    use_untrained(monkeypatch)
    with pytest.raises(ModelError, match="of other weights"):
        compare.corrections(open_run(folder), [0], ReportConfig(), no_progress)
