"""lift3d tune."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lift3d_cli.cli import console, inputs, options
from lift3d_cli.config import TuneConfig


def tune(
    scene: Annotated[
        Path | None, typer.Argument(help="The scene; without it, that of the last command in this folder.")
    ] = None,
    minutes: Annotated[float, typer.Option(help="Minutes of the whole tuning.", min=0.01)] = TuneConfig.minutes,
    weights: options.Weights = TuneConfig.weights,
    height: Annotated[
        int, typer.Option(help="Height in pixels of the photos that it learns from, at most; 0 keeps their size.")
    ] = TuneConfig.height,
    batch: Annotated[
        int, typer.Option(help="Examples a step; 0 for one per core, 2 to 8, and 12 on a GPU.", min=0)
    ] = TuneConfig.batch,
    learning_rate: Annotated[
        float, typer.Option(help="At its highest; Stage II learns five times as fast.")
    ] = TuneConfig.learning_rate,
    device: options.Device = TuneConfig.device,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = TuneConfig.seed,
    check: options.Check = True,
    cache: options.CacheOption = None,
    json: options.Json = False,
) -> None:
    """Tune the rendering network to a scene.

    It goes on training on the scene's own photos, some of which it keeps back to see what is best; the result stays in
    the scene's cache, for lift3d render --tuned. An interrupted tuning goes on where it was.

    Example: lift3d tune scene/ --minutes 5
    """
    config = options.config_of(TuneConfig, locals())
    scene, cache = inputs.recalled_scene(scene, cache)
    loaded = inputs.open_scene(scene)
    store = inputs.open_cache(loaded, cache)
    loaded = inputs.check_scene(loaded, store, check)
    from lift3d_cli.pipeline.workspace import Workspace
    from lift3d_cli.training.tune import tune_scene

    path, outcome = tune_scene(Workspace(loaded, store), config, reporter(minutes), console.progress)
    if json:
        console.as_json({"weights": None if path is None else str(path), **asdict(outcome)})
    elif path is not None:
        console.result(path)
    if path is None:
        console.warn("no weights are better on the photos kept back than those begun with: the scene keeps those")
    else:
        console.say(f"photos kept back: {outcome.psnr_before:.2f} dB before, {outcome.psnr:.2f} dB tuned")
        console.say("next: lift3d render --tuned")


def reporter(minutes: float) -> Callable[[Mapping[str, float]], None]:
    """Make the function that prints the PSNR of the photos kept back."""
    first: list[float] = []

    def report(row: Mapping[str, float]) -> None:
        psnr = row["psnr"]
        first.append(psnr)
        gain = f" ({psnr - first[0]:+.2f})" if len(first) > 1 else ""
        console.say(f"{row['minutes']:.1f} of {minutes:g} minutes: photos kept back {psnr:.2f} dB{gain}")

    return report
