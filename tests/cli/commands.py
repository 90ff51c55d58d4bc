"""Running the command line: in this process, and as a shell would."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner, Result

from lift3d_cli.cli.app import app

# Few planes and samples: these tests are not about the picture.
FAST = ["--planes", "8", "--samples", "2", "--views", "2"]


def invoke(argv: list[str], stdin: str | None = None) -> Result:
    """Run one command in this process."""
    return CliRunner().invoke(app, argv, input=stdin)


@dataclass
class Run:
    """Runs commands in `folder`, which is the current one."""

    folder: Path

    def __call__(self, *argv: str, stdin: str | None = None) -> Result:
        return invoke(list(argv), stdin)

    def ok(self, *argv: str, stdin: str | None = None) -> list[str]:
        """The lines of standard output of a command that must succeed, without a word on standard error."""
        result = self(*argv, stdin=stdin)
        assert (result.exit_code, result.stderr) == (0, ""), result.output
        return result.stdout.splitlines()

    def render_folder(self) -> Path:
        (manifest,) = self.folder.glob("scene/.lift3d/renders/*/manifest.json")
        return manifest.parent


def shell(script: str, folder: Path, **settings) -> subprocess.CompletedProcess:
    """Run a bash script in which `lift3d` is this checkout's; a pipe fails if any of its commands does."""
    head = f'set -o pipefail; lift3d() {{ "{sys.executable}" -m lift3d_cli "$@"; }}\n'
    env = {**os.environ, "OMP_NUM_THREADS": "1", "LIFT3D_DEVICE": "cpu"}
    return subprocess.run(
        ["bash", "-c", head + script], cwd=folder, capture_output=True, text=True, env=env, check=False, **settings
    )
