"""benchmarks/confidence.py: its measures against values by hand, and the whole on a small scene."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from plane_world import rig, write_scene

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        import confidence

        yield confidence


def test_rank_correlation_by_hand(benchmark):
    x = torch.tensor([10.0, 20.0, 30.0, 40.0])
    assert benchmark.spearman(x, x**3) == pytest.approx(1)
    assert benchmark.spearman(x, -x) == pytest.approx(-1)
    # 1 - 6 * (1 + 1 + 0 + 0) / (4 * 15)
    assert benchmark.spearman(x, torch.tensor([2.0, 1.0, 3.0, 4.0])) == pytest.approx(0.8)
    # Ranks 1.5, 1.5, 3, 4 against 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5).
    assert benchmark.spearman(x, torch.tensor([5.0, 5.0, 6.0, 7.0])) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)


def test_sparsification_by_hand(benchmark):
    error = torch.tensor([1.0, 0.0, 3.0])
    assert benchmark.ause(-error, error) == pytest.approx(0)
    # Means of the best 1, 2, 3 pixels are 3, 2, 4/3; for the oracle 0, 1/2, 4/3; at random 4/3 each.
    assert benchmark.ause(error, error) == pytest.approx((3 + 1.5) / (4 - 0.5 - 4 / 3))


def test_halves_by_hand(benchmark):
    believed, error = torch.tensor([0.9, 0.1, 0.8, 0.2]), torch.tensor([0.01, 0.1, 0.01, 0.1])
    assert benchmark.halves(believed, error) == pytest.approx((20, 10))


def test_it_runs_on_a_scene(tmp_path, untrained):
    scene = write_scene(tmp_path / "scene", rig(5))
    argv = [sys.executable, "confidence.py", str(scene), "--height", "36", "--model", "rgb", "--photos", "3", "--json"]
    done = subprocess.run(argv, cwd=BENCHMARKS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert list(result["scenes"]["scene"]) == ["colours", "depth", "both", "both, features"]
    assert sum(row["share"] for row in result["bins"]["scene"]) == pytest.approx(1)
    assert len(result["each"]) == 2
