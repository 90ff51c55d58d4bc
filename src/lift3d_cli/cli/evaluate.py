"""lift3d eval."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from lift3d_cli.cli import console, options
from lift3d_cli.config import EvalConfig


class Variant(str, Enum):
    """Renderers to compare."""

    full = "full"
    single_stage = "single-stage"
    no_correction = "no-correction"
    feature_prediction = "feature-prediction"
    training_free = "training-free"


def evaluate(
    scene: options.SceneArgument,
    every: Annotated[int, typer.Option(help="Leave out every n-th photo, by name, from the first.")] = EvalConfig.every,
    height: Annotated[int, typer.Option(help="Resize photos to this height; 0 keeps their size.")] = EvalConfig.height,
    views: Annotated[int, typer.Option(help="Source photos per left-out photo, at most.", min=1)] = EvalConfig.views,
    model: Annotated[str, typer.Option(help="Also compare lifted features of this 2D model.")] = EvalConfig.model,
    save: Annotated[
        Path | None, typer.Option(help="Folder for pictures: photo, render and depth side by side.")
    ] = None,
    device: options.Device = EvalConfig.device,
    memory: options.Memory = EvalConfig.memory,
    weights: options.Weights = EvalConfig.weights,
    variant: Annotated[
        Variant, typer.Option(help="full, or with a part left out: see docs/evaluation.md.")
    ] = Variant.full,
    consistency: Annotated[
        bool, typer.Option("--consistency", help="Also compare decoded frames of --model with those nearby and far.")
    ] = False,
    task: Annotated[str, typer.Option(help="What --consistency decodes to. [the model's first]")] = "",
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure quality on left-out photos.

    Each is rendered from the others and compared.

    Example: lift3d eval scene/ --every 8 --height 320 --views 8 --json
    """
    if consistency and not model:
        raise typer.BadParameter("needs --model, whose decoded frames it compares", param_hint="--consistency")
    loaded = options.open_scene(scene)
    from lift3d_cli.evaluation.consistency import measure_consistency
    from lift3d_cli.evaluation.protocols import evaluate as run

    config = EvalConfig(every, height, views, model, device, memory, weights, variant.value)
    result = run(loaded, config, save, console.progress)
    if consistency:
        result["consistency"] = measure_consistency(loaded, config, task, console.progress)
    if json:
        console.as_json(result)
        return
    keys = list(result["mean"])
    lines = [f"{'photo':32}" + "".join(f"{key:>22}" for key in keys)]
    for row in [*result["views"], {"name": "mean", **result["mean"]}]:
        lines.append(f"{row['name']:32}" + "".join(f"{row[key]:>22.4f}" for key in keys))
    console.text("\n".join(lines))
    for pair, methods in result.get("consistency", {}).items():
        for method, row in methods.items():
            console.text(
                f"{pair:6}{method:26}" + "".join(f"{f'{name} {value:.4f}':>22}" for name, value in row.items())
            )
