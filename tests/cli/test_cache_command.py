"""`lift3d cache` and `lift3d doctor`: what is there, what is damaged, what goes, and whether it all works."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from lift3d_cli.cache.inventory import Holding, to_prune

DAY = 24 * 3600


def test_list_says_what_made_each_part(done):
    text = "\n".join(done.ok("cache", "list"))
    assert "encode --model" in text
    assert "render of 2 poses, patches" in text
    rows = json.loads("\n".join(done.ok("cache", "list", "scene", "--json")))["holdings"]
    assert {"features", "render", "surfaces"} <= {row["kind"] for row in rows}
    assert all(row["bytes"] > 0 and 0 <= row["age_seconds"] < 3600 for row in rows)


def test_verify_finds_files_that_are_cut_off_or_have_nan(done):
    assert done.ok("cache", "verify")[-1].endswith("all files are whole")
    features = sorted(Path("scene/.lift3d/feats").rglob("*.safetensors"))
    features[0].write_bytes(features[0].read_bytes()[:-10])
    picture = next(Path("scene/.lift3d/renders").rglob("color/*.png"))
    picture.write_bytes(picture.read_bytes()[:50])
    result = done("cache", "verify")
    assert result.exit_code == 4
    assert "2 damaged files. hint: delete them" in result.stderr
    assert {line.split(": ")[0].rsplit("/", 1)[-1] for line in result.stdout.splitlines()} == {
        features[0].name,
        picture.name,
    }


def test_prune_is_dry_unless_told_otherwise(done):
    before = sorted(Path("scene/.lift3d").rglob("*"))
    assert any("patches" in line for line in done.ok("cache", "prune", "--model", "patches"))
    assert sorted(Path("scene/.lift3d").rglob("*")) == before
    done.ok("cache", "prune", "--model", "patches", "--delete")
    assert not list(Path("scene/.lift3d/feats").iterdir())
    assert done.render_folder().exists()


def test_lost_record_of_features_is_found_and_made_again(done, shared_model):
    record = next(Path("scene/.lift3d/feats").glob("*/encoder.json"))
    manifest = done.render_folder() / "manifest.json"
    kept = manifest.read_bytes()
    record.unlink()
    manifest.unlink()
    result = done("cache", "verify")
    assert result.exit_code == 4
    said = [line.split(": ")[:2] for line in result.stdout.splitlines()]
    assert [(Path(path).absolute(), what) for path, what in said] == [
        (record.absolute(), "missing"),
        (manifest.absolute(), "missing"),
    ]
    assert any(record.parent.name in line for line in done.ok("cache", "prune", "--model", "patches"))
    manifest.write_bytes(kept)
    done.ok("encode", "scene", "--model", shared_model)
    assert done.ok("cache", "verify")[-1].endswith("all files are whole")


def test_prune_of_a_model_that_is_not_there_is_an_error(done):
    result = done("cache", "prune", "--model", "unknown")
    assert result.exit_code == 4
    assert "has no features of unknown. hint: lift3d cache list" in result.stderr


def test_prune_by_age_takes_what_is_old(done):
    render = done.render_folder()
    for path in render.rglob("*"):
        os.utime(path, (time.time() - 40 * DAY,) * 2)
    done.ok("cache", "prune", "--older-than", "30", "--delete")
    assert not render.exists()
    assert list(Path("scene/.lift3d/feats").rglob("*.safetensors"))


def test_prune_to_a_size_removes_the_longest_unused_first():
    holdings = [Holding("features", Path(name), 1, 10, last_used=used) for name, used in (("a", 3), ("b", 1), ("c", 2))]
    holdings.append(Holding("photos", Path("p"), 1, 10, last_used=0))
    assert [h.path.name for h in to_prune(holdings, now=9, most_bytes=25)] == ["b", "c"]
    assert to_prune(holdings, now=9, most_bytes=40) == []
    assert [h.path.name for h in to_prune(holdings, now=9, older_than=7)] == ["p", "b"]


@pytest.mark.parametrize(
    "argv",
    [["list", "--delete"], ["verify", "--older-than", "3"], ["prune"], ["prune", "--delete"], ["list", "--model", "x"]],
)
def test_options_of_other_actions_are_usage_errors(done, argv):
    assert done("cache", *argv).exit_code == 2


def test_doctor_renders_and_gives_a_verdict(run):
    lines = run.ok("doctor", "--device", "cpu")
    assert any(line.startswith("ffmpeg") and "version" in line for line in lines)
    assert any(line.startswith("self-test") and "dB" in line for line in lines)
    assert lines[-1].split() == ["verdict", "all", "is", "well"]


def test_doctor_tells_what_is_wrong(run, monkeypatch):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    result = run("doctor", "--device", "cpu", "--json")
    assert result.exit_code == 6
    facts = json.loads(result.stdout)
    assert facts["verdict"] == "1 problem"
    assert "ffmpeg" in facts["problems"][0]


def test_doctor_shows_its_table_where_the_device_is_missing(run, monkeypatch):
    monkeypatch.setenv("LIFT3D_DEVICE", "cuda:99")
    result = run("doctor")
    assert result.exit_code == 6
    rows = [line.split(maxsplit=1) for line in result.stdout.splitlines()]
    assert {"lift3d", "torch", "device", "memory", "ffmpeg", "self-test"} < {row[0] for row in rows}
    assert [row[1].split(":")[0] for row in rows if row[0] == "problem"] == ["--device cuda"]
    assert rows[-1] == ["verdict", "1 problem"]
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.count("hint:") == 1


def test_info_shows_no_raw_values(done):
    text = "\n".join(done.ok("info", "scene"))
    assert "[" not in text
    assert "96x72 pixels" in text
    assert "kB" in text


def test_info_tells_encodings_of_one_model_apart(done):
    done.ok("encode", "scene", "--model", "rgb")
    done.ok("encode", "scene", "--model", "rgb", "--max-size", "32", "--dtype", "fp32")
    lines = [line for line in done.ok("info", "scene") if " rgb " in line]
    assert sorted(line.split("  ")[-1] for line in lines) == [
        "encode --model rgb",
        "encode --model rgb --max-size 32 --dtype fp32",
    ]
    holdings = json.loads("\n".join(done.ok("info", "scene", "--json")))["cache"]["holdings"]
    assert "encode --model rgb" in [holding["made_by"] for holding in holdings]
