"""`benchmarks/surfaces.py` finds the surfaces of some photos of each scene, and keeps nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lift3d_cli.pipeline.surfaces import PhotoSurfaces

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def surfaces(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import surfaces

    yield surfaces
    sys.modules.pop("surfaces", None)


def test_photos_evenly_among_a_scene_are_timed(surfaces, wall_scene, monkeypatch, capsys):
    found = []
    get = PhotoSurfaces.get
    monkeypatch.setattr(PhotoSurfaces, "get", lambda self, index: found.append(index) or get(self, index))
    before = sorted(wall_scene.rglob("*"))
    monkeypatch.setattr(sys, "argv", ["surfaces.py", str(wall_scene), "--rounds", "2", "--json"])
    surfaces.main()
    [row] = json.loads(capsys.readouterr().out)["rows"]
    num_photos = len(list((wall_scene / "images").iterdir()))
    assert found == [0, round((num_photos - 1) / 2), num_photos - 1]
    assert (row["scene"], row["size"]) == (wall_scene.name, [96, 72])
    assert row["seconds"] > 0
    assert row["planes"] >= 32
    assert sorted(wall_scene.rglob("*")) == before
