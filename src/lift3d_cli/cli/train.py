"""lift3d train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lift3d_cli.cli import console, options
from lift3d_cli.config import PARTS, TrainConfig

Part = options.choices("Part", PARTS)


def train(
    part: Annotated[Part, typer.Argument(help="What learns; the last two are for lift3d ablate.")],
    scenes: Annotated[
        list[Path] | None, typer.Argument(help="Folders of scenes to learn from.", metavar="SCENE")
    ] = None,
    held_out: Annotated[list[Path] | None, typer.Option(help="Scene to score on; may be repeated.")] = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", help="2D model whose features the corrector learns from; may be repeated."),
    ] = None,
    textures: Annotated[
        Path | None, typer.Option(help="Folder of photos, for textures of procedural scenes.")
    ] = TrainConfig.textures,
    weights: Annotated[
        str, typer.Option(help="Weights to begin with, or none. [the ones that ship]")
    ] = TrainConfig.weights,
    run: Annotated[
        Path, options.output_option("Folder for the checkpoint and the learning curves.", "--run")
    ] = TrainConfig.run,
    output: Annotated[
        Path | None, options.output_option("File for the finished weights. [weights.safetensors in --run]", "--output")
    ] = TrainConfig.output,
    steps: Annotated[int, typer.Option(help="Steps of the whole training.", min=1)] = TrainConfig.steps,
    minutes: Annotated[
        float, typer.Option(help="Instead: minutes of the whole training.", min=0)
    ] = TrainConfig.minutes,
    stop_after: Annotated[
        float, typer.Option(help="Minutes after which to stop before the end; --resume goes on.", min=0)
    ] = TrainConfig.stop_after,
    batch: Annotated[int, typer.Option(help="Examples a step.", min=1)] = TrainConfig.batch,
    learning_rate: Annotated[float, typer.Option(help="At its highest.")] = TrainConfig.learning_rate,
    height: Annotated[
        int, typer.Option(help="Height of the photos in pixels, except the corrector's.")
    ] = TrainConfig.height,
    procedural: Annotated[
        float, typer.Option(help="Part of the examples from procedural scenes, except the corrector's.", min=0, max=1)
    ] = TrainConfig.procedural,
    examples: Annotated[
        int, typer.Option(help="Examples of the corrector per scene and size.", min=1)
    ] = TrainConfig.examples,
    evaluate_every: Annotated[int, typer.Option(help="Steps between scores.", min=1)] = TrainConfig.evaluate_every,
    device: options.Device = TrainConfig.device,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = TrainConfig.seed,
    workers: Annotated[
        int, typer.Option(help="Processes that make procedural scenes while a GPU trains.", min=0)
    ] = TrainConfig.workers,
    compile: Annotated[
        bool, typer.Option("--compile", help="Let torch fuse Stage II's operations: minutes at first, then faster.")
    ] = TrainConfig.compile,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --run.")] = TrainConfig.resume,
    json: options.Json = False,
) -> None:
    """Train the rendering network.

    On photos and procedural scenes; learning curves go to --run.

    Example: lift3d train corrector scenes/* --model vgg.py:Vgg --held-out fox/
    """
    config = options.config_of(TrainConfig, locals())
    from lift3d_cli.training.train import train as start

    def report(row: dict[str, float]) -> None:
        console.say("  ".join(f"{name} {value:.4g}" for name, value in row.items()))

    path = start(config, report, console.progress)
    if json:
        console.as_json({"weights": str(path), "run": str(run)})
    else:
        console.text(str(path))
