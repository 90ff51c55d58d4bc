"""`benchmarks/startup.py` starts what it says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import lift3d_cli

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def startup():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import startup

        yield startup
    sys.modules.pop("startup", None)


def test_start_that_fails_is_not_measured(startup, tmp_path):
    startup.run(startup.STARTS["lift3d --version"], tmp_path)
    with pytest.raises(SystemExit, match="nothing-there"):
        startup.run([*startup.COMMAND, "info", "nothing-there"], tmp_path)


@pytest.mark.slow
def test_render_that_is_there_is_not_rendered_again(startup, wall_scene, monkeypatch, tmp_path, capsys):
    name = "lift3d --version"
    monkeypatch.setattr(startup, "STARTS", {name: startup.STARTS[name]})
    argv = ["startup.py", "--scene", str(wall_scene), "--frames", "1", "--rounds", "1", "--json"]
    monkeypatch.setattr(sys, "argv", argv)
    stamps = []
    run = startup.run
    monkeypatch.setattr(
        startup, "run", lambda command, folder: (run(command, folder), stamps.append(frame_stamps(folder)))
    )
    startup.main()
    result = json.loads(capsys.readouterr().out)
    assert f"lift3d {lift3d_cli.__version__}" in result["machine"]
    assert list(result["seconds"]) == [name, "lift3d render of 1 frames that are there"]
    assert stamps[2] == stamps[-1] != []


def frame_stamps(folder: Path) -> list[int]:
    """When the frames of the render in a cache were written."""
    return [path.stat().st_mtime_ns for path in sorted(folder.glob("*/renders/*/frames/*"))]
