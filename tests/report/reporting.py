"""Running the command line for a report, and a result of `eval --json` to put into it."""

from __future__ import annotations

from typer.testing import CliRunner

from lift3d_cli.cli.app import app

METRICS = {
    "scene": "wall",
    "mean": {"psnr": 31.5, "ssim": 0.9},
    "views": [{"name": "00.png", "psnr": 30.0, "sources": ["01.png"]}, {"name": "01.png", "psnr": 33.0}],
    "consistency": {"near": {"lifted": {"rmse": 0.01}, "2d-on-render": {"rmse": 0.02}}},
}


def lift3d(*argv: str) -> str:
    """The last line of standard output of a command that must succeed."""
    done = CliRunner().invoke(app, list(argv))
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()[-1]
