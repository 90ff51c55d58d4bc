"""lift3d render."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lift3d_cli.cli import completion, console, inputs, options, shards
from lift3d_cli.config import NO_MODEL, RenderConfig
from lift3d_cli.errors import CacheError
from lift3d_cli.machine.wording import counted

if TYPE_CHECKING:
    from lift3d_cli.cache.format import EncoderRecord
    from lift3d_cli.pipeline.forecast import Forecast
    from lift3d_cli.pipeline.render import RenderJob
    from lift3d_cli.pipeline.workspace import Workspace
    from lift3d_cli.scene.paths import CameraPath

_PREVIEW = (240, 12)  # longest side in pixels, frames
_WORTH_LOGGING_S = 10
_NO_FRAMES = "nothing to render: this part has no frames, as there are more parts than frames"


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
        list[str] | None,
        typer.Option(
            "--model",
            help="Encoded model to lift; may be repeated; none for colour only. [those encoded since the last render]",
            autocompletion=completion.models_to_lift,
        ),
    ] = None,
    views: Annotated[int, typer.Option(help="Source photos per pose, at most.", min=1)] = RenderConfig.views,
    planes: Annotated[int, typer.Option(help="Depth planes of Stage I, at most.", min=2)] = RenderConfig.planes,
    samples: Annotated[int, typer.Option(help="Samples per ray of Stage II.", min=1)] = RenderConfig.samples,
    output: Annotated[Path | None, options.output_option("Folder of the render, instead of one in the cache.")] = None,
    confidence: Annotated[
        bool,
        typer.Option("--confidence", help="Also write how far each pixel can be believed: gray PNGs in confidence/."),
    ] = False,
    preview: Annotated[
        bool, typer.Option("--preview", help="Only some of the poses, and small, to look at first.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what time, memory and disk it would take, and render nothing.")
    ] = False,
    frames: Annotated[
        str | None,
        typer.Option(help="Only these poses, from 0: 7, 10-50, 10-50x2 for every second, several with commas."),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(help="Only part I of N of the frames, as I/N from 1/N on; slurm takes both from the job array."),
    ] = None,
    print_commands: Annotated[
        int | None,
        typer.Option(min=1, help="Print this many commands, one a line, that share the work, and do nothing else."),
    ] = None,
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

    The models that were encoded for it are lifted in one pass; others can be added later, from the same poses. Prints
    the folder of the render; an interrupted render goes on where it was. Example: lift3d render --poses path.json
    """
    given = locals()
    from lift3d_cli.cache.session import begin_render, models_to_render, remember

    with suppress(CacheError):  # a damaged session file matters only where the scene is looked up in it
        if not (dry_run or print_commands):
            begin_render()
    options.check_dtype(dtype)
    path = _read_path(poses, preview)
    wanted = _wanted(len(path), frames, shard)
    depth, mesh = inputs.recalled_depth(scene, depth, mesh)
    scene, cache = inputs.recalled_scene(scene, cache)
    loaded = inputs.open_scene(scene, depth, mesh)
    store = inputs.open_cache(loaded, cache)
    encoders = store.encoders()
    # Noted ones that are gone are an error with a hint, rather than a render without what was asked for.
    models = models or list(inputs.or_nothing(models_to_render, scene) or [e.name for e in encoders[-1:]]) or [NO_MODEL]
    from lift3d_cli.pipeline.encoders import named_encoders

    named_encoders(store, loaded.root, models)  # raises its error now, before anything is done or printed
    if print_commands:
        found = {"scene": scene, "cache": cache, "depth": depth, "mesh": mesh, "models": models}
        console.text("\n".join(shards.commands(render, given | found, print_commands, len(wanted))))
        return
    loaded = inputs.check_scene(loaded, store, check)
    config = options.config_of(RenderConfig, given | {"models": models})
    from lift3d_cli.pipeline.lift import PHOTOS_PER_VIEW
    from lift3d_cli.pipeline.render import carry_out, prepare
    from lift3d_cli.pipeline.workspace import Workspace

    name = f"{loaded.root.resolve().name}-{'path' if poses == '-' else Path(poses).stem}{'-preview' * preview}"
    workspace = Workspace(loaded, store, keep=PHOTOS_PER_VIEW * views)
    inputs.warn_of_depth(workspace)
    job = prepare(workspace, path, name, config, output, console.progress, console.warn, wanted)
    _say_models(job, encoders, dtype, is_chosen=bool(given["models"]))
    if dry_run:
        _show_forecast(workspace, job, config, json)
        return
    with suppress(CacheError):
        begin_render(is_sure=True)
    if not wanted:
        console.note(_NO_FRAMES)
    folder = carry_out(workspace, job, config, console.progress, _say_forecast)
    console.warn(remember(scene, cache, folder, depth=depth, mesh=mesh, models=models))
    _show(folder, models, confidence, json, wanted)


