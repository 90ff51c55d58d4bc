"""`benchmarks/frame_steps.py` sees every step of a frame, and knows what each must do at least."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lift3d_cli.lifting.network import Lift3DNetwork
from lift3d_cli.lifting.proposal.network import NUM_CUES

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def frame_steps():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import frame_steps

        yield frame_steps
    sys.modules.pop("frame_steps", None)


@pytest.fixture(scope="module")
def roofline(frame_steps):
    return sys.modules["roofline"]


@pytest.fixture(scope="module")
def sizes(roofline):
    return roofline.FrameSizes(
        views=2,
        photo_bytes=1000,
        source_pixels=2 * 64,
        pixels=20,
        samples=3,
        voxels=(16, 4, 4),
        channels=4,
        source_cells=2 * 7,
        cells=5,
    )


# ---- the roofline ----------------------------------------------------------------------------------------------------


def test_roofline_is_the_slower_of_moving_and_computing(roofline):
    assert roofline.Work(100, 0).seconds(50, 10) == 2
    assert roofline.Work(100, 40).seconds(50, 10) == 4


def test_gather_reads_maps_positions_and_weights_once(roofline, sizes):
    features = roofline.work(sizes, Lift3DNetwork())["gather of features"]
    # 4 channels of 14 cells and of 5 results; (u, v, omega) of 2 views, 5 rays, 3 samples: all in 4 bytes.
    assert features.bytes == 4 * (4 * 14 + 4 * 5 + 3 * 2 * 5 * 3)
    # At each sample, four taps times omega, and of each channel four products that are added up.
    assert features.flops == 2 * 5 * 3 * (4 + 4 * 8)


def test_rays_of_a_cell_a_pixel_are_those_of_the_colour(roofline, sizes):
    network = Lift3DNetwork()
    shared = roofline.FrameSizes(**{**vars(sizes), "cells": sizes.pixels})
    of_both = roofline.work(sizes, network)["Stage II: network"].flops
    assert roofline.work(shared, network)["Stage II: network"].flops == pytest.approx(of_both * 20 / 25)


def test_layers_multiply_with_every_weight_at_every_position(roofline):
    assert roofline.dense(nn.Sequential(nn.Conv2d(3, 5, 3), nn.ELU(), nn.Linear(7, 2)), 10) == 2 * 10 * (135 + 14)


def test_networks_have_the_flops_that_torch_counts(roofline):
    network = Lift3DNetwork()
    voxels, pixels = (16, 16, 24), (64, 48)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.regularizer(torch.zeros(NUM_CUES, *voxels))
    assert counter.get_total_flops() == pytest.approx(roofline.regularizer_flops(network.regularizer, 16 * 16 * 24))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.pyramid(torch.zeros(2, 3, *pixels))
    assert counter.get_total_flops() == pytest.approx(roofline.pyramid_flops(network.pyramid, 2 * 64 * 48))


def test_step_ii_looks_at_samples_in_views(roofline):
    network = Lift3DNetwork().blending
    weights = {name: sum(w.numel() for w in getattr(network, name).parameters() if w.dim() > 1)
               for name in ("view_encoder", "view_head", "pool_encoder", "ray_head")}  # fmt: skip
    of_one = roofline.blending_flops(network, 10, 1)
    assert of_one == 2 * 10 * sum(weights.values())
    another_view = weights["view_encoder"] + weights["view_head"] - 32 * 32  # what is pooled has been looked at
    assert roofline.blending_flops(network, 10, 2) - of_one == 2 * 10 * another_view


# ---- the clock -------------------------------------------------------------------------------------------------------


def test_step_is_timed_without_those_within_it(frame_steps, monkeypatch):
    ticks = iter([0, 2, 5, 6, 7, 10])
    monkeypatch.setattr(frame_steps.measuring, "clock", lambda device: next(ticks))
    stopwatch = frame_steps.Stopwatch()
    inner = stopwatch.timed(lambda: None, "inner")
    stopwatch.timed(lambda: (inner(), inner()), "outer")()
    assert dict(stopwatch.seconds) == {"inner": 4, "outer": 6}


def test_gather_of_the_corrector_is_a_part_of_it(frame_steps):
    assert frame_steps.precise("gather", "corrector", torch.zeros(5, 3)) == "corrector"
    assert frame_steps.precise("gather", frame_steps.RENDERER, torch.zeros(5, frame_steps.COLORS)) == "gather of colour"
    assert frame_steps.precise("gather", frame_steps.RENDERER, torch.zeros(5, 64)) == "gather of features"


def test_work_of_a_step_that_was_not_seen_is_that_of_the_one_before(frame_steps):
    least = {"a": frame_steps.Work(10, 1), "b": frame_steps.Work(30, 2), "c": frame_steps.Work(7)}
    rows = frame_steps.rows_of({"a": 8.0, "c": 1.0}, least, 10, 10)
    assert [(row["step"], row["bytes"], row["ratio"]) for row in rows] == [("a, b", 40, 2), ("c", 7, 1 / 0.7)]


# ---- all of it -------------------------------------------------------------------------------------------------------


def test_every_step_of_a_frame_is_seen(frame_steps, wall_scene, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(frame_steps, "speed", lambda config: (1e9, 1e9))
    argv = ["frame_steps.py", "--scene", str(wall_scene), "--height", "24", "--views", "3", "--rounds", "1", "--json"]
    monkeypatch.setattr(sys, "argv", [*argv, "--plot", str(tmp_path / "frame_steps.svg")])
    frame_steps.main()
    result = json.loads(capsys.readouterr().out)
    sizes = frame_steps.FrameSizes(**result["sizes"])
    assert (sizes.views, sizes.pixels, sizes.channels) == (3, 32 * 24, 64)
    assert sizes.source_pixels == 3 * 32 * 24
    assert sizes.voxels == [32, 12, 16]  # as few planes as there may be, for so small a picture
    assert sizes.source_cells == 3 * sizes.cells == 3 * 4 * 3
    # Had the insides of the renderer moved away from a clock, its step would not be here under its own name.
    assert [row["step"] for row in result["steps"]] == list(frame_steps.work(sizes, Lift3DNetwork()))
    assert all(row["seconds"] > 0 and row["ratio"] > 0 for row in result["steps"])
    assert next(row for row in result["steps"] if row["step"] == "decode")["flops"] > 0
    assert (tmp_path / "frame_steps.svg").stat().st_size > 0

    lines = frame_steps.markdown(result["steps"], result["rest"], sizes, 1e9, 1e9).splitlines()
    assert "1.0 GB/s" in lines[1]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert {len(row) for row in cells} == {6}
    assert [row[0] for row in cells[-2:]] == ["a path's first frame", "a frame of photos that are known"]
