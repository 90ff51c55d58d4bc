"""Standard output has results only, whatever a model prints; warnings of others come once, on one line."""

from __future__ import annotations

from pathlib import Path

import plane_world
import pytest
from commands import FAST, Run, shell

NOISE = """\
import ctypes, logging, os, subprocess, sys, warnings

def noise():
    print("printed by Python")
    os.write(1, b"written to the number\\n")
    ctypes.CDLL(None).puts(b"printed by C")
    subprocess.run(["echo", "printed by a process"])
    for _ in range(2):
        warnings.warn("a warning\\nof two lines", stacklevel=1)
        logging.getLogger("mine").warning("a line of the log")

"""
PRINTED = ("printed by Python", "written to the number", "printed by C", "printed by a process")
WARNINGS = ["warning: UserWarning: a warning of two lines", "warning: mine: a line of the log"]


@pytest.fixture
def noisy(tmp_path) -> Path:
    """A folder with a scene and a model that makes noise whenever it encodes."""
    plane_world.write_scene(tmp_path / "scene", plane_world.rig(3))
    source = plane_world.MODEL_SOURCE.replace(
        "        grid = self.grid", "        noise()\n        grid = self.grid", 1
    )
    (tmp_path / "noisy.py").write_text(source.replace("class Patches", NOISE + "\nclass Patches", 1))
    return tmp_path


def test_standard_output_is_ours_alone_and_warnings_of_others_come_once(noisy):
    done = shell("lift3d encode scene --model noisy.py:Patches && lift3d info scene --json", noisy)
    assert done.returncode == 0, done.stderr
    assert not any(noise in done.stdout for noise in PRINTED)
    assert '"scene"' in done.stdout
    assert all(noise in done.stderr for noise in PRINTED)
    assert [line for line in done.stderr.splitlines() if "arning" in line] == WARNINGS
    assert shell("lift3d -q info scene --json | python3 -m json.tool > /dev/null", noisy).returncode == 0


def test_quiet_has_no_warnings_of_others(noisy):
    done = shell("lift3d -q encode scene --model noisy.py:Patches", noisy)
    assert done.returncode == 0
    assert "arning" not in done.stderr


@pytest.mark.parametrize("kind", ["one photo", "one pose", "one place"])
def test_degenerate_captures_are_encoded_and_rendered(run: Run, kind):
    camera = plane_world.rig(3)[1]
    cameras = {"one photo": [camera], "one pose": [camera] * 3, "one place": plane_world.rig(3)}[kind]
    if kind == "one place":
        cameras = [plane_world.Camera(c.K, _at(c, camera.position), c.width, c.height) for c in cameras]
    plane_world.write_scene(Path("scene"), cameras)
    for argv in (
        ["encode", "scene", "--model", "rgb"],
        ["path", "scene", "orbit", "--frames", "2", "--max-size", "48"],
        ["render", *FAST],
    ):
        done = run(*argv)
        assert done.exit_code == 0, done.output
        assert "so that no surface can be found" in done.stderr
    assert len(list(run.render_folder().glob("*"))) > 1


def _at(camera, position):
    w2c = camera.w2c.copy()
    w2c[:3, 3] = -w2c[:3, :3] @ position
    return w2c


def test_info_lists_keys_that_are_not_understood(run: Run):
    plane_world.write_scene(Path("scene"), plane_world.rig(3))
    path = Path("scene/transforms.json")
    path.write_text(path.read_text().replace("{", '{"aabb_scale": 16, ', 1))
    assert "unread     ['aabb_scale']" in run("info", "scene").stdout