def _read_path(poses: str, preview: bool) -> CameraPath:
    from lift3d_cli.scene.paths import preview_of, read_poses, read_poses_stdin

    path = read_poses_stdin(sys.stdin.read()) if poses == "-" else read_poses(Path(poses))
    return preview_of(path, *_PREVIEW) if preview else path


def _wanted(count: int, frames: str | None, shard: str | None) -> list[int]:
    """Return which frames this process renders."""
    from lift3d_cli.pipeline.frame_choice import named_frames, part_of_frames

    wanted = list(range(count)) if frames is None else named_frames(frames, count)
    return wanted if shard is None else part_of_frames(wanted, shard, os.environ)


def _show(folder: Path, models: list[str], confidence: bool, json: bool, frames: list[int]) -> None:
    """Judge the frames that were rendered, and print the render's folder."""
    from lift3d_cli.cache.renders import Render
    from lift3d_cli.pipeline.trust import judge, write_confidence

    done = Render.open(folder)
    if confidence:
        write_confidence(done, console.progress, frames)
    trust = judge(done, frames)
    for warning in trust.warnings:
        console.warn(warning)
    missing = len(done.missing()) if len(frames) < done.num_frames else 0
    if json:
        counts = {"frames": done.num_frames, "missing": missing}
        console.as_json({"path": str(folder), **counts, "models": models, **asdict(trust)})
    else:
        console.result(folder)
    if missing:
        console.say(f"{missing} of {done.num_frames} frames of the path are not rendered yet")
    else:
        console.say("next: lift3d decode --task color, or --task TASK of a model")


def _show_forecast(workspace: Workspace, job: RenderJob, config: RenderConfig, json: bool) -> None:
    from lift3d_cli.pipeline.render import forecast

    found = forecast(workspace, job, config)
    facts = {"seconds": found.total_seconds, "disk_bytes": found.disk_bytes, "models": list(config.models)}
    if json:
        console.as_json({"path": str(job.root), **asdict(found), "seconds_per_frame": found.seconds, **facts})
    else:
        console.text(_forecast_text(found) if job.frames else _NO_FRAMES)


def _say_forecast(found: Forecast) -> None:
    """Say what a render will take; in a log only where somebody would wonder."""
    if found.frames > 1:
        say = console.note if found.total_seconds > _WORTH_LOGGING_S else console.say
        say(_forecast_text(found))


def _forecast_text(found: Forecast) -> str:
    """Describe a forecast in a line."""
    if not found.frames:
        return "nothing to render: all frames are there"
    first = f" and {found.surfaces} photos' surfaces" if found.surfaces else ""
    return (
        f"{counted(found.frames, 'frame')}{first}: {found.seconds:.2g} s each, "
        f"{console.human_time(found.total_seconds)} in all; "
        f"{console.human_bytes(found.memory_bytes)} of memory, {console.human_bytes(found.disk_bytes)} of disk"
    )


def _say_models(job: RenderJob, encoders: Sequence[EncoderRecord], dtype: str, is_chosen: bool) -> None:
    """Say what is lifted, and what could be; in a log only where this was chosen for somebody who may miss a model."""
    from lift3d_cli.pipeline.render import models_to_add

    others = models_to_add(job, encoders, dtype)
    say = console.note if others and not is_chosen else console.say
    hint = f"; encoded too: {', '.join(others)}. --model adds one later, and keeps the colour" if others else ""
    say(f"lifts {', '.join(job.features) or NO_MODEL}{hint}")
