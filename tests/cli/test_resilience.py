"""Damage is mended by the command that made the file, said by the one that needs it; nothing hangs, nothing escapes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import FAST, Run

from lift3d_cli.cli import console
from lift3d_cli.cli.app import interruption
from lift3d_cli.machine import atomic

DAMAGES = {
    "empty": lambda data: b"",
    "cut short": lambda data: data[: len(data) // 2],
    "one byte": lambda data: data[:90] + bytes([data[90] ^ 1]) + data[91:],
    "zeros": lambda data: b"\0" * len(data),
}


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("how", DAMAGES)
def test_render_mends_every_file_of_a_render(done: Run, how):
    assert done("render", "--confidence", *FAST).exit_code == 0
    folder = done.render_folder()
    whole = contents(folder)
    for pattern in (
        "manifest.json",
        "feats/*/manifest.json",
        "color/00000.png",
        "confidence/00001.png",
        "**/frames/*1.*",
    ):
        for path in folder.glob(pattern):
            path.write_bytes(DAMAGES[how](path.read_bytes()))
    result = done("render", "--confidence", *FAST)
    assert (result.exit_code, result.stderr) == (0, "")
    assert contents(folder) == whole
    assert done("decode").exit_code == 0


@pytest.mark.parametrize("how", DAMAGES)
def test_encode_mends_every_file_of_features(done: Run, how, shared_model):
    assert done("render", *FAST).exit_code == 0  # its manifest has the folder of the scene, a copy
    folder = Path("scene/.lift3d")
    whole = contents(folder)
    for pattern in ("feats/*/encoder.json", "feats/*/0*.safetensors", "surfaces/*", "points-*"):
        for path in folder.glob(pattern):
            path.write_bytes(DAMAGES[how](path.read_bytes()))
    assert done("encode", "scene", "--model", shared_model).exit_code == 0
    assert done("render", *FAST).exit_code == 0
    assert contents(folder) == whole


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("{}")])
def test_model_whose_record_is_damaged_is_not_left_out_of_a_render(done: Run, damage, shared_model):
    assert done("encode", "scene", "--model", "rgb", "--model", shared_model).exit_code == 0
    (record,) = Path("scene/.lift3d/feats").glob("patches-*/encoder.json")
    damage(record)
    result = done("render", *FAST)
    assert result.exit_code == 4
    assert "patches" in result.stderr
    assert done("render", "--model", "rgb", *FAST).exit_code == 0


def test_pipes_in_place_of_files_are_said_and_not_waited_for(done: Run):
    folder = done.render_folder()
    for path in (folder / "color" / "00000.png", folder / "frames" / "00001.safetensors"):
        path.unlink()
        os.mkfifo(path)
        assert done("decode").exit_code == 4
        path.unlink()
        assert done("render", *FAST).exit_code == 0
    os.mkfifo("pipe")
    assert done("render", "--weights", "pipe", *FAST).exit_code == 5
    assert done("render", "--weights", "/dev/zero", *FAST).exit_code == 5
    assert done("path", "scene", "orbit", "--output", "pipe").exit_code == 3
    Path(".lift3d.json").unlink()
    os.mkfifo(".lift3d.json")
    assert done("decode").exit_code == 4


def test_refused_render_does_not_block_the_corrected_one(done: Run):
    small = ["render", "--output", "mine", *FAST, "--memory", "64MiB", "--planes", "9"]
    path = json.loads(Path("path.json").read_text())
    for pose in path["poses"]:
        pose.update(w=2048, h=2048)
    Path("big.json").write_text(json.dumps(path))
    assert done(*small, "--poses", "big.json").exit_code == 6
    assert done("render", "--output", "mine", *FAST).exit_code == 0
    assert done("decode", "mine").exit_code == 0
    assert done("render", "--output", "mine", *FAST, "--views", "3").exit_code == 4


@pytest.mark.parametrize("folder", ["scene", "site", "."])
def test_render_does_not_litter_a_folder_with_other_files(done: Run, folder):
    Path("site").mkdir()
    Path("site/manifest.json").write_text('{"name": "a web page"}')
    before = contents(Path(folder))
    result = done("render", "--output", folder, *FAST)
    assert result.exit_code == 4
    assert "holds other files, such as" in result.stderr
    before.pop(".lift3d.json", None)
    assert {name: data for name, data in contents(Path(folder)).items() if name in before} == before
    assert not (Path(folder) / "frames").exists()


@pytest.mark.parametrize("length", [241, 250, 5000])
def test_name_that_decode_could_not_write_is_refused_by_render(done: Run, length):
    path = json.loads(Path("path.json").read_text())
    path["poses"][0]["name"] = "n" * length
    Path("path.json").write_text(json.dumps(path))
    result = done("render", *FAST)
    assert result.exit_code == 3
    assert '"name" is' in result.stderr


def test_longest_name_that_render_takes_can_be_decoded(done: Run):
    path = json.loads(Path("path.json").read_text())
    path["poses"][0]["name"] = "ü" * 120
    Path("path.json").write_text(json.dumps(path))
    assert done("render", *FAST).exit_code == 0
    assert done("decode").exit_code == 0
    assert done("decode", "--raw", "safetensors").exit_code == 0


def test_code_in_a_cache_render_or_scene_is_not_run(done: Run, model_file):
    """Somebody's scene with a cache in it would be a program otherwise."""
    mark = Path("was-run").absolute()
    inside = Path("scene/model.py")
    inside.write_text(f"open({str(mark)!r}, 'w')\n" + model_file.read_text())
    assert done("encode", "scene", "--model", "scene/model.py:Patches").exit_code == 0
    mark.unlink()
    for argv in (["render", "scene", *FAST], ["render", "scene", "--model", "patches", *FAST]):
        result = done(*argv)
        assert result.exit_code == 5
        assert "may be somebody else's" in result.stderr
    assert not mark.exists()


