"""`render` lifts what was encoded for it; options that do nothing are errors; time is told before it is spent."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from commands import FAST


def lifted(folder: str) -> set[str]:
    return {path.parent.name.rsplit("-", 1)[0] for path in Path(folder).glob("feats/*/manifest.json")}


def test_only_what_was_encoded_since_the_last_render_is_lifted(done):
    done.ok("encode", "scene", "--model", "rgb")
    done.ok("encode", "scene", "--model", "tiny-colorizer")
    (render,) = done.ok("render", "-q", *FAST, "--views", "3")
    assert lifted(render) == {"rgb", "tiny-colorizer"}
    (again,) = done.ok("render", "-q", *FAST, "--views", "4")  # another render: the same models
    assert lifted(again) == {"rgb", "tiny-colorizer"}
    done.ok("encode", "scene", "--model", "rgb")
    (third,) = done.ok("render", "-q", *FAST, "--views", "5")
    assert lifted(third) == {"rgb"}


def test_log_says_what_is_left_out_where_nobody_chose(done):
    done.ok("encode", "scene", "--model", "rgb")
    result = done("render", *FAST, "--views", "3")
    assert result.stderr == "lifts rgb; encoded too: patches. --model adds one later, and keeps the colour\n"
    done.ok("render", *FAST, "--views", "3", "--model", "patches")  # chosen
    done.ok("encode", "scene", "--model", "rgb")
    done.ok("render", *FAST, "--views", "3")  # patches are there already


def test_nothing_is_said_to_be_lifted_that_is_not_encoded(done):
    done.ok("encode", "scene", "--model", "rgb")
    next(Path("scene/.lift3d/feats").glob("rgb-*/*.safetensors")).unlink()
    result = done("render", *FAST)
    assert result.exit_code == 4
    assert "photos are not encoded with rgb" in result.stderr
    assert "lifts" not in result.stderr


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["patchs"], 4, "has no features of patchs. Did you mean 'patches'?"),
        (["non"], 4, "has no features of non. Did you mean 'none'?"),
        (["tiny-coloriser"], 4, "Did you mean 'tiny-colorizer'? hint: lift3d encode scene --model tiny-colorizer"),
        (["rgb"], 4, "has no features of rgb. hint: lift3d encode scene --model rgb"),
        (["typo"], 4, "has no features of typo, only of patches. hint: --model one of these"),
        (["none", "patches"], 2, "--model none: is for colour only, not with other models"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--dry-run"], ["--print-commands", "2"]])
def test_model_that_is_not_encoded_is_guessed_or_said_how_to_encode(done, words, code, line, more):
    result = done("render", *FAST, *more, *(word for name in words for word in ("--model", name)))
    assert (result.exit_code, result.stdout) == (code, "")
    assert line in result.stderr


def test_model_is_added_to_the_same_render_and_colour_is_kept(done):
    before = {p: p.stat().st_mtime_ns for p in done.render_folder().glob("color/*.png")}
    done.ok("encode", "scene", "--model", "rgb")
    (render,) = done.ok("render", *FAST, "--model", "rgb")
    assert Path(render).resolve() == done.render_folder().resolve()
    assert lifted(render) == {"patches", "rgb"}
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_colour_only_needs_no_model(done):
    (render,) = done.ok("render", *FAST, "--views", "3", "--model", "none")
    assert lifted(render) == set()
    frames, video = done.ok("decode", "--task", "color")
    assert len(list(Path(frames).glob("*.png"))) == 2
    assert Path(video).exists()


def test_without_a_note_the_model_that_was_encoded_last_is_lifted(done):
    done.ok("encode", "scene", "--model", "rgb")
    Path(".lift3d.json").unlink()
    (render,) = done.ok("render", "-q", "scene", *FAST, "--views", "3")
    assert lifted(render) == {"rgb"}


def test_features_of_another_size_are_taken_where_the_last_ones_lack_photos(done):
    done.ok("encode", "scene", "--model", "rgb")
    done.ok("encode", "scene", "--model", "rgb", "--max-size", "48")
    (folder,) = [
        p.parent for p in Path("scene/.lift3d/feats").glob("rgb-*/encoder.json") if '"max_size":48' in p.read_text()
    ]
    next(folder.glob("*.safetensors")).unlink()
    result = done("render", *FAST, "--views", "4", "--model", "rgb")
    assert result.exit_code == 0
    assert "warning: rgb: the features by --model rgb are taken; those encoded last, by --model rgb --max-size 48" in (
        result.stderr
    )


def test_features_of_other_weights_are_named_and_not_taken(done, shared_model):
    result = done("render", *FAST, "--model", "rgb:other.safetensors")
    assert result.exit_code == 4
    done.ok("encode", "scene", "--model", "rgb")
    result = done("render", *FAST, "--model", "rgb:other.safetensors")
    assert "has features of rgb, but by other weights or settings" in result.stderr
    assert "hint: --model rgb takes them" in result.stderr


def test_dry_run_says_what_it_takes_and_does_nothing(done):
    before = {p: p.stat().st_mtime_ns for p in Path(".").rglob("*") if p.is_file()}
    assert done.ok("render", *FAST, "--dry-run") == ["nothing to render: all frames are there"]
    asked = ("--views", "3", "--memory", "512GiB", "--dry-run", "--json")
    found = json.loads("\n".join(done.ok("render", *FAST, *asked)))
    assert found["memory_bytes"] < 2**36, "what is needed, not what is allowed"
    assert found["frames"] == 2
    assert found["seconds"] == pytest.approx(2 * found["seconds_per_frame"])
    assert found["seconds"] > 0
    assert found["disk_bytes"] > 2 * 48 * 36
    assert {p: p.stat().st_mtime_ns for p in Path(".").rglob("*") if p.is_file()} == before


def test_dry_run_counts_features_of_another_encoding_or_type_as_not_there(done):
    done.ok("encode", "scene", "--model", "rgb")
    words = ("render", *FAST, "--model", "rgb")
    done.ok(*words)
    assert done.ok(*words, "--dry-run") == ["nothing to render: all frames are there"]
    assert done.ok(*words, "--dtype", "fp32", "--dry-run")[0].startswith("2 frames: ")
    done.ok("encode", "scene", "--model", "rgb", "--max-size", "32")
    assert done.ok(*words, "--dry-run")[0].startswith("2 frames: ")
    done.ok(*words)
    assert done.ok(*words, "--dry-run") == ["nothing to render: all frames are there"]


def test_dry_run_refuses_a_folder_that_the_render_would_refuse(done):
    words = ("render", *FAST, "--output", "mine")
    done.ok(*words)
    for more in ([], ["--dry-run"]):
        result = done(*words, "--views", "3", *more)
        assert (result.exit_code, result.stdout) == (4, "")
        assert "mine: holds another render" in result.stderr


def test_preview_is_small_and_a_render_of_its_own(done):
    done.ok("path", "scene", "orbit", "--frames", "30", "--output", "long.json")
    (render,) = done.ok("render", *FAST, "--poses", "long.json", "--preview", "--model", "none")
    assert "long-preview" in render
    assert len(list(Path(render).glob("color/*.png"))) == 10


@pytest.mark.parametrize(
    "argv",
    [
        ["path", "scene", "views", "--frames", "8"],
        ["path", "scene", "orbit", "--every", "2"],
        ["path", "scene", "orbit", "-o", "-"],
        ["decode", "--task", "recolor", "-o", "-"],
        ["decode", "--task", "recolor", "--clusters", "3"],
        ["decode", "--task", "recolor", "--soft-masks"],
        ["decode", "--task", "depth", "--text", "chair"],
        ["decode", "--raw", "npz", "--codec", "gif"],
    ],
)
def test_options_that_do_nothing_are_usage_errors(done, argv):
    result = done(*argv)
    assert result.exit_code == 2
    assert not Path("-").exists()


def test_tasks_are_guessed(done):
    assert "Did you mean 'recolor'?" in done("decode", "--task", "recolour").stderr


@pytest.mark.parametrize(
    "argv", [["-q", "path", "scene", "orbit"], ["path", "-q", "scene", "orbit"], ["path", "scene", "orbit", "--quiet"]]
)
def test_quiet_may_stand_before_or_after_the_command(done, argv):
    from lift3d_cli.cli import console

    assert done.ok(*argv) == ["path.json"]
    assert console.quiet
    done.ok("path", "scene", "orbit")
    assert not console.quiet


def test_photo_is_found_without_its_suffix(done):
    frames = done.ok("decode", "--task", "recolor", "--source-view", "02")[0]
    assert [path.name for path in Path(frames).glob("*.png")] == ["02.png"]


def test_features_that_are_gone_are_asked_for_and_not_left_out(done):
    shutil.rmtree("scene/.lift3d/feats")
    result = done("render", *FAST, "--views", "3")
    assert result.exit_code == 4
    assert "has no features of patches. hint: lift3d encode scene" in result.stderr
