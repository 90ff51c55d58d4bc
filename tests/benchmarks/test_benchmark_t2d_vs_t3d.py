"""`benchmarks/t2d_vs_t3d.py` has the paper's formula right, and measures what goes into it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lift3d_cli.models.registry import find_model

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import t2d_vs_t3d

        yield t2d_vs_t3d
    sys.modules.pop("t2d_vs_t3d", None)


def test_table_has_the_totals_and_the_break_even_of_each_model(bench):
    costs = {"light": bench.Cost(2, 10, 3, 1), "heavy": bench.Cost(2, 10, 0.5, 1)}
    table = bench.markdown({name: (cost, 7) for name, cost in costs.items()}, 100, 15).splitlines()
    assert {line.count("|") for line in table} == {11}
    # 100 (10 + 2 + 1) on each frame; 15 * 2 + 100 (10 + 0.5 + 1) lifted; 15 * 2 = 20 (2 - 0.5).
    assert table[3] == "| heavy | 2,000 | 10,000 | 500 | 10,500 | 7,000 | 1,000 | 20 | 1,300.0 | 1,180.0 |"
    assert "| never |" in table[2]


def test_features_add_their_own_steps_and_their_rays(bench):
    seconds = {"gather of colour": 100, "gather of features": 1, "corrector": 2, "descriptors of the frame": 3}
    seconds |= {"sampling": 4, "Stage II: looking": 8, "Stage II: network": 12, "Stage I: sweep": 100}
    assert bench.of_features(seconds, pixels=30, cells=10) == 1 + 2 + 3 + 24 / 4
    assert bench.of_features(seconds, pixels=30, cells=30) == 1 + 2 + 3  # the rays are the colour's


def test_random_transformer_has_the_size_that_its_name_says(bench, tmp_path):
    pytest.importorskip("transformers")
    model = find_model(bench.made_up("vit-s14", tmp_path)).load()
    assert (model.spec.channels, model.spec.stride) == (384, 14)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(22e6, rel=0.03)


def test_it_measures_every_part_of_every_model(bench, wall_scene, monkeypatch, tmp_path, capsys):
    argv = ["t2d_vs_t3d.py", "--scene", str(wall_scene), "--height", "24", "--views", "3", "--rounds", "1", "--json"]
    argv += ["--model", "tiny-colorizer:colorize", "--model", "tiny-superres:superres"]
    monkeypatch.setattr(sys, "argv", [*argv, "--plot", str(tmp_path / "times.svg")])
    bench.main()
    result = json.loads(capsys.readouterr().out)
    assert list(result["models"]) == ["tiny-colorizer:colorize", "tiny-superres:superres"]
    assert (result["size"], result["photos"]) == ("32 x 24, 3 source photos a frame", 8)
    for name, values in result["models"].items():
        even = values.pop("break_even")
        assert min(values.values()) > 0
        del values["features"]
        assert even == bench.Cost(**values).break_even(8)
        assert name in (tmp_path / "times.svg").read_text()
