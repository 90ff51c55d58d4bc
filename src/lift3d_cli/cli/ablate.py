"""lift3d ablate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lift3d_cli.cli import console, inputs, options
from lift3d_cli.config import AblationConfig


def ablate(
    scenes: Annotated[list[str], typer.Argument(help="Folders or files of scenes.", metavar="SCENE")],
    model: Annotated[list[str] | None, typer.Option(help="2D model to lift; may be repeated. [tiny-colorizer]")] = None,
    every: Annotated[
        int, typer.Option(help="Leave out every n-th photo, by name, from the first.")
    ] = AblationConfig.every,
    height: Annotated[
        int, typer.Option(help="Resize photos to this height; 0 keeps their size.")
    ] = AblationConfig.height,
    views: Annotated[
        int, typer.Option(help="Source photos per left-out photo, at most.", min=1)
    ] = AblationConfig.views,
    output: Annotated[Path | None, typer.Option(help="Markdown file to write the tables to.")] = None,
    device: options.Device = AblationConfig.device,
    memory: options.Memory = AblationConfig.memory,
    weights: options.Weights = AblationConfig.weights,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Measure what each part of the method is worth.

    Features of left-out photos, lifted from the others with parts of the
    method left out, and by other ways: a table per model.

    Example: lift3d ablate scene/ other/ --model tiny-colorizer
    """
    loaded = [inputs.open_scene(scene) for scene in scenes]
    from lift3d_cli.evaluation.ablation import ablate as run
    from lift3d_cli.evaluation.ablation import as_markdown

    config = AblationConfig(
        tuple(model) if model else AblationConfig.models, every, height, views, device, memory, weights
    )
    results = [run(scene, config, console.progress) for scene in loaded]
    if output is not None:
        from lift3d_cli.pipeline.results import write_output

        write_output(output, as_markdown(results).encode())
    if json:
        console.as_json(results)
    else:
        console.text(as_markdown(results))
