"""lift3d render."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lift3d_cli.cli import console, inputs, options
from lift3d_cli.config import RenderConfig
from lift3d_cli.errors import CacheError


def render(
    scene: Annotated[
        Path | None, typer.Argument(help="The scene; without it, that of the last command in this folder.")
    ] = None,
    poses: Annotated[
        str,
        typer.Option(
            help="path.json, a nerfstudio camera path or a transforms.json; - reads the JSON or the file's name from "
            "standard input."
        ),
    ] = "path.json",
    models: Annotated[
        list[str] | None, typer.Option("--model", help="Encoded model to lift; may be repeated. [all that are encoded]")
    ] = None,
    views: Annotated[int, typer.Option(help="Source photos per pose, at most.", min=1)] = RenderConfig.views,
    planes: Annotated[int, typer.Option(help="Depth planes of Stage I, at most.", min=2)] = RenderConfig.planes,
    samples: Annotated[int, typer.Option(help="Samples per ray of Stage II.", min=1)] = RenderConfig.samples,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the render, instead of one in the cache.")
    ] = None,
    confidence: Annotated[
        bool,
        typer.Option("--confidence", help="Also write how far each pixel can be believed: gray PNGs in confidence/."),
    ] = False,
    device: options.Device = RenderConfig.device,
    dtype: options.Dtype = RenderConfig.dtype,
    memory: options.Memory = RenderConfig.memory,
    weights: options.Weights = RenderConfig.weights,
    precision: options.Precision = RenderConfig.precision,
    depth: options.DepthFolder = None,
    mesh: options.Mesh = None,
    check: options.Check = True,
    tuned: Annotated[
        bool, typer.Option("--tuned", help="By the weights that lift3d tune made of these for the scene.")
    ] = RenderConfig.tuned,
    cache: options.CacheOption = None,
    json: options.Json = False,
) -> None:
    """Render colour, depth and features at new poses.

    All models that are encoded are lifted in one pass. Prints the folder of the render; an interrupted render goes on
    where it was. Example: lift3d render --poses path.json
    """
    config = options.config_of(RenderConfig, locals())
    from lift3d_cli.cache.session import forget_render, remember
    from lift3d_cli.scene.paths import read_poses, read_poses_stdin

    with suppress(CacheError):  # a damaged session file matters only where the scene is looked up in it
        forget_render()  # if this render fails, a decode after it must not use the previous one
    options.check_dtype(dtype)
    path = read_poses_stdin(sys.stdin.read()) if poses == "-" else read_poses(Path(poses))
    depth, mesh = inputs.recalled_depth(scene, depth, mesh)
    scene, cache = inputs.recalled_scene(scene, cache)
    loaded = inputs.open_scene(scene, depth, mesh)
    store = inputs.open_cache(loaded, cache)
    loaded = inputs.check_scene(loaded, store, check)
    from lift3d_cli.cache.renders import Render
    from lift3d_cli.pipeline.lift import PHOTOS_PER_VIEW
    from lift3d_cli.pipeline.render import render as run
    from lift3d_cli.pipeline.trust import judge, write_confidence
    from lift3d_cli.pipeline.workspace import Workspace

    name = "path" if poses == "-" else Path(poses).stem
    workspace = Workspace(loaded, store, keep=PHOTOS_PER_VIEW * views)
    inputs.warn_of_depth(workspace)
    folder = run(workspace, path, f"{loaded.root.resolve().name}-{name}", config, output, console.progress)
    console.warn(remember(scene, cache, folder, depth=depth, mesh=mesh))
    done = Render.open(folder)
    if confidence:
        write_confidence(done, console.progress)
    trust = judge(done)
    for warning in trust.warnings:
        console.warn(warning)
    if json:
        console.as_json({"path": str(folder), "frames": len(path), **asdict(trust)})
    else:
        console.result(folder)
    console.say("next: lift3d decode --task TASK")
