"""`lift3d tune`, and what takes its weights: `render --tuned` and `eval --tuned`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import FAST

from lift3d_cli.cache.renders import Render
from lift3d_cli.training.renderer_data import CropSize
from lift3d_cli.training.tune_task import TuneTask

QUICK = ["--minutes", "0.01", "--height", "72", "--device", "cpu"]


@pytest.fixture(autouse=True)
def scores(monkeypatch) -> list[float]:
    """PSNRs that the photos kept back have one after the other: made up, so that tuning is better, or not."""
    made_up = [float(value) for value in range(20, 100)]
    monkeypatch.setattr(TuneTask, "_psnr", lambda task: made_up.pop(0))
    monkeypatch.setattr("lift3d_cli.training.renderer.CPU_CROP", CropSize((16, 12), (24, 16)))
    return made_up


def test_tuned_weights_are_taken_when_asked_for_and_tell_renders_apart(done):
    (plain,) = done.ok("render", "scene", *FAST)
    (weights,) = done.ok("tune", *QUICK)
    assert Path(weights).is_file()
    assert done.ok("render", *FAST) == [plain]
    (tuned,) = done.ok("render", "--tuned", *FAST)
    assert tuned != plain
    assert Render.open(Path(tuned)).weights != Render.open(Path(plain)).weights
    assert done.ok("render", "--weights", weights, *FAST) == [tuned]
    assert done.ok("tune", *QUICK) == [weights]


def test_json_of_tune_says_what_came_of_it(done):
    result = json.loads("\n".join(done.ok("tune", "scene", "--json", *QUICK)))
    assert (result["psnr_before"], result["num_photos"], result["kept_back"]) == (20.0, 3, ["images/02.png"])
    assert Path(result["weights"]).is_file()


def test_tuning_that_is_no_better_says_so_and_makes_no_weights(done, scores):
    scores[1:] = [10.0] * 80
    result = done("tune", "scene", *QUICK)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith("warning: no weights are better on the photos kept back")
    assert done("render", "--tuned", *FAST).exit_code == 4


def test_info_lists_tuned_weights(done):
    (weights,) = done.ok("tune", "scene", *QUICK)
    holdings = json.loads("\n".join(done.ok("info", "scene", "--json")))["cache"]["holdings"]
    assert Path(weights).parent.name in {Path(h["path"]).name for h in holdings if h["kind"] == "tuned"}


def test_eval_says_what_tuning_did_and_leaves_nothing_behind(done):
    before = set(Path("scene").rglob("*"))
    arguments = [
        "eval",
        "scene",
        "--every",
        "4",
        "--height",
        "36",
        "--views",
        "2",
        "--device",
        "cpu",
        "--tuned",
        "0.01",
    ]
    result = json.loads("\n".join(done.ok(*arguments, "--json")))
    assert result["tuned"]["num_photos"] == 2
    assert "images/00.png" not in result["tuned"]["kept_back"]
    assert result["mean"]["psnr"] > 0
    assert set(Path("scene").rglob("*")) == before
    lines = done.ok(*arguments)
    assert any(line.startswith("tuned to scene: ") and " 2 photos; photos kept back" in line for line in lines)
