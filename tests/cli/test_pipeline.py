"""The commands one after another: in one folder without more words, and in a shell pipe."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import plane_world
import pytest
from commands import FAST, shell
from plane_world import read_image, rig, write_scene

# ---- one folder ------------------------------------------------------------------------------------------------------


def test_encode_render_decode_in_one_folder_need_no_other_arguments(run, shared_model):
    write_scene(run.folder / "scene", rig(3))
    (features,) = run.ok("encode", "scene/", "--model", shared_model)
    assert run.ok("path", "scene/", "orbit", "--frames", "2", "--max-size", "48") == ["path.json"]
    (render,) = run.ok("render", "--poses", "path.json")
    frames, video = run.ok("decode", "--task", "negative")
    assert len(list(Path(features).glob("*.safetensors"))) == 3
    assert Path(render).resolve() == run.render_folder().resolve()
    assert frames == f"lift3d-out/{Path(render).name}/negative"
    assert video == f"{frames}.mp4"
    assert sorted(path.name for path in Path(frames).glob("*.png")) == ["0000.png", "0001.png"]
    assert Path(video).stat().st_size > 500


def test_default_model_colorizes(run):
    # With the weights that lift3d brings along.
    write_scene(run.folder / "scene", rig(2))
    run.ok("encode", "scene/")
    run.ok("path", "scene/", "views", "--every", "2")
    run.ok("render", "--poses", "path.json", *FAST)
    (frames,) = run.ok("decode", "--task", "colorize")
    (picture,) = Path(frames).rglob("*.png")
    assert read_image(picture).shape == (72, 96, 3)


def test_every_step_can_be_repeated_and_gives_the_same(done):
    def files() -> dict[str, bytes]:
        found = [*Path("scene/.lift3d").rglob("*"), Path("path.json")]
        return {str(path): path.read_bytes() for path in found if path.is_file()}

    done.ok("render", *FAST)  # notes that the folder is another one
    before = files()
    done.ok("path", "scene", "orbit", "--frames", "2", "--max-size", "48")
    render = done.ok("render", *FAST)
    assert done.ok("render", *FAST) == render
    first, second = (done.ok("decode", "--task", "recolor") for _ in range(2))
    assert first == second
    assert files() == before


def test_a_scene_names_its_latest_render(done):
    run_default = done.ok("render", *FAST)
    newer = done.ok("render", *FAST, "--views", "3")
    assert newer != run_default
    frames, _ = done.ok("decode", "scene", "--output", "a")
    assert frames == "a/recolor"
    Path(".lift3d.json").unlink()
    assert done.ok("decode", "scene")[0] == f"lift3d-out/{Path(newer[0]).name}/recolor"
    done.ok("render", "scene", *FAST)  # nothing to render, but it is the latest now
    assert done.ok("decode", "scene")[0] == f"lift3d-out/{Path(run_default[0]).name}/recolor"


def test_cache_elsewhere_is_remembered(run, shared_model):
    write_scene(run.folder / "scene", rig(4))
    run.ok("encode", "scene", "--model", shared_model, "--cache", "caches")
    run.ok("path", "scene", "orbit", "--frames", "1", "--max-size", "48")
    (render,) = run.ok("render", *FAST)
    assert Path(render).resolve().is_relative_to(run.folder / "caches")
    assert not (run.folder / "scene" / ".lift3d").exists()
    assert run.ok("decode") == [f"lift3d-out/{Path(render).name}/recolor"]


def test_cache_of_the_environment_is_used(run, shared_model, monkeypatch):
    monkeypatch.setenv("LIFT3D_CACHE", str(run.folder / "caches"))
    write_scene(run.folder / "scene", rig(3))
    (features,) = run.ok("encode", "scene", "--model", shared_model)
    assert Path(features).is_relative_to(run.folder / "caches")


def test_folder_can_be_moved_between_the_steps(done, tmp_path_factory):
    moved = tmp_path_factory.mktemp("elsewhere") / "work"
    shutil.copytree(done.folder, moved)
    shutil.rmtree(done.folder / "scene")
    os.chdir(moved)
    assert done.ok("decode")[0].startswith("lift3d-out/")
    done.ok("render", *FAST)


@pytest.mark.parametrize(
    ("words", "code"), [(["--poses", "missing.json"], 3), (["--model", "typo"], 4), (["--dtype", "int8"], 2)]
)
def test_render_with_wrong_arguments_forgets_nothing(done, words, code):
    assert done("render", *words).exit_code == code
    done.ok("decode")


def test_render_that_fails_leaves_what_was_rendered_before_to_those_who_name_it(done, monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    before = done.render_folder()
    with monkeypatch.context() as patch:
        patch.setattr("lift3d_cli.pipeline.lift.SceneLifter.lift", fail)
        assert done("render", *FAST, "--views", "3").exit_code == 6
    result = done("decode")
    assert result.exit_code == 4
    assert f"{Path.cwd()}/scene: the last render failed; 1 render before it is kept. hint:" in result.stderr
    assert result.stderr.rstrip().endswith(f"the latest: {before}")
    done.ok("decode", str(before))
    done.ok("encode", "scene", "--model", "rgb")
    assert "scene: it was encoded since it was rendered; 1 render" in done("decode").stderr
    done.ok("render", *FAST, "--model", "patches")
    done.ok("decode", "--task", "color")


def test_path_is_read_from_standard_input_as_a_name_or_as_json(done):
    by_file = done.ok("render", "scene", "--poses", "path.json", *FAST)
    by_name = done.ok("render", "scene", "--poses", "-", *FAST, stdin="path.json\n")
    by_text = done.ok("render", "scene", "--poses", "-", *FAST, stdin=Path("path.json").read_text())
    assert by_file == by_name == by_text


def test_frames_of_different_sizes_warn_that_there_is_no_video(done):
    path = json.loads(Path("path.json").read_text())
    path["poses"][0].update(w=30, h=40)
    Path("other.json").write_text(json.dumps(path))
    done.ok("render", "--poses", "other.json", *FAST)
    result = done("decode")
    assert result.exit_code == 0
    assert result.stderr == "warning: no video: the poses are of different sizes\n"
    assert len(result.stdout.splitlines()) == 1


# ---- the shell -------------------------------------------------------------------------------------------------------


def test_pipeline_of_path_render_and_decode(done_folder, tmp_path, untrained):
    work = plane_world.copy_of(done_folder, tmp_path / "work")
    (work / ".lift3d.json").unlink()
    (work / "path.json").unlink()
    done = shell(
        "lift3d path scene/ orbit --frames 2 --max-size 48"
        f" | lift3d render scene/ --poses - --weights {untrained}/lift3d.safetensors {' '.join(FAST)}"
        " | lift3d decode --task recolor",
        work,
    )
    assert (done.returncode, done.stderr) == (0, "")
    frames, video = done.stdout.splitlines()
    assert sorted(path.name for path in (work / frames).glob("*.png")) == ["0000.png", "0001.png"]
    assert (work / video).is_file()


def test_failed_render_in_a_pipe_does_not_decode_the_render_before(done_folder, tmp_path):
    work = plane_world.copy_of(done_folder, tmp_path / "work")
    done = shell("lift3d render --poses missing.json | lift3d decode --task recolor", work)
    assert done.returncode == 4
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("error: missing.json: cannot be read")
    assert "scene: the last render failed; 1 render before it is kept. hint: lift3d render, or name one" in lines[1]
    assert not (work / "lift3d-out").exists()


def test_reader_that_closes_the_pipe_early_is_no_bug(done_folder):
    # `true` is gone long before the answer is written.
    done = shell("lift3d info scene --json | true", done_folder)
    assert done.returncode == 1
    assert (done.stdout, done.stderr) == ("", "")


def test_interrupt_ends_in_one_line_and_keeps_what_is_done(done_folder, tmp_path):
    work = plane_world.copy_of(done_folder, tmp_path / "work")
    model = work / "slow.py"
    source = plane_world.MODEL_SOURCE.replace('name="patches"', 'name="slow"')
    # The first photo is encoded at once; the second says that it has begun, and never ends.
    slow = "import pathlib, time\n\nseen = []\n\n\n" + source.replace(
        "        grid = self.grid(",
        "        seen.append(1)\n        if len(seen) > 1:\n            pathlib.Path('begun').touch()\n"
        "            time.sleep(60)\n        grid = self.grid(",
    )
    model.write_text(slow)
    process = subprocess.Popen(
        [sys.executable, "-m", "lift3d_cli", "encode", "scene", "--model", "./slow.py:Patches"],
        cwd=work,
        # A background job of a shell ignores Ctrl-C, and so would everything that is started from it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(600):
        if (work / "begun").exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stdout == ""
    assert stderr == "interrupted: what was done is kept, the same command goes on from there\n"
    assert len(list((work / "scene" / ".lift3d" / "feats").glob("slow-*/*.safetensors"))) == 1


@pytest.mark.parametrize("argv", [["--version"], ["-m", "lift3d_cli", "--version"]])
def test_version_is_one_line(argv):
    command = [str(Path(sys.executable).with_name("lift3d"))] if argv == ["--version"] else [sys.executable]
    if not Path(command[0]).exists():
        pytest.skip("the lift3d command is not installed beside this python")
    done = subprocess.run([*command, *argv], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("lift3d 0.")
    assert len(done.stdout.splitlines()) == 1
