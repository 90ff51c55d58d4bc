"""What is not in the cache or in a render, or is of another schema."""

from __future__ import annotations

import shutil
from pathlib import Path

from commands import FAST, Run

from error_cases.cases import Cases, edit_json

case = Cases()


@case
def cache_is_of_another_schema(run: Run):
    (path,) = Path("scene/.lift3d/feats").glob("*/encoder.json")
    edit_json(path, lambda data: data.update(schema=9))
    return ["render", "--model", "patches"]


@case
def render_is_of_another_schema(run: Run):
    edit_json(run.render_folder() / "manifest.json", lambda data: data.update(schema=9))
    return ["decode"]


@case
def model_to_render_is_not_encoded(run: Run):
    return ["render", "--model", "rgb"]


@case
def photo_to_render_from_is_not_encoded(run: Run):
    for path in Path("scene/.lift3d/feats").glob("*/*.safetensors"):
        path.unlink()
    return ["render"]


@case
def nothing_is_rendered_yet(run: Run):
    shutil.rmtree("scene/.lift3d/renders")
    assert run("encode", "scene", "--model", "rgb").exit_code == 0
    return ["decode"]


@case
def scene_was_encoded_since_it_was_rendered(run: Run):
    assert run("encode", "scene", "--model", "rgb").exit_code == 0
    return ["decode"]


@case
def nothing_is_rendered_of_a_scene(run: Run):
    shutil.rmtree("scene/.lift3d/renders")
    return ["decode", "scene"]


@case
def render_of_the_last_command_is_gone(run: Run):
    shutil.rmtree("scene/.lift3d/renders")
    return ["decode"]


@case
def nothing_was_done_in_this_folder(run: Run):
    Path(".lift3d.json").unlink()
    return ["decode"]


@case
def render_is_not_there(run: Run):
    return ["decode", "renders/mine"]


@case
def render_is_unfinished(run: Run):
    (run.render_folder() / "frames" / "00001.safetensors").unlink()
    return ["decode"]


@case
def render_has_colour_only(run: Run):
    shutil.rmtree(run.render_folder() / "feats")
    return ["decode"]


@case
def task_is_unknown(run: Run):
    return ["decode", "--task", "segment"]


@case
def model_has_no_features_in_the_render(run: Run):
    return ["decode", "--model", "rgb"]


@case
def folder_holds_another_render(run: Run):
    assert run("render", "--output", "mine", *FAST).exit_code == 0
    return ["render", "--output", "mine", *FAST, "--views", "3"]


@case
def results_of_another_render_are_in_the_way(run: Run):
    assert run("decode", "--task", "color", "--output", "out", "--no-video").exit_code == 0
    assert run("render", *FAST, "--views", "3").exit_code == 0
    return ["decode", "--task", "color", "--output", "out"]


@case
def option_of_another_task(run: Run):
    return ["decode", "--task", "recolor", "--clusters", "3", "--no-video"]


@case
def task_is_misspelt(run: Run):
    return ["decode", "--task", "colour"]


@case
def task_of_other_models_is_misspelt(run: Run):
    return ["decode", "--task", "superrez"]


@case
def task_is_misspelt_where_there_is_colour_only(run: Run):
    shutil.rmtree(run.render_folder() / "feats")
    return ["decode", "--task", "dept"]


@case
def model_to_decode_is_misspelt(run: Run):
    return ["decode", "--model", "patchs"]


@case
def task_is_like_no_other(run: Run):
    return ["decode", "--task", "xyzzy"]


@case
def task_that_needs_no_features_is_wanted_raw(run: Run):
    return ["decode", "--task", "color", "--raw", "npz"]


@case
def task_needs_a_model_that_is_encoded_and_not_rendered(run: Run):
    assert run("encode", "scene", "--model", "rgb").exit_code == 0
    return ["decode", str(run.render_folder()), "--task", "rgb"]


@case
def features_of_other_weights_are_there(run: Run):
    assert run("encode", "scene", "--model", "rgb").exit_code == 0
    return ["render", *FAST, "--model", "rgb:other.safetensors"]
