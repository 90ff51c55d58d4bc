"""Every bad input of `error_cases/` ends in its one line on standard error and its exit code: those of
`golden/errors.json`.

After a deliberate change of a text: LIFT3D_UPDATE_GOLDEN=1 pytest tests/cli/test_errors.py, and read the difference.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from commands import FAST
from error_cases import CASES
from plane_world import read_image, write_image

GOLDEN = Path(__file__).parents[1] / "golden" / "errors.json"


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
    return re.sub(r"(cannot be read as depth) \(.*?\)\. hint", r"\1 (REASON). hint", text)


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
        (["path", "scene", "circle"], "Invalid value for 'kind': 'circle' is not one of"),
        (["path", "scene", "obrit"], "'interpolate', 'views'. Did you mean 'orbit'?"),
        (["cache", "lst"], "Did you mean 'list'?"),
        (["decode", "--format", "pgn"], "Did you mean 'png'?"),
        (["eval", "scene", "--variant", "best"], "Invalid value for '--variant'"),
        (["eval", "scene", "--consistency"], "needs --model"),
        (["eval", "--scenes", ".", "--depth", "maps"], "is of one scene"),
        (["eval", "scene", "--tuned", "1", "--variant", "training-free"], "not with --suite, nor where the network is"),
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

    monkeypatch.setattr("lift3d_cli.pipeline.encode.to_image", fail)
    result = done("encode", "scene", "--model", "rgb")
    assert result.exit_code == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert "ZeroDivisionError: an odd number" in result.stderr
    assert result.stderr.splitlines()[-1] == "this is a bug in lift3d: please report it with the lines above"


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), RuntimeError("shapes differ")])
def test_unknown_errors_of_the_system_and_of_torch_are_not_swallowed(done, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("lift3d_cli.pipeline.encode.to_image", fail)
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
