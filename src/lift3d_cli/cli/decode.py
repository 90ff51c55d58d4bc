"""lift3d decode."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lift3d_cli.cli import completion, console, inputs, options
from lift3d_cli.config import FRAME_FORMATS, RAW_FORMATS, VIDEO_CODECS, DecodeConfig


def decode(
    render: options.RenderArgument = None,
    task: Annotated[
        str,
        typer.Option(
            help="What to decode to, see lift3d models; or color, depth, normals or points, which need no model. "
            "[the model's first]",
            autocompletion=completion.tasks,
        ),
    ] = DecodeConfig.task,
    model: Annotated[
        str,
        typer.Option(
            help="Model whose features to decode. [the one that can do the task]",
            autocompletion=completion.encoded_models,
        ),
    ] = DecodeConfig.model,
    output: Annotated[Path | None, options.output_option("Folder of the results. [lift3d-out/RENDER]")] = None,
    format: Annotated[
        options.choices("FrameFormat", FRAME_FORMATS),
        typer.Option(help="Of the frames: PNG of 8 or 16 bits; EXR of half or single precision, with layers."),
    ] = DecodeConfig.format,
    depth_scale: Annotated[
        float,
        typer.Option(
            help="depth as png16: what a unit of the scene is stored as. [1000: millimetres of metres]", min=0
        ),
    ] = DecodeConfig.depth_scale,
    video: Annotated[
        bool | None, typer.Option("--video/--no-video", help="Write a video beside the frames. [video]")
    ] = DecodeConfig.video,
    codec: Annotated[
        str,
        typer.Option(
            help="Of the video: h264, h265, prores, gif or webp. [h264]", autocompletion=completion.one_of(VIDEO_CODECS)
        ),
    ] = DecodeConfig.codec,
    quality: Annotated[float | None, typer.Option(help="Of the video. [8]", min=1, max=10)] = None,
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
        str,
        typer.Option(
            help="Write the rendered features as they are instead: npy, npz, safetensors or exr.",
            autocompletion=completion.one_of(RAW_FORMATS),
        ),
    ] = DecodeConfig.raw,
    move_aside: Annotated[
        bool, typer.Option("--move-aside", help="Rename results of another run in the folder, instead of refusing.")
    ] = DecodeConfig.move_aside,
    device: options.Device = DecodeConfig.device,
    seed: options.Seed = DecodeConfig.seed,
    cache: options.CacheOption = None,
    json: options.Json = False,
) -> None:
    """Decode rendered features to frames and a video.

    The model's own decoder makes frames and a video; the colour, depth and normals of the render itself need no
    model. Prints the folder of the frames, with their cameras in transforms.json, and the video.

    Example: lift3d decode --task color
    """
    config = options.config_of(DecodeConfig, locals() | {"point": _point(point)})
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
    if done.remark:
        console.say(done.remark)
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
