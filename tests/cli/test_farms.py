"""Several processes share a render: named frames, parts, the commands for them; and SIGTERM, which ends one of them."""

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
from commands import FAST, Run, shell

from lift3d_cli.cli import console, render
from lift3d_cli.pipeline.forecast import Forecast


@pytest.fixture
def long(done: Run) -> Run:
    """With `long.json`, a path of 6 poses."""
    done.ok("path", "scene", "orbit", "--frames", "6", "--max-size", "48", "--output", "long.json")
    return done


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_parts_make_the_render_that_one_process_makes(long: Run):
    words = ["render", "-q", *FAST, "--poses", "long.json"]
    (folder,) = long.ok(*words)
    whole = contents(Path(folder))
    shutil.rmtree(folder)
    assert long.ok(*words, "--frames", "4-5") == [folder]
    assert sorted(p.name for p in Path(folder, "color").iterdir()) == ["00004.png", "00005.png"]
    found = json.loads("\n".join(long.ok(*words, "--shard", "1/3", "--json")))
    assert (found["frames"], found["missing"], len(found["coverage"])) == (6, 2, 2)
    assert "2 of 6 frames are not rendered yet" in long("decode", "--task", "color").stderr
    assert long.ok(*words, "--shard", "2/3") == [folder]
    assert contents(Path(folder)) == whole


def test_commands_are_complete_and_share_a_render_at_the_same_time(long: Run, tmp_path):
    lines = long.ok("render", *FAST, "--poses", "long.json", "--print-commands", "2")
    assert len(lines) == 2
    assert lines[0].endswith("--views 2 --planes 8 --samples 2 --shard 1/2")
    assert f"cd {Path.cwd()} && {sys.executable} -m lift3d_cli render scene --model patches --poses" in lines[0]
    Path(".lift3d.json").unlink()
    done = shell(f"cd /; ({lines[0]}) & {lines[1]}; wait", tmp_path)
    assert done.returncode == 0, done.stderr
    (made,) = set(done.stdout.splitlines())
    again = shell(f"{lines[0].rsplit(' --shard', 1)[0]} --output other", tmp_path)
    assert again.returncode == 0, again.stderr
    assert contents(Path("other")) == contents(Path(made))


def test_commands_name_the_program_that_printed_them(long: Run, monkeypatch):
    script = Path("bin of mine/lift3d")
    script.parent.mkdir()
    script.touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", [str(script), "render"])
    (line,) = long.ok("render", *FAST, "--poses", "long.json", "--print-commands", "1")
    assert f"&& '{Path.cwd()}/bin of mine/lift3d' render scene" in line


def test_commands_are_as_quiet_as_the_one_that_printed_them(long: Run):
    (line,) = long.ok("render", "-q", *FAST, "--poses", "long.json", "--print-commands", "1")
    assert "render --quiet scene" in line


def test_there_are_no_more_commands_than_frames(long: Run):
    result = long("render", *FAST, "--poses", "long.json", "--frames", "0-4x2", "--print-commands", "100")
    assert [line.rsplit(" ", 1)[1] for line in result.stdout.splitlines()] == ["1/3", "2/3", "3/3"]
    assert result.stderr == "3 commands instead of 100: there are no more frames\n"


def test_part_without_frames_is_said_to_have_none(long: Run):
    words = ["render", *FAST, "--poses", "long.json", "--shard", "1/9"]
    line = "nothing to render: this part has no frames, as there are more parts than frames"
    assert long.ok(*words, "--dry-run") == [line]
    result = long(*words)
    assert (result.exit_code, result.stderr) == (0, f"{line}\n")
    assert "6 of 6" in long("decode", "--task", "color").stderr


@pytest.mark.parametrize(
    "words", [["--shard", "1/2"], ["--dry-run"], ["--poses", "-"], ["--frames", "1-9"], ["--shard", "slurm"]]
)
def test_what_cannot_be_shared_or_is_not_there_is_a_usage_error(done: Run, words, monkeypatch):
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    printing = [] if words[-1] in ("slurm", "1-9") else ["--print-commands", "2"]
    result = done("render", *FAST, *printing, *words, stdin=Path("path.json").read_text())
    assert result.exit_code == 2, result.output


def test_task_of_a_job_array_renders_its_part(long: Run, monkeypatch):
    for name, value in (("ID", 1), ("MIN", 0), ("MAX", 2), ("COUNT", 3)):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    (folder,) = long.ok("render", "-q", *FAST, "--poses", "long.json", "--shard", "slurm")
    assert sorted(p.name for p in Path(folder, "color").iterdir()) == ["00002.png", "00003.png"]


@pytest.mark.parametrize(("seconds", "is_logged"), [(30.0, True), (0.1, False)])
def test_log_of_a_long_render_says_what_it_will_take(capsys, monkeypatch, seconds, is_logged):
    monkeypatch.setattr(console, "quiet", False)
    render._say_forecast(Forecast(40, seconds, 2 * 10**9, 10**6))
    want = f"40 frames: {seconds:.2g} s each, 20 min in all; 2.0 GB of memory, 40.0 MB of disk\n"
    assert capsys.readouterr().err == (want if is_logged else "")


def test_quiet_is_quiet_in_a_log_too(capsys, monkeypatch):
    monkeypatch.setattr(console, "quiet", True)
    render._say_forecast(Forecast(40, 30.0, 2 * 10**9, 10**6))
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGTERM")
def test_sigterm_ends_a_render_that_goes_on_where_it_was(done: Run):
    done.ok("path", "scene", "orbit", "--frames", "400", "--max-size", "48", "--output", "long.json")
    words = [sys.executable, "-m", "lift3d_cli", "render", "scene", *FAST, "--poses", "long.json", "--output", "mine"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "LIFT3D_DEVICE": "cpu"}
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    end = time.monotonic() + 120
    while not Path("mine/frames/00001.safetensors").exists() and time.monotonic() < end:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (143, "")
    assert err.splitlines()[-1] == "interrupted: what was done is kept, the same command goes on from there"
    kept = contents(Path("mine"))
    assert not [name for name in kept if ".tmp" in name]
    done = subprocess.run([*words, "--frames", "0-1"], capture_output=True, text=True, env=env, check=False)
    assert (done.returncode, done.stdout) == (0, "mine\n")
    assert contents(Path("mine")) == kept
