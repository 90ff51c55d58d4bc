"""Every bad input ends in its one line on standard error and its exit code: those of `golden/errors.json`.

After a deliberate change of a text: LIFT3D_UPDATE_GOLDEN=1 pytest tests/cli/test_errors.py, and read the difference.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from commands import FAST, Run
from plane_world import read_image, write_image

GOLDEN = Path(__file__).parents[1] / "golden" / "errors.json"
CASES: dict[str, Callable[..., list[str]]] = {}


def case(function: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """A case spoils something in the folder and returns the command that must then fail."""
    CASES[function.__name__.replace("_", " ")] = function
    return function


def edit_json(path: Path, change: Callable[[dict], None]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def edit_text(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# ---- scenes ----------------------------------------------------------------------------------------------------------


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


# ---- paths -----------------------------------------------------------------------------------------------------------


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


# ---- models ----------------------------------------------------------------------------------------------------------


@case
def model_is_unknown(run: Run):
    return ["encode", "scene", "--model", "tiny-colorizr"]


@case
def model_file_is_missing(run: Run):
    return ["encode", "scene", "--model", "./none.py:Model"]


@case
def model_file_has_no_such_class(run: Run):
    Path("mine.py").write_text("import torch\n")
    return ["encode", "scene", "--model", "./mine.py:Mine"]


@case
def model_file_cannot_be_imported(run: Run):
    Path("mine.py").write_text("import nonexistent_module\n")
    return ["encode", "scene", "--model", "./mine.py:Mine"]


@case
def model_file_changed_since_the_encode(run: Run, own_model: Path):
    assert run("encode", "scene", "--model", f"{own_model}:Patches").exit_code == 0
    edit_text(own_model, "1 - color", "0.5 - color")
    return ["render", *FAST]


@case
def model_file_changed_since_the_render(run: Run, own_model: Path):
    assert run("encode", "scene", "--model", f"{own_model}:Patches").exit_code == 0
    assert run("render", *FAST).exit_code == 0
    edit_text(own_model, "1 - color", "0.5 - color")
    return ["decode"]


@case
def weights_are_missing(run: Run):
    return ["render", "--weights", "none.safetensors"]


@case
def weights_are_no_safetensors(run: Run):
    Path("mine.safetensors").write_text("hello")
    return ["render", "--weights", "mine.safetensors"]


@case
def weights_are_of_another_network(run: Run):
    safetensors.torch.save_file({"layer.weight": torch.zeros(2, 2)}, "mine.safetensors")
    return ["render", "--weights", "mine.safetensors"]


# ---- the cache and what is in it -------------------------------------------------------------------------------------


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


# ---- machine ---------------------------------------------------------------------------------------------------------


@case
def no_cuda_device(run: Run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    return ["render", "--device", "cuda"]


@case
def device_is_unknown(run: Run):
    return ["encode", "scene", "--model", "rgb", "--device", "tpu"]


@case
def device_of_the_environment_is_unknown(run: Run, monkeypatch):
    monkeypatch.setenv("LIFT3D_DEVICE", "mps")
    return ["encode", "scene", "--model", "rgb"]


@case
def memory_is_no_size(run: Run):
    return ["render", "--memory", "lots"]


@case
def memory_is_too_little(run: Run):
    return ["render", "--memory", "1MiB"]


@case
def disk_is_full_while_encoding(run: Run, monkeypatch):
    monkeypatch.setattr("lift3d_cli.cache.atomic.os.replace", fails_with(errno.ENOSPC))
    return ["encode", "scene", "--model", "rgb"]


@case
def disk_is_full_while_rendering(run: Run, monkeypatch):
    monkeypatch.setattr("lift3d_cli.cache.atomic.os.replace", fails_with(errno.ENOSPC))
    return ["render", "--views", "3", *FAST[:4]]


@case
def disk_is_full_in_a_library(run: Run, monkeypatch):
    monkeypatch.setattr("lift3d_cli.stages.encode.to_image", fails_with(errno.ENOSPC, "/somewhere/big"))
    return ["encode", "scene", "--model", "rgb"]


@case
def output_cannot_be_written(run: Run):
    Path("taken").write_text("a file, not a folder")
    return ["decode", "--output", "taken/here"]


@case
def memory_runs_out(run: Run, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: 12 bytes")

    monkeypatch.setattr("lift3d_cli.stages.encode.to_image", fail)
    return ["encode", "scene", "--model", "rgb"]


@case
def gpu_memory_runs_out(run: Run, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr("lift3d_cli.stages.encode.to_image", fail)
    return ["encode", "scene", "--model", "rgb"]


@case
def every_photo_is_left_out(run: Run):
    return ["eval", "scene", "--every", "1"]


@case
def nothing_to_train_on(run: Run):
    return ["train", "renderer", "--weights", "none"]


@case
def corrector_without_a_model_to_learn_from(run: Run):
    return ["train", "corrector", "scene", "--weights", "none", "--device", "cpu"]


@case
def training_that_is_there_already(run: Run):
    (run.folder / "run").mkdir()
    (run.folder / "run" / "checkpoint.safetensors").write_bytes(b"")
    return ["train", "renderer", "scene", "--run", "run"]


@case
def interrupted(run: Run, monkeypatch):
    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("lift3d_cli.stages.encode.to_image", fail)
    return ["encode", "scene", "--model", "rgb"]


def fails_with(number: int, path: str | None = None) -> Callable:
    def fail(*_, **__):
        raise OSError(number, os.strerror(number), path)

    return fail


# ---- the tests -------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_model(tmp_path, shared_model) -> Path:
    """A model in a file that this test may change."""
    return Path(shutil.copy(shared_model.rsplit(":", 1)[0], tmp_path / "mine.py"))


def placeholders(text: str, folder: Path, shared_model: str) -> str:
    """What differs between runs and machines, by name."""
    text = text.replace(str(folder), "FOLDER").replace(str(Path(shared_model).parent), "MODELS")
    text = re.sub(r"-[0-9a-f]{8}\b", "-KEY", text)
    text = re.sub(r"lift3d_model_[0-9a-f]{8}", "lift3d_model_KEY", text)
    text = re.sub(r"(not a readable safetensors file): .*", r"\1: REASON", text)
    # What the image library says, in its own words.
    return re.sub(r"(cannot be read as a photo) \(.*?\)\. hint", r"\1 (REASON). hint", text)


@pytest.fixture(scope="module")
def golden():
    """The expected texts; written anew if the environment says so."""
    expected = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    found: dict[str, dict] = {}
    yield expected, found
    if os.environ.get("LIFT3D_UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(found, indent=2) + "\n")


@pytest.mark.parametrize("name", CASES)
def test_bad_input_gives_its_line_and_exit_code(name, done, golden, request, shared_model):
    wanted = CASES[name].__code__.co_varnames[1 : CASES[name].__code__.co_argcount]
    argv = CASES[name](done, **{fixture: request.getfixturevalue(fixture) for fixture in wanted})
    result = done(*argv)
    text = placeholders(result.stderr, done.folder, shared_model)
    expected, found = golden
    found[name] = {"command": " ".join(["lift3d", *argv]), "exit": result.exit_code, "stderr": text.rstrip("\n")}
    found[name]["command"] = placeholders(found[name]["command"], done.folder, shared_model)
    assert text.count("\n") == 1, result.stderr
    assert "Traceback" not in text
    assert result.stdout == ""
    if not os.environ.get("LIFT3D_UPDATE_GOLDEN"):
        assert found[name] == expected.get(name)


def test_golden_texts_are_those_of_the_cases():
    assert list(json.loads(GOLDEN.read_text())) == list(CASES)


def test_golden_texts_say_what_to_do():
    texts = {name: entry["stderr"] for name, entry in json.loads(GOLDEN.read_text()).items()}
    for name, text in texts.items():
        assert text.startswith(("error: ", "interrupted: ")), name
        assert not text.endswith(("..", " ", ":")), name


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (
            ["encode", "scene", "--dtype", "int8"],
            "Error: Invalid value for --dtype: 'int8' is not one of fp16, bf16, fp32",
        ),
        (["render", "--dtype", "float"], "Error: Invalid value for --dtype: 'float' is not one of fp16, bf16, fp32"),
        (["encode"], "Error: Missing argument 'scene'."),
        (["render", "--plan", "3"], "No such option: --plan"),
        (["render", "--planes", "1"], "Invalid value for '--planes'"),
        (["path", "scene", "circle"], "'circle' is not one of"),
        (["eval", "scene", "--variant", "best"], "Invalid value for '--variant'"),
        (["eval", "scene", "--consistency"], "needs --model"),
        (["train", "everything", "scene"], "'everything' is not one of"),
        (["paint"], "No such command 'paint'"),
        (["encode", "scene", "--max-size", "big"], "Invalid value for '--max-size'"),
    ],
)
def test_wrong_use_is_exit_code_2_and_no_traceback(done, argv, line):
    result = done(*argv)
    assert result.exit_code == 2
    assert line in result.stderr
    assert "Traceback" not in result.stderr
    assert "bug" not in result.stderr


def test_unknown_exception_shows_its_traceback_and_asks_for_a_report(done, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("an odd number")

    monkeypatch.setattr("lift3d_cli.stages.encode.to_image", fail)
    result = done("encode", "scene", "--model", "rgb")
    assert result.exit_code == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert "ZeroDivisionError: an odd number" in result.stderr
    assert result.stderr.splitlines()[-1] == "this is a bug in lift3d: please report it with the lines above"


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), RuntimeError("shapes differ")])
def test_unknown_errors_of_the_system_and_of_torch_are_not_swallowed(done, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("lift3d_cli.stages.encode.to_image", fail)
    result = done("encode", "scene", "--model", "rgb")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr


def test_debug_shows_the_traceback_of_an_expected_error_too(done):
    result = done("--debug", "encode", "nowhere")
    assert result.exit_code == 3
    assert result.stderr.startswith("error: nowhere: does not exist")
    assert "SceneError" in result.stderr


def test_error_lines_survive_odd_folder_names(done):
    Path("[bold] folder").mkdir()
    result = done("encode", "[bold] folder")
    assert result.stderr.startswith("error: [bold] folder: is empty")


def test_damaged_note_does_not_matter_to_a_command_that_names_its_scene(done):
    Path(".lift3d.json").write_text("{")
    assert done("render", "scene", *FAST).exit_code == 0
    assert done("decode").exit_code == 0


def test_partly_missing_photos_are_a_warning(done):
    Path("scene/images/02.png").unlink()
    result = done("encode", "scene", "--model", "rgb")
    assert result.exit_code == 0
    assert re.fullmatch(r"warning: .*1 of 4 listed photos are absent.*\n", result.stderr)
    assert done("-q", "encode", "scene", "--model", "rgb").stderr == ""


def test_changed_photo_is_no_error_of_encode(done):
    path = Path("scene/images/02.png")
    write_image(path, 255 - read_image(path))
    assert done("render", *FAST).exit_code == 4
    assert done("encode", "scene", "--model", "rgb").exit_code == 0
