"""What each command prints and writes: results on standard output, JSON where asked for, nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import FAST
from plane_world import look_at, read_image, rig, write_image, write_scene

from lift3d_cli.scene.load import load_scene
from lift3d_cli.scene.paths import read_poses


def test_json_of_encode_counts_photos(done, shared_model):
    (entry,) = json.loads("\n".join(done.ok("encode", "scene", "--model", shared_model, "--json")))
    assert (entry["model"], entry["encoded"], entry["reused"]) == ("patches", 0, 4)
    assert Path(entry["path"]).is_dir()


def test_several_models_are_encoded_in_one_command(done, shared_model):
    folders = done.ok("encode", "scene", "--model", "rgb", "--model", shared_model)
    assert [Path(folder).name.split("-")[0] for folder in folders] == ["rgb", "patches"]


def test_prune_after_encode_deletes_what_nothing_explains(done):
    (first,) = done.ok("encode", "scene", "--model", "rgb", "--max-size", "48")
    (second,) = done.ok("encode", "scene", "--model", "rgb", "--max-size", "64", "--prune")
    assert not Path(first).exists()
    assert len(list(Path(second).glob("*.safetensors"))) == 4


def test_encode_finds_the_surface_of_each_photo_once(done, shared_model, monkeypatch):
    folder, lines = Path("scene/.lift3d/surfaces"), []
    found = sorted(folder.iterdir())
    assert len(found) == 4
    monkeypatch.setattr("lift3d_cli.cli.console.say", lines.append)
    found[0].unlink()
    done.ok("encode", "scene", "--model", shared_model)
    assert "surfaces: 1 photos' found, 3 were there" in lines
    assert sorted(folder.iterdir()) == found


def test_json_of_render_and_decode(done):
    render = json.loads("\n".join(done.ok("render", *FAST, "--json")))
    assert (render["frames"], Path(render["path"]).resolve()) == (2, done.render_folder().resolve())
    decoded = json.loads("\n".join(done.ok("decode", "--json")))
    assert decoded["frames"] == f"lift3d-out/{Path(render['path']).name}/recolor"
    assert decoded["video"] == f"{decoded['frames']}.mp4"
    assert json.loads("\n".join(done.ok("decode", "--json", "--no-video")))["video"] is None


def test_decode_writes_where_it_is_told(done):
    assert done.ok("decode", "--output", "mine") == ["mine/recolor", "mine/recolor.mp4"]
    assert Path("mine/recolor/0001.png").is_file()


def test_render_can_be_decoded_by_its_folder(done):
    Path(".lift3d.json").unlink()
    assert done.ok("decode", str(done.render_folder()))[1].endswith("recolor.mp4")


def test_decode_of_a_photo_needs_no_scene_to_be_named(done):
    (folder,) = done.ok("decode", "--source-view", "02.png", "--output", "mine")
    assert folder == "mine/recolor-2d"
    assert [path.name for path in Path(folder).glob("*.png")] == ["02.png"]


def test_raw_features_are_written_instead_of_frames(done):
    assert done.ok("decode", "--raw", "npy", "--output", "mine") == ["mine/features/patches"]
    assert np.load("mine/features/patches/0000.npy").shape[0] == 6
    assert not Path("mine/recolor").exists()


@pytest.mark.parametrize(("option", "value"), [("--raw", "jpg"), ("--point", "3"), ("--point", "a,b")])
def test_value_that_an_option_does_not_take_is_a_usage_error(done, option, value):
    result = done("decode", option, value)
    assert result.exit_code == 2
    assert option in result.stderr


def test_models_says_where_the_weights_are(done):
    lines = {line.split()[0]: line for line in done.ok("models")}
    assert lines["tiny-colorizer"].endswith("here, 3.9 MB")
    assert lines["swin2sr"].endswith("MB of caidas/swin2SR-classical-sr-x2-64")
    assert "cannot be used" not in "".join(lines.values())


def test_models_says_of_a_checkpoint_what_it_has(done, tmp_path):
    np.save(tmp_path / "0001.npy", np.zeros((5, 3, 4), np.float32))
    (entry,) = json.loads("\n".join(done.ok("models", f"maps:{tmp_path}?stride=8", "--json")))
    assert (entry["channels"], entry["stride"], entry["weights"]) == (5, 8, str(tmp_path))


def test_prompt_of_encode_is_a_setting_of_the_model(done):
    result = done("encode", "scene", "--model", "rgb", "--prompt", "make it snow")
    assert (result.exit_code, result.stderr.count("\n")) == (5, 1)
    assert "model rgb takes no setting 'prompt'" in result.stderr


# ---- path ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["orbit", "spiral", "interpolate"])
def test_path_has_the_frames_size_and_speed_asked_for(done, kind):
    assert done.ok("path", "scene", kind, "-n", "7", "--fps", "12", "--max-size", "64", "-o", "p.json") == ["p.json"]
    path = read_poses(Path("p.json"))
    assert (len(path), path.fps) == (7, 12)
    assert {(camera.width, camera.height) for camera in path.cameras} == {(64, 48)}


@pytest.mark.parametrize("kind", ["orbit", "spiral", "interpolate"])
def test_path_looks_at_what_the_photos_look_at(done, kind):
    done.ok("path", "scene", kind, "-n", "5")
    for camera in read_poses(Path("path.json")).cameras:
        uv, z = camera.project(np.array([[0.0, 0.0, 0.0]]))
        assert z[0] > 1
        assert (np.abs(uv[0] / (camera.width, camera.height) - 0.5) < 0.4).all()


def test_path_of_the_photos_own_poses_has_their_names(done):
    done.ok("path", "scene", "views", "--every", "2")
    path = read_poses(Path("path.json"))
    assert path.names == ("images/00", "images/02")
    for camera, photo in zip(path.cameras, load_scene("scene").cameras[::2], strict=True):
        np.testing.assert_allclose(camera.w2c, photo.w2c, atol=1e-9)
        np.testing.assert_allclose(camera.K, photo.K, atol=1e-9)


def test_frames_of_a_path_have_even_sides_and_are_no_larger_than_the_photos(run):
    cameras = [look_at((0.3 * i, 0, -4), width=97, height=71) for i in range(3)]
    write_scene(run.folder / "scene", cameras)
    for kind in ("orbit", "views"):
        run.ok("path", "scene", kind, "--max-size", "4000")
        assert {(c.width, c.height) for c in read_poses(Path("path.json")).cameras} == {(96, 72)}


def test_path_is_overwritten_by_a_path_only(done):
    done.ok("path", "scene", "orbit", "-n", "3")
    done.ok("path", "scene", "orbit", "-n", "4")
    assert len(read_poses(Path("path.json"))) == 4
    assert done("path", "scene", "orbit", "--output", "scene/transforms.json").exit_code == 3
    load_scene("scene")


# ---- info, models, eval ----------------------------------------------------------------------------------------------


def test_info_says_what_is_there(done):
    text = "\n".join(done.ok("info", "scene"))
    for word in ("nerfstudio", "96x72", "patches", "scene-path-"):
        assert word in text
    facts = json.loads("\n".join(done.ok("info", "scene", "--json")))
    assert facts["scene"]["photos"] == 4
    assert facts["scene"]["points"] == 200
    holdings = {holding["kind"]: holding for holding in facts["cache"]["holdings"]}
    assert (holdings["features"]["model"], holdings["features"]["files"]) == ("patches", 4)
    assert holdings["features"]["bytes"] > 4 * 6 * 24 * 18 * 2
    assert holdings["surfaces"]["files"] == 4


def test_info_of_a_fresh_scene_makes_nothing(run):
    write_scene(run.folder / "scene", rig(2))
    before = sorted(Path("scene").rglob("*"))
    run.ok("info", "scene")
    assert sorted(Path("scene").rglob("*")) == before


def test_info_names_what_cannot_be_used(done):
    next(Path("scene/.lift3d/feats").glob("*/encoder.json")).write_text("{")
    assert "cannot be used: " in "\n".join(done.ok("info", "scene"))


def test_models_lists_name_task_and_licence(run):
    lines = run.ok("models")
    assert lines[0].split() == ["model", "tasks", "stride", "channels", "licence", "commercial", "weights"]
    rows = {line.split()[0]: line.split() for line in lines[1:]}
    assert rows["rgb"][1:] == ["rgb", "1", "3", "Apache-2.0", "yes", "-"]
    assert rows["ovseg"][4:6] == ["CC-BY-NC-4.0", "no"]
    assert rows["maps"][4:6] == ["unknown", "-"]
    assert rows["tiny-colorizer"][1] == "colorize"
    listed = {entry["name"] for entry in json.loads("\n".join(run.ok("models", "--json")))}
    assert {"rgb", "tiny-colorizer"} <= listed


def test_models_lists_those_that_may_be_used_commercially(run, shared_model):
    free = {line.split()[0] for line in run.ok("models", "--commercial")[1:]}
    listed = {entry["name"]: entry for entry in json.loads("\n".join(run.ok("models", "--json")))}
    assert free == {name for name, entry in listed.items() if entry["commercial"]}
    assert {"clipseg", "dinov3", "instruct-pix2pix"} <= free
    assert not free & {"ovseg", "resshift", "maps", "torchscript"}
    assert run.ok("models", "ovseg", "--commercial", "--json") == ["[]"]
    assert "commercial True" in "\n".join(run.ok("models", shared_model, "--commercial"))


def test_models_says_all_of_one_model(run, shared_model):
    text = "\n".join(run.ok("models", shared_model))
    assert "channels   6" in text
    assert "stride     4" in text


def test_eval_prints_a_table_or_json(done, tmp_path):
    lines = done.ok("eval", "scene", "--every", "2", "--height", "36", "--views", "2", "--save", "pictures")
    assert lines[0].split() == ["photo", "psnr", "ssim", "coverage"]
    assert [line.split()[0] for line in lines[1:]] == ["images/00.png", "images/02.png", "mean", "lpips:"]
    assert read_image(Path("pictures/images-02.png")).shape == (36, 3 * 48, 3)
    argv = ["eval", "scene", "--every", "2", "--height", "36", "--views", "2", "--json"]
    result = json.loads("\n".join(done.ok(*argv)))
    assert f"{result['mean']['psnr']:.4f}" == lines[3].split()[1]


def test_eval_compares_features_of_a_model(done, shared_model):
    argv = ["eval", "scene", "--every", "2", "--height", "36", "--views", "2", "--model", shared_model, "--json"]
    assert "feature_mse_relative" in json.loads("\n".join(done.ok(*argv)))["mean"]


def test_eval_compares_decoded_frames_with_each_other(done, shared_model):
    argv = ["eval", "scene", "--every", "4", "--height", "0", "--views", "2", "--model", shared_model, "--consistency"]
    result = json.loads("\n".join(done.ok(*argv, "--task", "negative", "--json")))
    assert set(result["consistency"]) == {"near", "far"}
    lines = done.ok(*argv)
    methods = list(result["consistency"]["near"])
    assert methods == ["lifted", "2d-on-render", "2d-on-photo", "rendered-colour"]
    assert [line.split()[:2] for line in lines[-8:-4]] == [["near", method] for method in methods]


def test_ablate_prints_tables_or_json_and_writes_them(done, shared_model):
    argv = ["ablate", "scene", "--model", shared_model, "--every", "4", "--height", "0", "--views", "2"]
    lines = done.ok(*argv, "--output", "tables/ablation.md")
    assert lines[0] == "**patches**"
    assert Path("tables/ablation.md").read_text().splitlines() == lines[:-1]
    (result,) = json.loads("\n".join(done.ok(*argv, "--json")))
    assert result["scene"] == "scene"
    assert f"{result['errors']['patches']['full']['mse_relative']:.3f}" in next(x for x in lines if "`full`" in x)


def test_train_writes_weights_that_render_takes(done, shared_model):
    argv = ["train", "corrector", "scene", "--model", shared_model, "--weights", "none", "--examples", "1"]
    (path,) = done.ok(*argv, "--steps", "1", "--run", "run", "--device", "cpu")
    assert path == str(Path("run", "weights.safetensors"))
    assert Path("run/curves.csv").is_file()
    done.ok("render", *FAST, "--weights", path)


def test_json_is_json_also_where_a_number_is_not_defined(done):
    # Photos of one colour: features without variance have no relative error, and an exact render an infinite psnr.
    for path in Path("scene/images").iterdir():
        write_image(path, np.full((72, 96, 3), 128, np.uint8))
    argv = ["eval", "scene", "--every", "2", "--height", "0", "--views", "2", "--model", "rgb", "--json"]
    text = "\n".join(done.ok(*argv))
    result = json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
    assert result["mean"]["feature_mse_relative"] is None


def test_quiet_says_nothing_but_results(done):
    result = done("-q", "render", *FAST)
    assert (result.exit_code, result.stderr) == (0, "")
    assert len(result.stdout.splitlines()) == 1


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_somebody_who_watches_sees_progress_and_the_next_command_beside_the_results(done):
    master, slave = os.openpty()
    command = [sys.executable, "-m", "lift3d_cli", "encode", "scene", "--model", "rgb"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=slave, env={**os.environ, "TERM": "xterm"})
    os.close(slave)
    seen = b""
    with contextlib.suppress(OSError):  # what reading a closed terminal raises
        while block := os.read(master, 4096):
            seen += block
    os.close(master)
    (folder,) = process.communicate()[0].decode().splitlines()
    assert Path(folder).is_dir()
    assert b"encode rgb" in seen
    assert b"rgb: 4 photos encoded, 0 were there" in seen
    assert b"next: lift3d path" in seen


@pytest.mark.parametrize(
    "argv",
    [
        ["eval", "scene", "--save", "-"],
        ["ablate", "scene", "--output", "-"],
        ["train", "renderer", "scene", "--run", "-"],
        ["train", "renderer", "scene", "--output", "-"],
    ],
)
def test_standard_output_is_no_place_for_results(run, argv):
    result = run(*argv)
    assert result.exit_code == 2
    assert argv[-2] in result.stderr
    assert not Path("-").exists()
