"""Options that several commands share, and the config that a command's options fill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from lift3d_cli.cli import completion

C = TypeVar("C")


def choices(name: str, values: Sequence[str]) -> type[Enum]:
    """Make an enum type for an option with a fixed set of values."""
    return Enum(name, {value: value for value in values}, type=str)


def config_of(kind: type[C], given: Mapping[str, object]) -> C:
    """Build a command's config: each field from the argument of the same name, or its default where that is not given.

    Args:
        kind: the config's class.
        given: arguments of the command by name, such as `locals()` at its top; those without a field are ignored.
    """
    values = {field.name: given[field.name] for field in fields(kind)}
    return kind(**{name: _plain(value) for name, value in values.items() if value not in (None, [])})


def _plain(value: object) -> object:
    """Convert an option's value to a config's."""
    return tuple(value) if isinstance(value, list) else value.value if isinstance(value, Enum) else value


def output_option(help: str, *flags: str) -> object:
    """Make the option `--output`, or with other flags: a file or folder, as standard output has only their names."""

    def check(value: Path | None) -> Path | None:
        if value == Path("-"):
            raise typer.BadParameter("results are files, whose names go to standard output", param_hint=names[0])
        return value

    names = flags or ("--output", "-o")
    return typer.Option(*names, help=help, callback=check)


_SCENE = typer.Argument(help="Folder with photos and their poses, or its transforms.json.")
SceneArgument = Annotated[Path, _SCENE]
OptionalSceneArgument = Annotated[Path | None, _SCENE]
RenderArgument = Annotated[
    Path | None,
    typer.Argument(
        help="Folder of a render, or a scene to take its latest one. Without it: the path on standard input if "
        "that is a pipe, else the last render in this folder.",
        autocompletion=completion.renders,
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", envvar="LIFT3D_DEVICE")]
Dtype = Annotated[
    str,
    typer.Option(
        help="What features are stored as: fp16, bf16 or fp32.",
        autocompletion=completion.one_of(("fp16", "bf16", "fp32")),
    ),
]
Seed = Annotated[int, typer.Option(help="For models that draw random numbers.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of paths.")]
JsonTables = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Weights = Annotated[
    str, typer.Option(help="Rendering network: a file or a Hugging Face repository. [the one that ships]")
]
Precision = Annotated[
    str,
    typer.Option(
        help="Of the rendering network: bf16, fp32, or auto for bf16 where the processor has it.",
        autocompletion=completion.one_of(("auto", "bf16", "fp32")),
    ),
]
Memory = Annotated[str, typer.Option(help="Bound on what a pose takes, such as 2GiB; auto is half of what is free.")]
CacheOption = Annotated[
    Path | None,
    typer.Option("--cache", help="Folder for the caches of all scenes, instead of SCENE/.lift3d. Also: LIFT3D_CACHE."),
]
Check = Annotated[
    bool, typer.Option("--check/--no-check", help="First compare poses and points with the photos: seconds, once.")
]
DepthFolder = Annotated[
    Path | None,
    typer.Option("--depth", help="Folder of depth files named like the photos: EXR, NPY, NPZ, PFM, TIFF, 16-bit PNG."),
]
Mesh = Annotated[Path | None, typer.Option("--mesh", help="PLY or OBJ of the scene, to take the photos' depth from.")]
Every = Annotated[int, typer.Option(help="Leave out every n-th photo, by name, from the first.")]
Height = Annotated[int, typer.Option(help="Resize photos to this height; 0 keeps their size.")]
HeldOutViews = Annotated[int, typer.Option(help="Source photos per left-out photo, at most.", min=1)]


def check_dtype(dtype: str) -> None:
    """Raise a usage error for an unknown dtype."""
    from lift3d_cli.cache.format import DTYPES

    if dtype not in DTYPES:
        raise typer.BadParameter(f"{dtype!r} is not one of {', '.join(DTYPES)}", param_hint="--dtype")
