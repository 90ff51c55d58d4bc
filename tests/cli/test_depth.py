"""Depth on the command line: counted, checked, warned of, and remembered from one command to the next."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from commands import FAST, Run
from plane_world import photograph, rig


def write_maps(scale: float = 1.0) -> None:
    """The exact depth of the four photos of the scene."""
    Path("maps").mkdir(exist_ok=True)
    for number, camera in enumerate(rig(4)):
        np.save(f"maps/{number:02d}.npy", photograph(camera)[1] * scale)


def test_info_counts_depth_by_format(done: Run):
    write_maps()
    path = Path("scene/transforms.json")
    data = json.loads(path.read_text())
    for number, frame in enumerate(data["frames"][:3]):
        frame["depth_file_path"] = f"../maps/{number:02d}.npy"
    path.write_text(json.dumps(data))
    assert json.loads("\n".join(done.ok("info", "scene", "--json")))["scene"]["depth"] == "3 .npy"


def test_right_depth_is_taken_without_a_word(done: Run):
    write_maps()
    done.ok("encode", "scene", "--model", "rgb", "--depth", "maps")
    done.ok("eval", "scene", "--every", "2", "--height", "0", "--depth", "maps")


def test_what_is_not_used_is_a_warning(done: Run):
    write_maps()
    np.save("maps/02.npy", 1.5 * np.load("maps/02.npy"))
    result = done("render", *FAST, "--depth", "maps")
    assert result.exit_code == 0
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("warning: maps/02.npy: contradicts the photos (")
    assert done("-q", "render", *FAST, "--depth", "maps").stderr == ""


def test_render_takes_the_depth_of_the_command_before(done: Run):
    write_maps(2.0)
    says = "warning: maps: the photos say that z-depth = 0.5 * value here, and so it is used\n"
    assert done("encode", "scene", "--model", "rgb", "--depth", "maps").stderr == says
    for _ in range(2):
        assert done("render", *FAST, "--model", "rgb").stderr.replace(str(done.folder) + "/", "") == says
    assert done("render", "scene", *FAST).stderr == ""
    assert done("render", *FAST, "--model", "rgb").stderr == ""
