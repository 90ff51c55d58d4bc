"""Camera paths that cannot be read or written."""

from __future__ import annotations

from pathlib import Path

from commands import Run

from error_cases.cases import Cases, edit_json

case = Cases()


@case
def poses_are_missing(run: Run):
    return ["render", "--poses", "missing.json"]


@case
def poses_have_a_nan(run: Run):
    edit_json(Path("path.json"), lambda data: data["poses"][1]["c2w"][0].__setitem__(3, float("nan")))
    return ["render"]


@case
def pose_is_singular(run: Run):
    edit_json(Path("path.json"), lambda data: data["poses"][1]["c2w"].__setitem__(0, [0, 0, 0, 0]))
    return ["render"]


@case
def poses_are_no_json(run: Run):
    Path("path.json").write_text("hello")
    return ["render"]


@case
def poses_are_no_camera_path(run: Run):
    Path("path.json").write_text("{}")
    return ["render"]


@case
def standard_input_is_empty(run: Run):
    return ["render", "scene", "--poses", "-"]


@case
def path_would_overwrite_a_file_of_another_kind(run: Run):
    Path("notes.json").write_text('{"important": true}')
    return ["path", "scene", "orbit", "--output", "notes.json"]
