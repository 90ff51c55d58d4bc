"""benchmarks/segmentation.py: its strokes and outlines are usable, and the whole runs on a small scene."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from plane_world import WALL_AND_CARD, photograph, read_image, rig, write_scene

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
THINGS = json.loads((BENCHMARKS / "segmentation.json").read_text())


@pytest.fixture(scope="module")
def benchmark():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        import segmentation

        yield segmentation


@pytest.mark.parametrize("name", THINGS)
def test_outlines_are_of_other_photos_than_the_strokes_and_inside_of_them(name, benchmark, tmp_path):
    thing = THINGS[name]
    width, height = thing["size"]
    assert len(thing["masks"]) >= 4
    assert Path(thing["view"]).stem not in thing["masks"]
    for line in chain(*thing["strokes"].values(), *thing["masks"].values()):
        points = np.array(line).reshape(-1, 2)
        assert (points >= 0).all()
        assert (points < (width, height)).all()
    benchmark.draw(thing, tmp_path)
    strokes = read_image(tmp_path / "strokes.png")
    assert {tuple(color) for color in strokes.reshape(-1, 3)} == {(0, 0, 0), *benchmark.COLORS.values()}
    for photo in thing["masks"]:
        share = (read_image(tmp_path / "masks" / f"{photo}.png") > 0).mean()
        assert 0.03 < share < 0.6


def test_outline_in_another_is_a_hole(benchmark, tmp_path):
    square, hole = [0, 0, 19, 0, 19, 19, 0, 19], [5, 5, 14, 5, 14, 14, 5, 14]
    thing = {"size": [20, 20], "strokes": {"thing": [square], "other": [hole]}, "masks": {"a": [square, hole]}}
    benchmark.draw(thing, tmp_path)
    mask = read_image(tmp_path / "masks" / "a.png")
    assert mask[2, 2].max() == 255
    assert mask[10, 10].max() == 0


def test_it_runs_on_a_scene(untrained, tmp_path):
    write_scene(tmp_path / "scenes" / "card", rig(8), WALL_AND_CARD)
    v, u = np.nonzero(photograph(rig(8)[0], WALL_AND_CARD)[1] < 3.4)
    box = [int(x) for x in (u.min(), v.min(), u.max(), v.min(), u.max(), v.max(), u.min(), v.max())]
    middle = [int(u.mean()) - 5, int(v.mean()), int(u.mean()) + 5, int(v.mean())]
    strokes = {"thing": [middle], "other": [[2, 4, 90, 4]]}
    thing = {"every": 4, "size": [96, 72], "view": "01.png", "strokes": strokes, "masks": {"00": [box]}}
    (tmp_path / "things.json").write_text(json.dumps({"card": thing, "absent": thing}))
    argv = [sys.executable, "segmentation.py", str(tmp_path / "scenes"), "--model", "rgb", "--size", "96"]
    done = subprocess.run(
        [*argv, "--things", str(tmp_path / "things.json"), "--picture", str(tmp_path / "masks.png")],
        cwd=BENCHMARKS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines()]
    assert rows[0][1] == "`card`"
    assert [row[0].strip("| `") for row in rows[2:]] == [
        "lifted-3",
        "lifted-6",
        "lifted-10",
        "2d-on-render",
        "2d-on-photo",
    ]
    assert all(0 <= float(row[1]) <= 1 for row in rows[2:])
    # Two masks of 96 x 72 at a height of 200, below a line of text and with a gap to the right.
    picture = read_image(tmp_path / "masks.png")
    assert picture.shape == (222, 2 * (267 + 8), 3)
    assert (picture[22:] == (235, 235, 235)).all(-1).any()  # some of the thing is found


def test_scenes_that_it_does_not_know_are_refused(tmp_path):
    argv = [sys.executable, "segmentation.py", str(tmp_path)]
    done = subprocess.run(argv, cwd=BENCHMARKS, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "has none of the scenes of segmentation.json" in done.stderr
