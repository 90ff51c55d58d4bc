"""Running the command line for a report, a result of `eval --json` to put into it, and what a report is made from."""

from __future__ import annotations

import json
import re
from pathlib import Path

from typer.testing import CliRunner

from lift3d_cli.cache.store import SceneCache
from lift3d_cli.cli.app import app
from lift3d_cli.pipeline.workspace import Workspace
from lift3d_cli.report.collect import ReportedRender, default_results
from lift3d_cli.scene.load import load_scene

METRICS = {
    "scene": "scene",
    "mean": {"psnr": 31.5, "ssim": 0.9},
    "views": [
        {"name": "images/00.png", "psnr": 30.0, "sources": ["images/01.png"]},
        {"name": "images/01.png", "psnr": 33.0},
    ],
    "not_measured": {"lpips": "no weights. hint: --lpips FILE"},
    "consistency": {"near": {"lifted": {"rmse": 0.01}, "2d-on-render": {"rmse": 0.02}}},
}


def lift3d(*argv: str) -> str:
    """The last line of standard output of a command that must succeed."""
    done = CliRunner().invoke(app, list(argv))
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()[-1]


def open_run(folder: Path, max_frames: int = 60) -> ReportedRender:
    """The only render of the scene in a folder."""
    workspace = Workspace(load_scene(folder / "scene"), SceneCache(folder / "scene" / ".lift3d"))
    (manifest,) = folder.glob("scene/.lift3d/renders/*/manifest.json")
    return ReportedRender(manifest.parent, workspace, folder / default_results(manifest.parent), max_frames)


def data_of(html: str) -> dict:
    """What a page gives to its script."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[1])
