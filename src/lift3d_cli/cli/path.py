"""lift3d path."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from lift3d_cli.cli import console, inputs, options
from lift3d_cli.errors import SceneError
from lift3d_cli.machine.wording import counted

_FRAMES = 60


class Kind(str, Enum):
    """Kinds of camera path."""

    orbit = "orbit"
    spiral = "spiral"
    interpolate = "interpolate"
    views = "views"


def path(
    scene: options.SceneArgument,
    kind: Annotated[
        Kind,
        typer.Argument(
            help="orbit: around what the photos look at. spiral: small circles in front of it. interpolate: from photo "
            "to photo. views: the photos' own poses."
        ),
    ],
    frames: Annotated[
        int | None, typer.Option("--frames", "-n", help="Number of poses; not for views. [60]", min=1)
    ] = None,
    fps: Annotated[float, typer.Option(help="Frames per second of a video of the path.", min=0.1)] = 24.0,
    every: Annotated[int | None, typer.Option(help="For views: every n-th photo. [1]", min=1)] = None,
    max_size: Annotated[
        int, typer.Option(help="Longest side of the frames, in pixels; the photos' own at most.", min=16)
    ] = 960,
    output: Annotated[Path, options.output_option("The file to write.")] = Path("path.json"),
    check: options.Check = True,
    cache: options.CacheOption = None,
) -> None:
    """Write a camera path as path.json.

    Prints the name of the file. Example: lift3d path scene/ orbit --frames 90
    """
    from lift3d_cli.geometry import trajectories
    from lift3d_cli.scene.paths import usable_names, write_path

    if kind is Kind.views and frames is not None:
        raise typer.BadParameter(
            "does nothing for views, which are all photos' poses, or --every n-th", param_hint="--frames"
        )
    if kind is not Kind.views and every is not None:
        raise typer.BadParameter("is for views; the others take --frames", param_hint="--every")
    frames, every = frames or _FRAMES, every or 1
    _refuse_foreign(output)
    loaded = inputs.open_scene(scene)
    loaded = inputs.check_scene(loaded, inputs.existing_cache(loaded, cache), check)
    cameras = loaded.cameras
    names = None
    middle = sorted(cameras, key=lambda c: c.width * c.height)[len(cameras) // 2]
    width, height = shrunk(middle.width, middle.height, max_size)
    if kind is Kind.views:
        poses = [c.resized(*shrunk(c.width, c.height, max_size)) for c in trajectories.views(cameras, every)]
        names = usable_names([Path(view.name).with_suffix("").as_posix() for view in loaded.views[::every]])
    elif kind is Kind.interpolate:
        poses = trajectories.interpolate(cameras, frames, width, height)
    else:
        make = trajectories.orbit if kind is Kind.orbit else trajectories.spiral
        poses = make(cameras, frames, width, height, focus_depth(loaded))
    console.result(write_path(output, poses, fps, names))
    console.say(f"{counted(len(poses), 'pose')} of {width}x{height}. next: lift3d render --poses {output}")
    if len(poses) == 1:
        console.say("one pose makes a picture, no video")


def shrunk(width: int, height: int, max_size: int) -> tuple[int, int]:
    """Shrink a size to at most `max_size` along its longer side, both sides even for videos."""
    factor = min(1.0, max_size / max(width, height))
    return tuple(max(2, round(side * factor / 2) * 2) for side in (width, height))


def focus_depth(scene) -> float | None:
    """Return the median z-depth of the scene's points in its photos, or None without points."""
    import numpy as np

    if scene.points is None or len(scene.points) < 20:
        return None
    depths = [camera.project(scene.points[:: len(scene.points) // 5000 + 1])[1] for camera in scene.cameras]
    front = np.concatenate(depths)
    return float(np.median(front[front > 0])) if (front > 0).any() else None


def _refuse_foreign(output: Path) -> None:
    """Raise an error if the file is not one that this command could have written."""
    from lift3d_cli.machine.reading import read_file
    from lift3d_cli.scene.paths import FORMAT

    try:
        head = read_file(output, 2**30)[:100]
    except FileNotFoundError:
        return
    except OSError:
        head = b""
    if FORMAT.encode() not in head:
        raise SceneError(f"{output}: exists and is no camera path of lift3d. hint: --output another.json")
