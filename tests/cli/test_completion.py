"""Shell completion, asked as each shell asks for it, in each shell that is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def bin_folder(tmp_path_factory) -> Path:
    """A folder with the command `lift3d`, of this checkout."""
    folder = tmp_path_factory.mktemp("bin")
    command = folder / "lift3d"
    command.write_text(
        f"#!{sys.executable}\nimport sys\nsys.argv[0] = 'lift3d'\nfrom lift3d_cli.__main__ import main\nmain()\n"
    )
    command.chmod(0o755)
    return folder


def ask(shell: str, script: str, bin_folder: Path, folder: Path) -> list[str]:
    """Run a script in a shell that has the completion of `lift3d` loaded; return the lines that it prints."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    env = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "HOME": str(bin_folder), "TERM": "dumb"}
    words = {"bash": ["--norc", "-c"], "zsh": ["-f", "-c"], "fish": ["--no-config", "-c"]}[shell]
    done = subprocess.run(
        [shell, *words, script], cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return [line.split("\t")[0].strip() for line in done.stdout.splitlines() if line.strip()]


def in_bash(*words: str) -> str:
    """Complete the last word as bash does on Tab."""
    line = " ".join(f"'{word}'" for word in ("lift3d", *words))
    return (
        'eval "$(_LIFT3D_COMPLETE=source_bash lift3d)"\n'
        f"COMP_WORDS=({line}); COMP_CWORD={len(words)}\n"
        "$(complete -p lift3d | sed 's/.*-F \\([^ ]*\\).*/\\1/') lift3d\n"
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )


def in_fish(*words: str) -> str:
    line = " ".join(("lift3d", *words))
    return f"env _LIFT3D_COMPLETE=source_fish lift3d | source\ncomplete -C '{line}'"


def in_zsh(*words: str) -> str:
    """Load the script, and ask for words as it does: the menu itself needs a terminal."""
    line = " ".join(("lift3d", *words))
    return (
        "autoload -Uz compinit && compinit -u -D\n"
        'eval "$(_LIFT3D_COMPLETE=source_zsh lift3d)"\n'
        "(( $+functions[_lift3d_completion] )) || exit 3\n"
        f"_TYPER_COMPLETE_ARGS='{line}' _LIFT3D_COMPLETE=complete_zsh lift3d | grep -o '\"[^\"]*\"' | tr -d '\"'"
    )


SHELLS = {"bash": in_bash, "zsh": in_zsh, "fish": in_fish}


@pytest.mark.parametrize("shell", SHELLS)
def test_commands_are_completed(shell, bin_folder, tmp_path):
    found = ask(shell, SHELLS[shell]("de"), bin_folder, tmp_path)
    assert "decode" in found
    assert "encode" not in found


@pytest.mark.parametrize("shell", SHELLS)
def test_options_and_their_values_are_completed(shell, bin_folder, tmp_path):
    assert "--model" in ask(shell, SHELLS[shell]("encode", "--mo"), bin_folder, tmp_path)
    found = ask(shell, SHELLS[shell]("encode", "--model", "tiny"), bin_folder, tmp_path)
    assert {"tiny-colorizer", "tiny-superres"} <= set(found)


def test_tasks_models_and_renders_are_those_of_this_folder(bin_folder, done):
    tasks = ask("bash", in_bash("decode", "--task", ""), bin_folder, done.folder)
    assert {"color", "depth", "points", "recolor", "negative", "features"} <= set(tasks)
    assert ask("bash", in_bash("render", "--model", ""), bin_folder, done.folder) == ["patches", "none"]
    (render,) = ask("bash", in_bash("decode", "scene"), bin_folder, done.folder)
    assert Path(done.folder, render) == done.render_folder()


def test_nothing_is_completed_and_nothing_said_where_nothing_was_done(bin_folder, tmp_path):
    assert ask("bash", in_bash("decode", "--model", ""), bin_folder, tmp_path) == []
    (tmp_path / ".lift3d.json").write_text("{")
    assert ask("bash", in_bash("decode", "--model", ""), bin_folder, tmp_path) == []


@pytest.mark.parametrize(
    ("words", "want"),
    [
        (["decode", "--codec", "h"], ["h264", "h265"]),
        (["decode", "--raw", "np"], ["npy", "npz"]),
        (["encode", "--dtype", ""], ["fp16", "bf16", "fp32"]),
        (["render", "--precision", ""], ["auto", "bf16", "fp32"]),
    ],
)
def test_values_of_an_option_are_completed(words, want, bin_folder, tmp_path):
    assert ask("bash", in_bash(*words), bin_folder, tmp_path) == want
