"""`benchmarks/measuring.py`: times, tables and plots say what was measured."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest
import torch

from lift3d_cli import load_scene
from lift3d_cli.errors import SceneError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def measuring():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import measuring as module

        yield module
    sys.modules.pop("measuring", None)


def test_median_is_over_rounds_in_turn_without_the_first(measuring, monkeypatch):
    # Two contestants in four rounds: the first takes 100, 1, 5, 3, the second always 2.
    ticks = iter([0, 100, 0, 2, 0, 1, 0, 2, 0, 5, 0, 2, 0, 3, 0, 2])
    monkeypatch.setattr(measuring, "clock", lambda device: next(ticks))
    order = []
    contestants = {name: lambda name=name: order.append(name) for name in ("a", "b")}
    assert measuring.medians(contestants, 3) == {"a": 3, "b": 2}
    assert order == ["a", "b"] * 4


def test_machine_names_versions_processor_and_threads(measuring):
    line = measuring.machine()
    assert f"torch {torch.__version__}" in line
    assert f"Python {platform.python_version()}" in line
    assert f"{torch.get_num_threads()} threads" in line
    assert "\n" not in line


def test_table_is_markdown(measuring):
    assert measuring.table(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | --: |\n| x | 1 |"


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.3456, "12,346"), (0.0456, "45.6"), (1.234e-6, "0.00123"), (0, "0.00")]
)
def test_milliseconds_have_three_digits_and_no_exponent(measuring, seconds, text):
    assert measuring.milliseconds(seconds) == text


def test_pose_is_no_photos_own_and_has_the_height(measuring, wall_scene):
    scene = load_scene(wall_scene)
    pose = measuring.novel_pose(scene, 36)
    assert (pose.width, pose.height) == (48, 36)
    assert min(abs(pose.w2c - view.camera.w2c).max() for view in scene.views) > 1e-3


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_plot_of_the_same_numbers_is_the_same_file(measuring, tmp_path, suffix):
    pytest.importorskip("matplotlib")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        with measuring.plot(tmp_path / name / f"plot{suffix}", xlabel="frames") as axes:
            axes.plot([1, 2], [3, 4])
    first, second = ((tmp_path / name / f"plot{suffix}").read_bytes() for name in ("a", "b"))
    assert first == second
    assert suffix == ".png" or b"frames" in first


def test_plot_of_another_kind_is_refused_in_a_line(measuring, tmp_path):
    with pytest.raises(SystemExit, match=r"must end in \.svg or \.png"), measuring.plot(tmp_path / "a.pdf"):
        pass


def test_error_of_lift3d_is_one_line(measuring):
    def main():
        raise SceneError("scene: no photos")

    with pytest.raises(SystemExit, match=r"^error: scene: no photos$"):
        measuring.run(main)
