"""`eval --suite` and `--scenes`: every table of every model, means over scenes, and what is not measured is said."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from plane_world import copy_of
from typer.testing import CliRunner, Result

from lift3d_cli.cli.app import app
from lift3d_cli.config import EvalConfig
from lift3d_cli.evaluation.protocols import evaluate
from lift3d_cli.evaluation.suite import as_markdown, mean_over, measure_suite, over_scenes
from lift3d_cli.scene.load import load_scene

SMALL = ["--every", "4", "--height", "36", "--views", "2"]


@pytest.fixture(scope="module")
def result(wall_scene, tmp_path_factory) -> dict:
    import plane_world

    path = tmp_path_factory.mktemp("model") / "patches.py"
    path.write_text(plane_world.MODEL_SOURCE)
    return measure_suite(load_scene(wall_scene), EvalConfig(every=8, height=36, views=2), [f"{path}:Patches", "rgb"])


def test_mean_is_over_what_is_there_and_finite():
    assert mean_over([{"a": {"b": 1, "c": 2.0}}, {"a": {"b": 4}}]) == {"a": {"b": 2.5, "c": 2.0}}
    assert mean_over([{"x": math.nan}, {"x": 3.0}]) == {"x": 3.0}
    assert mean_over([{"x": None}, {"x": math.inf}]) == {"x": None}


def test_all_is_measured_of_every_model(result):
    assert set(result["pictures"]) == {"2 photos", "3 photos", "6 photos", "10 photos", "training-free, 2 photos"}
    assert set(result["errors"]) == set(result["segmentation"]) == set(result["cost"]) == {"patches", "rgb"}
    assert set(result["consistency"]) == {"patches, recolor", "patches, negative", "rgb, rgb"}
    assert set(result["not_measured"]) == {"lpips", "editing"}


def test_pictures_are_rendered_from_as_many_photos_as_their_row_says(result, wall_scene):
    alone = evaluate(load_scene(wall_scene), EvalConfig(every=8, height=36, views=6))["mean"]
    assert result["pictures"]["6 photos"]["psnr"] == pytest.approx(alone["psnr"], abs=1e-3)
    assert result["pictures"]["2 photos"]["psnr"] != pytest.approx(alone["psnr"], abs=1e-3)


def test_document_has_every_table_and_says_what_is_not_measured(result):
    text = as_markdown([result, result | {"scene": "other"}])
    assert text.startswith("lift3d ")
    assert "Every 8th photo left out, height 36, up to 2 source photos" in text
    heads = [line.split(" (")[0] for line in text.splitlines() if line.startswith("## ")]
    assert heads == ["## Pictures", "## What each part is worth", "## Segmentation", "## View consistency", "## Cost"]
    assert "lpips: not measured (no weights. hint: --lpips FILE)" in text
    assert "editing: not measured (no captions" in text
    psnr = f"{result['pictures']['3 photos']['psnr']:.2f}"
    (row,) = (line for line in text.splitlines() if line.startswith("| `3 photos`"))
    assert [cell.split(" / ")[0].strip() for cell in row.split("|")[2:5]] == [psnr] * 3
    assert sum(line.startswith("| `near, lifted`") for line in text.splitlines()) == 3
    assert sum(line.startswith("| `2d-on-render`") for line in text.splitlines()) == 4  # of Table 3 and 4, two models


def test_scenes_together_have_means_of_every_part(result):
    other = result | {"scene": "other", "pictures": {"3 photos": {"psnr": 10.0}}}
    together = over_scenes([result, other])
    assert together["pictures"]["3 photos"]["psnr"] == (result["pictures"]["3 photos"]["psnr"] + 10) / 2
    assert together["pictures"]["6 photos"] == result["pictures"]["6 photos"]
    assert [row["name"] for row in together["views"]] == ["scene", "other"]
    assert over_scenes([])["scenes"] == []


# ---- the command -----------------------------------------------------------------------------------------------------


def run(*argv: str) -> Result:
    return CliRunner().invoke(app, ["eval", *argv])


@pytest.fixture
def folder(wall_scene, tmp_path) -> Path:
    """Two scenes and what is none."""
    for name in ("a", "b"):
        copy_of(wall_scene, tmp_path / "scenes" / name)
    (tmp_path / "scenes" / "broken").mkdir()
    (tmp_path / "scenes" / ".cache").mkdir()
    (tmp_path / "scenes" / "notes.txt").touch()
    return tmp_path / "scenes"


def test_scene_that_fails_is_named_and_the_others_go_on(folder):
    done = run("--scenes", str(folder), *SMALL, "--json")
    assert done.exit_code == 3
    assert done.stderr.startswith("error: broken: ")
    assert done.stderr.count("\n") == 1
    result = json.loads(done.stdout)
    assert [scene["scene"] for scene in result["scenes"]] == ["a", "b"]
    assert set(result["failed"]) == {"broken"}
    assert result["mean"]["psnr"] == pytest.approx(result["scenes"][0]["mean"]["psnr"])


def test_table_of_scenes_has_a_row_for_each(folder):
    (folder / "broken").rmdir()
    done = run("--scenes", str(folder), *SMALL, "--save", str(folder.parent / "pictures"))
    assert (done.exit_code, done.stderr) == (0, "")
    saved = [sorted(p.name for p in (folder.parent / "pictures" / name).iterdir()) for name in ("a", "b")]
    assert saved[0] == saved[1] != []  # photos of one name, apart
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["scene", "a", "b", "mean", "lpips:"]
    assert lines[-1] == "lpips: not measured (no weights. hint: --lpips FILE)"


def test_all_protocols_of_one_scene_are_printed(wall_scene, model_ref):
    argv = [str(wall_scene), *SMALL, "--variant", "training-free", "--model", model_ref]
    done = run(*argv, "--consistency", "--segmentation", "--cost", "--clusters", "2")
    assert (done.exit_code, done.stderr) == (0, "")
    for start in ("segmentation lifted-3 ", "segmentation 2d-on-render ", "cost ", "near  lifted ", "far   lifted "):
        assert any(line.startswith(start) for line in done.stdout.splitlines()), start


def test_lpips_is_measured_with_weights(wall_scene, tmp_path, monkeypatch):
    from lpips_weights import save_lpips

    path = save_lpips(tmp_path / "lpips.safetensors", "alex")
    got = json.loads(run(str(wall_scene), *SMALL, "--variant", "training-free", "--lpips", path, "--json").stdout)
    assert got["not_measured"] == {}
    assert 0 < got["mean"]["lpips"] < 1
    monkeypatch.setenv("LIFT3D_LPIPS", path)
    assert "lpips" in run(str(wall_scene), *SMALL, "--variant", "training-free").stdout.splitlines()[0].split()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["scene", "--suite"], "needs --model"),
        (["scene", "--cost"], "needs --model"),
        (["scene", "--model", "rgb", "--model", "style"], "several with --suite"),
        (["scene", "--masks", "masks"], "is for --segmentation"),
        (["scene", "--edit-text", "a", "b"], "is for --consistency"),
        ([], "or --scenes with a folder"),
        (["scene", "--scenes", "scenes"], "or --scenes with a folder"),
    ],
)
def test_usage_that_makes_no_sense_is_refused(argv, message):
    done = run(*argv)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())


def test_folder_without_scenes_is_refused(tmp_path):
    done = run("--scenes", str(tmp_path))
    assert done.exit_code == 3
    assert "has no folders of scenes" in done.stderr
