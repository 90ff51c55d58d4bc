"""Scenes that cannot be read, and none where one is needed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from commands import Run

from error_cases.cases import Cases, edit_json

case = Cases()


@case
def all_listed_photos_are_missing(run: Run):
    shutil.rmtree("scene/images")
    return ["encode", "scene"]


@case
def photo_is_cut_off(run: Run):
    path = Path("scene/images/02.png")
    path.write_bytes(path.read_bytes()[:3000])
    return ["encode", "scene", "--model", "rgb"]


@case
def photo_is_no_image(run: Run):
    Path("scene/images/02.png").write_text("<html>not found</html>")
    return ["encode", "scene", "--model", "rgb"]


@case
def camera_model_is_unknown(run: Run):
    edit_json(Path("scene/transforms.json"), lambda data: data.update(camera_model="EQUIRECTANGULAR"))
    return ["encode", "scene"]


@case
def pose_of_the_scene_is_singular(run: Run):
    edit_json(Path("scene/transforms.json"), lambda data: data["frames"][1].update(transform_matrix=np.eye(4).tolist()))
    edit_json(
        Path("scene/transforms.json"), lambda data: data["frames"][1]["transform_matrix"].__setitem__(0, [0, 0, 0, 0])
    )
    return ["encode", "scene"]


@case
def pose_of_the_scene_is_nan(run: Run):
    edit_json(
        Path("scene/transforms.json"),
        lambda data: data["frames"][1]["transform_matrix"][0].__setitem__(3, float("nan")),
    )
    return ["encode", "scene"]


@case
def scene_has_no_poses(run: Run):
    edit_json(Path("scene/transforms.json"), lambda data: data.update(frames=[]))
    return ["encode", "scene"]


@case
def scene_is_no_json(run: Run):
    Path("scene/transforms.json").write_text('{"frames": [')
    return ["encode", "scene"]


@case
def scene_folder_is_empty(run: Run):
    Path("nothing").mkdir()
    return ["encode", "nothing"]


@case
def folder_is_no_scene(run: Run):
    Path("other").mkdir()
    Path("other/notes.txt").write_text("hello")
    return ["encode", "other"]


@case
def file_is_no_scene(run: Run):
    Path("notes.txt").write_text("hello")
    return ["encode", "notes.txt"]


@case
def scene_is_not_there(run: Run):
    return ["info", "nowhere"]


@case
def mask_is_missing(run: Run):
    edit_json(Path("scene/transforms.json"), lambda data: data["frames"][0].update(mask_path="masks/0.png"))
    return ["encode", "scene"]


@case
def no_scene_is_named_or_known(run: Run):
    Path(".lift3d.json").unlink()
    return ["render"]


@case
def scene_of_the_last_command_is_gone(run: Run):
    Path("scene").rename("elsewhere")
    return ["render"]


@case
def note_of_the_last_command_is_damaged(run: Run):
    Path(".lift3d.json").write_text("{")
    return ["render"]
