"""lift3d decode."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lift3d_cli.cli import console, inputs, options
from lift3d_cli.config import RAW_FORMATS, DecodeConfig


def decode(
    render: options.RenderArgument = None,
    task: Annotated[
        str, typer.Option(help="What to decode to, see lift3d models. [the model's first]")
    ] = DecodeConfig.task,
    model: Annotated[
        str, typer.Option(help="Model whose features to decode. [the one that can do the task]")
    ] = DecodeConfig.model,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the results. [lift3d-out/RENDER]")
    ] = None,
    video: Annotated[bool, typer.Option(help="Write an MP4 beside the frames.")] = DecodeConfig.video,
    fps: Annotated[float, typer.Option(help="Of the video; 0 takes the path's.", min=0)] = DecodeConfig.fps,
    text: Annotated[
        list[str] | None, typer.Option(help="segment: what a class is, in words; repeat it for more classes.")
    ] = None,
    strokes: Annotated[
        Path | None,
        typer.Option(help="segment: picture of the size of the photo --view, painted with a colour for each class."),
    ] = DecodeConfig.strokes,
    point: Annotated[str | None, typer.Option(help="segment: X,Y in pixels of the photo --view, on the thing.")] = None,
    view: Annotated[str, typer.Option(help="Photo that --strokes or --point are on.")] = DecodeConfig.view,
    clusters: Annotated[
        int, typer.Option(help="segment: find so many classes.", min=0, max=256)
    ] = DecodeConfig.clusters,
    style: Annotated[Path | None, typer.Option(help="stylize: picture whose style to take.")] = DecodeConfig.style,
    refine: Annotated[
        bool, typer.Option("--refine", help="segment: move the edges of masks to those of the rendered colour.")
    ] = DecodeConfig.refine,
    soft_masks: Annotated[
        bool, typer.Option("--soft-masks", help="segment: also write how much each pixel is of each class.")
    ] = DecodeConfig.soft_masks,
    source_views: Annotated[
        list[str] | None,
        typer.Option(
            "--source-view", help="Decode this photo by its own features instead of the frames; may be repeated."
        ),
    ] = None,
    raw: Annotated[
        str, typer.Option(help="Write the rendered features as they are instead: npy or safetensors.")
    ] = DecodeConfig.raw,
    device: options.Device = DecodeConfig.device,
    seed: options.Seed = DecodeConfig.seed,
    cache: options.CacheOption = None,
    json: options.Json = False,
) -> None:
    """Decode rendered features to frames and a video.

    The model's own decoder makes PNG frames and an MP4. Prints the folder of the frames and the video.

    Example: lift3d decode --task colorize
    """
    config = options.config_of(DecodeConfig, locals() | {"point": _point(point)})
    if raw not in ("", *RAW_FORMATS):
        raise typer.BadParameter(f"{raw!r} is not one of {', '.join(RAW_FORMATS)}", param_hint="--raw")
    folder = inputs.find_render(render, cache)
    from lift3d_cli.pipeline.decode import decode as run

    done = run(
        folder,
        output or Path("lift3d-out") / folder.name,
        config,
        console.progress,
        lambda scene: inputs.open_workspace(scene, folder, cache),
    )
    console.warn(done.note)
    paths = [p for p in (done.frames, done.video) if p is not None]
    if json:
        facts = {"frames": str(done.frames), "video": str(done.video) if done.video else None, "scale": done.scale}
        console.as_json(facts)
        return
    if done.scale > 1:
        console.say(f"{done.scale} times as wide and high as the views")
    for p in paths:
        console.result(p)


def _point(text: str | None) -> tuple[float, float] | None:
    """Parse X,Y as numbers."""
    if text is None:
        return None
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError as e:
        raise typer.BadParameter(f"{text!r} is not X,Y", param_hint="--point") from e
    return x, y
