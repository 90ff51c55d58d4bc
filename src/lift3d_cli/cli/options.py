"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", envvar="LIFT3D_DEVICE")]
Dtype = Annotated[str, typer.Option(help="What features are stored as: fp16, bf16 or fp32.")]
Seed = Annotated[int, typer.Option(help="For models that draw random numbers.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of paths.")]
Weights = Annotated[
    str, typer.Option(help="Rendering network: a file or a Hugging Face repository. [the one that ships]")
]
Precision = Annotated[
    str, typer.Option(help="Of the rendering network: bf16, fp32, or auto for bf16 where the processor has it.")
]
Memory = Annotated[str, typer.Option(help="Bound on what a pose takes, such as 2GiB; auto is half of what is free.")]
CacheOption = Annotated[
    Path | None,
    typer.Option("--cache", help="Folder for the caches of all scenes, instead of SCENE/.lift3d. Also: LIFT3D_CACHE."),
]
SceneArgument = Annotated[Path, typer.Argument(help="Folder with photos and their poses, or its transforms.json.")]
RenderArgument = Annotated[
    Path | None,
    typer.Argument(
        help="Folder of a render, or a scene to take its latest one. Without it: the path on standard input if "
        "that is a pipe, else the last render in this folder."
    ),
]


def check_dtype(dtype: str) -> None:
    """Refuse an unknown dtype as a usage error."""
    from lift3d_cli.cache.format import DTYPES

    if dtype not in DTYPES:
        raise typer.BadParameter(f"{dtype!r} is not one of {', '.join(DTYPES)}", param_hint="--dtype")
