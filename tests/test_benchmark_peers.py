"""`benchmarks/peers.py` compares what does the same, and runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def peers():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import peers

        yield peers
    sys.modules.pop("peers", None)


def test_both_gathers_give_the_same(peers):
    inputs = peers.gather_inputs(20)
    torch.testing.assert_close(peers.fused(*inputs), peers.weighted_gather_ref(*inputs), atol=1e-4, rtol=1e-4)


def test_transformer_has_the_published_size(peers):
    network = peers.ViewRayTransformer()
    assert len(network.blocks) == 8
    maps, uv, direction = torch.rand(3, 35, 9, 9), torch.rand(3, 2, 5, 2) * 9, torch.rand(2, 5, 3, 4)
    assert network(maps, uv, direction).shape == (2, 3)


@pytest.mark.slow
def test_it_prints_ratios_with_the_machine_and_the_versions():
    argv = [sys.executable, str(BENCHMARKS / "peers.py"), "--rounds", "1", "--height", "48", "--rays", "2"]
    out = subprocess.run([*argv, "--channels", "64"], capture_output=True, text=True, check=True).stdout
    assert f"torch {torch.__version__}" in out
    gather = next(line for line in out.splitlines() if line.startswith("| 64 channels"))
    assert float(gather.split("|")[2].strip().rstrip("x")) > 0
    assert "transformer" in out