def test_names_do_not_steer_the_terminal(done: Run):
    data = json.loads(Path("scene/transforms.json").read_text())
    data["frames"][0]["file_path"] = "images/\x1b[31mred\u202e\x07.png"
    Path("scene/transforms.json").write_text(json.dumps(data))
    for argv in (["info", "scene"], ["encode", "scene", "--model", "rgb"], ["encode", "\x1b[2J"]):
        result = done(*argv)
        assert not any(ord(c) < 32 and c != "\n" for c in result.output), argv
        assert "\u202e" not in result.output
    assert r"\x1b[2J" in result.stderr


@pytest.mark.parametrize(
    "argv",
    [
        ["\x1b[2J"],
        ["--\x1b[2J"],
        ["info", "--\x1b[2J\u202e"],
        ["info", "a", "b\x1b\n\x07"],
        ["render", "--dtype", "\x9b2J"],
    ],
)
def test_usage_errors_do_not_steer_the_terminal(run: Run, argv):
    result = run(*argv)
    assert result.exit_code == 2
    assert all(c.isprintable() or c == "\n" for c in result.output)
    assert "\\x" in result.stderr


@pytest.mark.parametrize("value", ["a\x1b]0;t\x07b", "\x9b31m", "\u202eb", "\udcff", "a\rb"])
def test_escape_leaves_only_what_is_printable(value):
    assert console.escaped(value).isprintable()


def test_terminal_of_ascii_can_show_any_scene(tmp_path, wall_scene):
    folder = shutil.copytree(wall_scene, tmp_path / "szené")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LIFT3D_CACHE": str(tmp_path / "ö")}
    command = [sys.executable, "-m", "lift3d_cli", "info", str(folder)]
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"szen\xe9" in done.stdout


@pytest.mark.parametrize("delay", [0.15, 0.4, 0.8])
def test_interrupt_while_starting_is_no_traceback(delay):
    """Python itself is not ready for it in its first tenth of a second, or later on a busy computer."""
    # A shell's background command, such as a run of these tests, ignores interrupts, and so does what it starts.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); print(flush=True)\n"
        "from lift3d_cli.__main__ import main; main()"
    )
    command = [sys.executable, "-c", code, "models"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode in (0, 130), stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_interrupt_that_an_import_hides_behind_its_own_error_is_one(name, code, tmp_path):
    """As numpy's does when torch's import of it is stopped."""
    (tmp_path / "model.py").write_text(
        f"import os, signal\ntry:\n    os.kill(os.getpid(), signal.{name})\n    signal.pause()\n"
        "except KeyboardInterrupt:\n    pass\n"
        "raise ImportError('cannot load module more than once per process')\n"
    )
    start = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from lift3d_cli.__main__ import main; main()"
    )
    command = [sys.executable, "-c", start, "models", f"{tmp_path / 'model.py'}:Model"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, "interrupted: nothing was written yet\n")


@pytest.mark.skipif(os.name == "nt", reason="a current folder cannot be removed there")
def test_removed_current_folder_is_said_in_a_line(tmp_path, wall_scene):
    gone = tmp_path / "gone"
    gone.mkdir()
    for words in (("info", str(wall_scene)), ("path", str(wall_scene), "orbit"), ("decode",)):
        argv = [sys.executable, "-m", "lift3d_cli", *words]
        code = "import os, sys; os.chdir(sys.argv[1]); os.rmdir(sys.argv[1]); os.execv(sys.argv[2], sys.argv[2:])"
        gone.mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-c", code, str(gone), *argv], capture_output=True, text=True, check=False
        )
        assert done.stderr.count("\n") <= 1, done.stderr
        assert done.returncode in (0, 6), done.stderr


def test_interruption_says_what_is_true(monkeypatch):
    monkeypatch.setattr(atomic._state, "has_written", False)
    assert interruption("render") == "interrupted: nothing was written yet"
    monkeypatch.setattr(atomic._state, "has_written", True)
    assert "goes on from there" in interruption("render")
    assert "again" in interruption("decode")
