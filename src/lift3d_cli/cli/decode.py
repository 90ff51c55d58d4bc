"""lift3d decode."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lift3d_cli.cli import console, options
from lift3d_cli.config import RAW_FORMATS, DecodeConfig
from lift3d_cli.errors import CacheError

if TYPE_CHECKING:
    from lift3d_cli.pipeline.workspace import Workspace


def decode(
    render: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of a render, or a scene to take its latest one. Without it: the path on standard input if "
            "that is a pipe, else the last render in this folder."
        ),
    ] = None,
    task: Annotated[str, typer.Option(help="What to decode to, see lift3d models. [the model's first]")] = "",
    model: Annotated[str, typer.Option(help="Model whose features to decode. [the one that can do the task]")] = "",
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
    ] = None,
    point: Annotated[str | None, typer.Option(help="segment: X,Y in pixels of the photo --view, on the thing.")] = None,
    view: Annotated[str, typer.Option(help="Photo that --strokes or --point are on.")] = DecodeConfig.view,
    clusters: Annotated[
        int, typer.Option(help="segment: find so many classes.", min=0, max=256)
    ] = DecodeConfig.clusters,
    style: Annotated[Path | None, typer.Option(help="stylize: picture whose style to take.")] = None,
    soft_masks: Annotated[
        bool, typer.Option("--soft-masks", help="segment: also write how much each pixel is of each class.")
    ] = DecodeConfig.soft_masks,
    source_view: Annotated[
        list[str] | None,
        typer.Option(help="Decode this photo by its own features instead of the frames; may be repeated."),
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
    place = _point(point)
    if raw not in ("", *RAW_FORMATS):
        raise typer.BadParameter(f"{raw!r} is not one of {', '.join(RAW_FORMATS)}", param_hint="--raw")
    folder = find_render(render, cache)
    from lift3d_cli.pipeline.decode import decode as run

    config = DecodeConfig(
        task,
        model,
        device,
        video,
        fps,
        seed,
        tuple(text or ()),
        strokes,
        place,
        view,
        clusters,
        style,
        soft_masks,
        tuple(source_view or ()),
        raw,
    )
    done = run(
        folder,
        output or Path("lift3d-out") / folder.name,
        config,
        console.progress,
        lambda scene: open_workspace(scene, folder, cache),
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
    """X,Y as numbers."""
    if text is None:
        return None
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError as e:
        raise typer.BadParameter(f"{text!r} is not X,Y", param_hint="--point") from e
    return x, y


def open_workspace(scene: Path, render: Path, cache: Path | None) -> Workspace:
    """Open the scene that a render was made from, with the cache that it lies in."""
    from lift3d_cli.cache.renders import cache_of
    from lift3d_cli.cache.store import SceneCache
    from lift3d_cli.pipeline.workspace import Workspace

    loaded = options.open_scene(scene)
    root = cache_of(render) if cache is None else None
    if root is not None:
        return Workspace(loaded, SceneCache(root, str(scene)))
    return Workspace(loaded, options.open_cache(loaded, cache))


def find_render(given: Path | None, cache: Path | None) -> Path:
    """The render to decode; see the help of the argument."""
    from lift3d_cli.cache.session import recall

    if given is None and (piped := _piped_path()):
        given = piped
    if given is None:
        session = recall()
        if session is None:
            raise CacheError("no render named, and none made in this folder before. hint: lift3d render SCENE")
        return session.require_render()
    from lift3d_cli.cache.renders import is_render, latest_render

    if is_render(given):
        return given
    if not given.exists():
        raise CacheError(f"{given}: no such folder. hint: name a render's folder, or a scene")
    scene = options.open_scene(given)
    latest = latest_render(options.open_cache(scene, cache).root)
    if latest is None:
        raise CacheError(f"{given}: nothing is rendered yet. hint: lift3d render {given} --poses path.json")
    return latest


def _piped_path() -> Path | None:
    """The line that `lift3d render` writes to a pipe into this command; None if there is no pipe or nothing in it."""
    try:
        is_pipe = stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode)
    except (OSError, ValueError, AttributeError):  # no standard input at all
        return None
    text = sys.stdin.readline().strip() if is_pipe else ""
    return Path(text) if text else None
