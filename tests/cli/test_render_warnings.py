"""`render` says where its frames cannot be believed: one line on standard error, numbers in JSON, pictures if asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import FAST, Run
from plane_world import look_at, read_image

from lift3d_cli.scene.paths import write_path


@pytest.fixture
def looks_away(done: Run) -> Run:
    """A folder with away.json, of which the second pose sees little that a photo sees."""
    cameras = [
        look_at((x, 0.0, -4.0), (to, 0.0, 0.0), width=48, height=36, focal=45.0) for x, to in ((0, 0), (1.5, 2.5))
    ]
    write_path(Path("away.json"), cameras, names=("ahead", "away"))
    return done


def test_pose_that_the_photos_see_little_of_is_warned_of(looks_away):
    result = looks_away("render", "--poses", "away.json", *FAST)
    assert result.exit_code == 0
    unseen, *rest = result.stderr.splitlines()
    assert unseen.startswith("warning: the photos see less than 90% of 1 of 2 frames, ")
    assert "of the worst (away)" in unseen
    assert len(rest) <= 1
    assert len(result.stdout.splitlines()) == 1


def test_json_has_the_numbers_of_each_frame_and_the_warnings(looks_away):
    result = looks_away("render", "--poses", "away.json", *FAST, "--json")
    got = json.loads(result.stdout)
    assert got["coverage"][1] < 0.7 < got["coverage"][0]
    assert got["confidence"][1] < got["confidence"][0]
    assert [f"warning: {line}" for line in got["warnings"]] == result.stderr.splitlines()


def test_quiet_leaves_the_warning_out(looks_away):
    assert looks_away("--quiet", "render", "--poses", "away.json", *FAST).stderr == ""


def test_confidence_is_written_also_for_frames_that_are_rendered_already(done):
    (folder,) = done.ok("render", *FAST)
    before = Path(folder, "frames", "00001.safetensors").stat().st_mtime_ns
    assert not Path(folder, "confidence").exists()
    assert done.ok("render", *FAST, "--confidence") == [folder]
    assert sorted(path.name for path in Path(folder, "confidence").iterdir()) == ["00000.png", "00001.png"]
    assert read_image(Path(folder, "confidence", "00000.png")).shape == (36, 48, 3)
    assert Path(folder, "frames", "00001.safetensors").stat().st_mtime_ns == before
