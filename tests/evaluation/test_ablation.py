"""The table of the parts: every row for every model, from photos that were left out."""

from __future__ import annotations

import json

import pytest

from lift3d_cli.config import AblationConfig
from lift3d_cli.evaluation.ablation import ROWS, ablate, as_markdown
from lift3d_cli.scene.load import load_scene


@pytest.fixture(scope="module")
def result(wall_scene, tmp_path_factory) -> dict:
    import plane_world

    path = tmp_path_factory.mktemp("model") / "patches.py"
    path.write_text(plane_world.MODEL_SOURCE)
    config = AblationConfig((f"{path}:Patches", "rgb"), every=4, height=0, views=4)
    return ablate(load_scene(wall_scene), config)


def test_every_row_of_every_model_is_measured(result):
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert set(result["errors"]) == {"patches", "rgb"}
    for rows in result["errors"].values():
        assert list(rows) == list(ROWS)


def test_oracle_is_best_of_what_blends_the_photos(result):
    for rows in result["errors"].values():
        blends = ("no-correction", "nearest-photo", "training-free")
        assert all(rows["oracle"]["mse"] <= rows[row]["mse"] * 1.05 for row in blends)


def test_prediction_is_far_behind(result):
    rows = result["errors"]["patches"]
    assert rows["feature-prediction"]["mse_relative"] > 3 * rows["no-correction"]["mse_relative"]


def test_tables_have_a_row_for_each_way_and_a_column_for_each_scene(result):
    text = as_markdown([result, result | {"scene": "other"}])
    assert text.count("**") == 4  # two models
    for row in ROWS:
        assert text.count(f"| `{row}`:") == 2
    line = next(line for line in text.splitlines() if line.startswith("| `full`"))
    assert line.count("|") == 5
