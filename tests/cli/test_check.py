"""The photos' verdict on the command line."""

from __future__ import annotations

import json

import numpy as np
import plane_world
import pytest

from lift3d_cli.pipeline import checked as checking
from lift3d_cli.scene.photo_check import Verdict

WRONG = Verdict(5, 0.1, 30.0, "the poses are world-to-camera", "invert each transform_matrix")
NO_POINTS = Verdict(5, 1.0, 0.2, points_share=0.1)


@pytest.fixture
def judged(monkeypatch):
    """Makes the photos say something; counts how often they are asked."""
    asked = []

    def say(verdict: Verdict) -> list:
        monkeypatch.setattr(checking, "check_photos", lambda scene: asked.append(scene) or verdict)
        return asked

    return say


@pytest.fixture
def scene(run) -> str:
    plane_world.write_scene(run.folder / "scene", plane_world.rig(4))
    return "scene"


def test_a_command_warns_once_and_the_verdict_is_kept(run, scene, judged, shared_model):
    asked = judged(WRONG)
    for command in (["encode", scene, "--model", shared_model], ["path", scene, "orbit"], ["info", scene]):
        result = run(*command)
        assert result.exit_code == 0, result.output
        assert result.stderr.count("world-to-camera. hint: invert each transform_matrix") == 1
        assert len(result.stderr.strip().splitlines()) == 1
    assert len(asked) == 1
    assert run("encode", scene, "--model", shared_model, "--prune").exit_code == 0
    assert len(asked) == 1


def test_a_changed_pose_is_checked_again(run, scene, judged):
    asked = judged(WRONG)
    run("info", scene)
    file = run.folder / "scene/transforms.json"
    data = json.loads(file.read_text())
    data["frames"][0]["transform_matrix"][0][3] += 0.01
    file.write_text(json.dumps(data))
    run("info", scene)
    assert len(asked) == 2


def test_no_check_asks_nothing(run, scene, judged, shared_model):
    asked = judged(WRONG)
    for command in (["encode", scene, "--model", shared_model], ["path", scene, "orbit"], ["info", scene]):
        result = run(*command, "--no-check")
        assert (result.exit_code, result.stderr) == (0, "")
    assert asked == []


def test_points_that_the_photos_contradict_are_not_used(run, scene, judged):
    judged(NO_POINTS)
    result = run("info", scene)
    assert "are not used" in result.stderr
    assert "points of the file" not in result.stdout


def test_info_says_how_well_the_poses_fit_and_where_near_and_far_come_from(run, scene, judged):
    judged(Verdict(5, 0.97, 0.31, points_share=0.95))
    lines = dict(line.split(None, 1) for line in run.ok("info", scene))
    assert lines["poses"] == "fit the photos, 97% of the matches of 5 pairs, median error 0.3 px"
    near, far = map(float, lines["depths"].partition(",")[0].split(" to "))
    assert near < plane_world.DISTANCE < far
    assert lines["depths"].endswith("from points of the file")
    facts = json.loads(run("info", scene, "--json").stdout)["scene"]
    assert facts["poses"] == lines["poses"]
    assert np.isfinite(near)
