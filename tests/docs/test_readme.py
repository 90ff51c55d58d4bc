"""The commands of the README do what it shows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_commands_of_the_readme_print_what_it_shows(tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns(".lift3d"))
    block = re.search(r"```console\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    steps = re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", block, re.MULTILINE)
    assert len(steps) >= 4
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LIFT3D_")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    for command, shown in steps:
        out = subprocess.run(
            command,
            shell=True,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert out.returncode == 0, out.stderr
        assert without_keys(out.stdout) == without_keys(shown)
        for path in out.stdout.split():
            assert (tmp_path / path).exists()


def without_keys(text: str) -> str:
    """Folders are named after what made them, and that changes with the weights."""
    return re.sub(r"-[0-9a-f]{8}\b", "-KEY", text)
