"""`benchmarks/peers.py` compares what does the same, and runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def peers():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import peers

        yield peers
    sys.modules.pop("peers", None)


@pytest.mark.parametrize("channels", [16, 20])
def test_all_gathers_give_the_same(peers, channels):
    problem = peers.Problem.make(channels, torch.device("cpu"))
    assert problem.maps.shape == (8, channels, 34, 60)
    assert 0.2 < float((problem.omega == 0).float().mean()) < 0.3
    torch.testing.assert_close(problem.omega.sum((0, 2)), torch.ones(34 * 60))
    plain, *fused = (
        make(problem.maps)(problem.uv, problem.omega) for make in (peers.plain, peers.fused, peers.fallback)
    )
    for other in fused:
        torch.testing.assert_close(other, plain, atol=1e-4, rtol=1e-4)


def test_bytes_are_those_of_samples_and_maps(peers):
    omega = torch.tensor([[[0.5, 0.0]], [[0.25, 0.25]]])  # [V, R, S]: two views, one ray, two samples
    problem = peers.Problem(torch.zeros(2, 3, 5, 7), torch.zeros(2, 1, 2, 2), omega)
    assert problem.bytes_asked_for(problem.maps) == 3 * (4 * 3 * 4 + 12) + 4 * 3
    assert problem.bytes_asked_for(problem.maps.half()) == 3 * (4 * 3 * 2 + 12) + 4 * 3
    assert problem.least_bytes(problem.maps) == 4 * 2 * 3 * 5 * 7 + 12 * 4 + 4 * 3


@pytest.mark.slow
def test_peak_memory_of_the_plain_gather_is_that_of_all_samples(peers):
    samples = 8 * 16 * 34 * 60 * 8 * 4  # float32 of all views, channels, rays and samples
    fused, plain = (peers.peak_of(name, 16, torch.device("cpu")) for name in ("fused", "plain"))
    assert samples < plain < 4 * samples
    assert fused < plain / 4


def test_transformer_has_the_published_size(peers):
    network = peers.ViewRayTransformer()
    assert len(network.blocks) == 8
    maps, uv, direction = torch.rand(3, 35, 9, 9), torch.rand(3, 2, 5, 2) * 9, torch.rand(2, 5, 3, 4)
    assert network(maps, uv, direction).shape == (2, 3)


@pytest.mark.slow
def test_it_prints_ratios_with_the_machine_and_the_versions(tmp_path):
    argv = [sys.executable, str(BENCHMARKS / "peers.py"), "--rounds", "1", "--height", "48", "--rays", "2"]
    plot = tmp_path / "plot.svg"
    out = subprocess.run([*argv, "--channels", "16", "--plot", str(plot)], capture_output=True, text=True, check=True)
    assert f"torch {torch.__version__}" in out.stdout
    lines = [line.split("|") for line in out.stdout.splitlines() if line.startswith("| 16 channels, ")]
    assert [line[1].split()[-1] for line in lines] == ["plain", "fused"]
    assert float(lines[1][4].strip().rstrip("x")) > 0
    assert "transformer" in out.stdout
    assert "channels" in plot.read_text()


@pytest.mark.gpu
@pytest.mark.parametrize("channels", [3, 64])
def test_on_a_gpu_it_compares_torch_and_triton_in_both_precisions(peers, channels):
    rows = peers.compare_gathers(channels, 1, torch.device("cuda:0"), 1e12)
    assert [row["gather"] for row in rows] == ["plain", "fused by torch", "fused", "fused, float16"]
    assert all(row["seconds"] > 0 and row["asked"] > row["least"] for row in rows)
    problem = peers.Problem.make(channels, torch.device("cuda:0"))
    want = peers.plain(problem.maps)(problem.uv, problem.omega)
    got = peers.fused_half(problem.maps)(problem.uv, problem.omega)
    torch.testing.assert_close(got, want, atol=1e-2, rtol=0)
