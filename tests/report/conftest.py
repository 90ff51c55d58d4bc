"""One small render with its decoded results, and its report: what a user has after five commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import plane_world
import pytest
from reporting import METRICS, lift3d


@pytest.fixture(scope="session")
def reported(tmp_path_factory) -> Path:
    """A folder where `encode`, `path`, `render`, `decode` (two tasks) and `report` are done; not to be changed.

    With the network that ships: its corrector does something.
    """
    folder = tmp_path_factory.mktemp("reported")
    (folder / "patches.py").write_text(plane_world.MODEL_SOURCE)
    plane_world.write_scene(folder / "scene", plane_world.rig(4), plane_world.WALL_AND_CARD)
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("LIFT3D_CACHE", "LIFT3D_DEVICE"):
            patch.delenv(name, raising=False)
        lift3d("encode", "scene", "--model", "./patches.py:Patches")
        lift3d("path", "scene", "orbit", "--frames", "8", "--max-size", "64", "--fps", "4")
        lift3d("render", "--planes", "8", "--samples", "2", "--views", "3")
        lift3d("decode", "--task", "recolor")
        lift3d("decode", "--task", "negative")
        lift3d("report", "--metrics", "metrics.json", "--output", "report.html")
    return folder


@pytest.fixture
def folder(reported, tmp_path, monkeypatch) -> Path:
    """A copy of `reported`, the current folder."""
    shutil.copytree(reported, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture(scope="module")
def html(reported) -> str:
    """The page of `reported`."""
    return (reported / "report.html").read_text(encoding="utf-8")
