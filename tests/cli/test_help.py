"""Help that says everything, defaults that have one home, and a start that imports nothing heavy."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from commands import invoke

from lift3d_cli import config
from lift3d_cli.cli import ablate, decode, encode, evaluate, render, report, train, tune
from lift3d_cli.cli.app import app
from lift3d_cli.cli.options import config_of
from lift3d_cli.scene.paths import DEFAULT_FPS

COMMANDS = typer.main.get_command(app).commands
PARAMETERS = [(name, param) for name, command in COMMANDS.items() for param in command.params if param.name != "help"]
CONFIGS = {
    "encode": (encode.encode, config.EncodeConfig),
    "render": (render.render, config.RenderConfig),
    "decode": (decode.decode, config.DecodeConfig),
    "eval": (evaluate.evaluate, config.EvalConfig),
    "ablate": (ablate.ablate, config.AblationConfig),
    "report": (report.report, config.ReportConfig),
    "train": (train.train, config.TrainConfig),
    "tune": (tune.tune, config.TuneConfig),
}


def test_commands_are_these():
    assert list(COMMANDS) == [
        "encode",
        "path",
        "render",
        "decode",
        "info",
        "cache",
        "doctor",
        "models",
        "eval",
        "ablate",
        "report",
        "train",
        "tune",
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_command_has_a_line_of_help(name):
    text = inspect.cleandoc(COMMANDS[name].help)
    assert text[0].isupper()
    assert text.splitlines()[0].endswith(".")


@pytest.mark.parametrize(("name", "param"), PARAMETERS, ids=[f"{name} {param.name}" for name, param in PARAMETERS])
def test_argument_or_option_has_help(name, param):
    assert param.help
    # Full words: only -o, -n and -q are short.
    assert all(option.startswith("--") or option in ("-o", "-n") for option in param.opts if option.startswith("-"))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_every_option(name):
    result = invoke([name, "--help"])
    assert result.exit_code == 0
    for param in COMMANDS[name].params:
        for option in param.opts:
            assert option in result.stdout


@pytest.mark.parametrize("name", CONFIGS)
def test_settings_have_one_default(name):
    function, settings = CONFIGS[name]
    parameters = inspect.signature(function).parameters
    for field in dataclasses.fields(settings):
        option = parameters[field.name]
        if option.default is inspect.Parameter.empty:
            continue  # an argument that has to be named
        if option.default is None or field.name == "models":
            # "All", "the model's own": the help says in brackets what that is.
            assert not field.default or f"[{field.default[0]}]" in str(option.annotation)
        else:
            assert option.default == field.default, field.name


def test_a_config_is_built_of_what_is_given():
    part = train.Part("corrector")
    given = dict.fromkeys((field.name for field in dataclasses.fields(config.TrainConfig)), None)
    given |= {"part": part, "scenes": [Path("a")], "models": [], "steps": 0, "json": True}
    built = config_of(config.TrainConfig, given)
    assert built == config.TrainConfig(part="corrector", scenes=(Path("a"),), steps=0)
    assert type(built.part) is str


def test_default_speed_of_a_path_is_that_of_paths_without_one():
    assert inspect.signature(COMMANDS["path"].callback.__wrapped__).parameters["fps"].default == DEFAULT_FPS


def test_no_arguments_show_the_help():
    result = invoke([])
    assert "Commands:" in result.stdout + result.stderr


# ---- a start that imports nothing heavy ------------------------------------------------------------------------------

HEAVY = ("torch", "numpy", "rich", "cv2", "PIL", "imageio", "safetensors", "huggingface_hub")


def imported_by(code: str) -> set[str]:
    """The heavy packages that some code imports, and everything in the same process."""
    script = f"{code}\nimport sys\nprint('imported:', *(n for n in {HEAVY} if n in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split("imported:")[1].split())


RUN = """
import sys
from lift3d_cli.__main__ import main
sys.argv = ["lift3d", *{argv}]
try:
    main()
except SystemExit as e:
    assert not e.code, e.code
"""


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["render", "--help"], ["decode", "--help"]], ids=" ".join)
def test_help_and_version_import_nothing_heavy(argv):
    assert imported_by(RUN.format(argv=argv)) == set()


def test_importing_the_package_imports_nothing_heavy():
    assert imported_by("import lift3d_cli; lift3d_cli.__version__; dir(lift3d_cli)") == set()


def test_making_a_path_and_looking_at_a_scene_need_no_torch(wall_scene, tmp_path):
    path = tmp_path / "path.json"
    assert "torch" not in imported_by(RUN.format(argv=["path", str(wall_scene), "orbit", "--output", str(path)]))
    assert path.exists()
    assert "torch" not in imported_by(RUN.format(argv=["info", str(wall_scene)]))


def test_public_names_are_there():
    import lift3d_cli

    for name in lift3d_cli.__all__:
        assert getattr(lift3d_cli, name) is not None
    assert set(lift3d_cli.__all__) >= {"Camera", "FeatureGrid", "FeatureMap", "Model", "ModelSpec", "RenderedView"}
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        lift3d_cli.nonsense  # noqa: B018
