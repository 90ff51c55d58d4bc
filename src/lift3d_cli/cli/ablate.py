"""lift3d ablate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lift3d_cli.cli import console, inputs, options
from lift3d_cli.config import AblationConfig


def ablate(
    scenes: Annotated[list[str], typer.Argument(help="Folders or files of scenes.", metavar="SCENE")],
    models: Annotated[
        list[str] | None, typer.Option("--model", help="2D model to lift; may be repeated. [tiny-colorizer]")
    ] = None,
    every: options.Every = AblationConfig.every,
    height: options.Height = AblationConfig.height,
    views: options.HeldOutViews = AblationConfig.views,
    output: Annotated[Path | None, options.output_option("Markdown file to write the tables to.", "--output")] = None,
    device: options.Device = AblationConfig.device,
    memory: options.Memory = AblationConfig.memory,
    weights: options.Weights = AblationConfig.weights,
    json: options.JsonTables = False,
) -> None:
    """Measure what each part of the method is worth.

    Features of left-out photos, lifted from the others with parts of the
    method left out, and by other ways: a table per model.

    Example: lift3d ablate scene/ other/ --model tiny-colorizer
    """
    config = options.config_of(AblationConfig, locals())
    loaded = [inputs.open_scene(scene) for scene in scenes]
    from lift3d_cli.evaluation.ablation import ablate as run
    from lift3d_cli.evaluation.ablation import as_markdown

    results = [run(scene, config, console.progress) for scene in loaded]
    if output is not None:
        from lift3d_cli.machine.atomic import write_output

        write_output(output, as_markdown(results).encode())
    if json:
        console.as_json(results)
    else:
        console.text(as_markdown(results))
