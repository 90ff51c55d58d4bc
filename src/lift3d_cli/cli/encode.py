"""lift3d encode."""

from __future__ import annotations

from typing import Annotated

import typer

from lift3d_cli.cli import completion, console, inputs, options
from lift3d_cli.config import EncodeConfig, RenderConfig
from lift3d_cli.machine.wording import counted


def encode(
    scene: options.SceneArgument,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="2D model by name, or ./file.py:Class; may be repeated. [tiny-colorizer]",
            autocompletion=completion.models,
        ),
    ] = None,
    prompt: Annotated[str, typer.Option(help="For models that edit: what to change, such as 'make it snow'.")] = "",
    max_size: Annotated[
        int | None, typer.Option(help="Shrink photos to this longest side first.", min=16)
    ] = EncodeConfig.max_size,
    force: Annotated[bool, typer.Option("--force", help="Encode again what is there.")] = EncodeConfig.force,
    prune: Annotated[
        bool, typer.Option("--prune", help="Then delete features that no photo or model explains.")
    ] = False,
    device: options.Device = EncodeConfig.device,
    dtype: options.Dtype = EncodeConfig.dtype,
    seed: options.Seed = EncodeConfig.seed,
    depth: options.DepthFolder = None,
    mesh: options.Mesh = None,
    check: options.Check = True,
    cache: options.CacheOption = None,
    json: options.Json = False,
) -> None:
    """Encode each photo with 2D models, and find the surface that it shows, once.

    Only what is missing or stale is done again. Prints the folder of each model's features.

    Example: lift3d encode scene/ --model tiny-colorizer
    """
    models = [_with_prompt(name, prompt) for name in models or EncodeConfig.models]
    config = options.config_of(EncodeConfig, locals())
    from lift3d_cli.cache.session import models_to_render, remember

    options.check_dtype(dtype)
    loaded = inputs.open_scene(scene, depth, mesh)
    store = inputs.open_cache(loaded, cache)
    if store.has_outdated():
        console.say(f"{store.root}: features of another version of lift3d are made again; --prune deletes the old ones")
    loaded = inputs.check_scene(loaded, store, check)
    from lift3d_cli.pipeline.encode import encode as run
    from lift3d_cli.pipeline.surfaces import find_surfaces
    from lift3d_cli.pipeline.workspace import Workspace

    workspace = Workspace(loaded, store, keep=2)
    inputs.warn_of_depth(workspace)
    done = run(workspace, config, console.progress)
    # The same photos serve the surfaces of their neighbours.
    num_found = find_surfaces(Workspace(loaded, store, keep=32), RenderConfig(device=device), console.progress)
    names = inputs.or_nothing(models_to_render, scene, [d.model for d in done]) or [d.model for d in done]
    console.warn(remember(scene, cache, depth=depth, mesh=mesh, models=names))
    if prune:
        from lift3d_cli.pipeline.prune import prune_features

        console.say(f"pruned {console.human_bytes(prune_features(loaded, store))}")
    if json:
        console.as_json(
            [{"model": d.model, "path": str(d.folder), "encoded": d.num_encoded, "reused": d.num_reused} for d in done]
        )
        return
    for d in done:
        console.say(f"{d.model}: {counted(d.num_encoded, 'photo')} encoded, {d.num_reused} were there")
        console.result(d.folder)
    console.say(f"surfaces: {num_found} photos' found, {len(loaded.views) - num_found} were there")
    console.say("next: lift3d path SCENE orbit, then lift3d render --poses path.json")


def _with_prompt(model: str, prompt: str) -> str:
    """Add the prompt to a model's reference as a setting, see `registry`."""
    from urllib.parse import urlencode

    return f"{model}{'&' if '?' in model else '?'}{urlencode({'prompt': prompt})}" if prompt else model
