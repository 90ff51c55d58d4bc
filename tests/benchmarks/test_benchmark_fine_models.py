"""`benchmarks/fine_models.py` measures models of a cell a pixel beside the colour that they share rays with, or not."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def fine_models(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import fine_models

    yield fine_models
    sys.modules.pop("fine_models", None)


def test_models_are_measured_from_photos_of_the_frames_size_and_larger_ones(
    fine_models, wall_scene, monkeypatch, capsys
):
    argv = ["--scene", str(wall_scene), "--height", "36", "--views", "2", "--rounds", "1", "--json"]
    monkeypatch.setattr(sys, "argv", ["fine_models.py", *argv, "--model", "rgb", "--model", "tiny-superres"])
    fine_models.main()
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["model"] for row in rows] == 2 * ["colour", "rgb", "tiny-superres"]
    assert [row["photos"] for row in rows] == [*3 * [[48, 36]], *3 * [[96, 72]]]
    # From larger photos a super-resolver keeps their cells; others have the pixels' rays.
    assert [row["cells"] / (48 * 36) for row in rows] == [0, 1, 1, 0, 1, 4]
    assert all(row["seconds"] > 0 for row in rows)
    assert rows[3]["ratio"] == 1
    assert "tiny-superres | 96x72 | 32 | 4.00" in fine_models.markdown(rows)
