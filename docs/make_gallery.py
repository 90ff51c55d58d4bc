"""Write a picture of the gallery: a scene at a pose from which no photo was taken, and what 2D models make of it there.

    make gallery                                   # the example, by the models that ship: docs/images/gallery-color.jpg
    python docs/make_gallery.py SCENE --model ddcolor --model style --output strip.jpg
    python docs/make_gallery.py SCENE --model dinov2 --strokes strokes.png --view 005.jpg --output strip.jpg

A model is shown by its first task; with strokes on a photo, by its features, that photo and the classes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from make_picture import IMAGES, SCENE, run, save
from PIL import Image

from lift3d_cli import load_scene
from lift3d_cli.errors import Lift3dError
from lift3d_cli.models.registry import find_model

SHIPPED = ("style", "tiny-colorizer")
HEIGHT = 240
POSES = 3  # of which the middle one is shown


def main() -> None:
    """Make the picture and name it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scene", type=Path, nargs="?", default=SCENE, help="its folder [the example]")
    parser.add_argument("--model", action="append", help=f"may be repeated [{', '.join(SHIPPED)}]")
    parser.add_argument(
        "--strokes", type=Path, help="picture with a colour per class on black, for models that segment"
    )
    parser.add_argument("--view", help="the photo that the strokes are on")
    parser.add_argument("--size", type=int, default=480, help="longer side of the frame in pixels [480]")
    parser.add_argument("--views", type=int, default=6, help="source photos [6]")
    parser.add_argument("--output", type=Path, default=IMAGES / "gallery-color.jpg")
    options = parser.parse_args()
    if bool(options.strokes) != bool(options.view):
        parser.error("--strokes and --view: each needs the other")
    try:
        with TemporaryDirectory() as folder:
            tiles = strip(options, Path(folder))
            shape = tiles[0][0].size
            save([tiles], options.output, (round(HEIGHT * shape[0] / shape[1]), HEIGHT))
    except Lift3dError as error:
        sys.exit(f"error: {error}")


def strip(options: argparse.Namespace, folder: Path) -> list[tuple[Image.Image, str]]:
    """Lift the models to the pose; return pictures with captions, the rendered colour first."""
    models, scene, cache = options.model or SHIPPED, str(options.scene), ("--cache", str(folder / "cache"))
    poses = str(folder / "path.json")
    held_out, size = options.scene / "held_out", ("--max-size", str(options.size))
    where = [str(held_out), "views"] if held_out.is_dir() else [scene, "interpolate", "--frames", str(POSES)]
    run("path", *where, *size, "--output", poses, *cache)
    run("encode", scene, *(word for model in models for word in ("--model", model)), *size, *cache)
    names = [find_model(model).spec().name for model in models]
    chosen = [word for name in names for word in ("--model", name)]
    render = run("render", scene, "--poses", poses, *chosen, "--views", str(options.views), *cache)

    def decoded(name: str, *words: str) -> Image.Image:
        made = run("decode", render, *words, "--no-video", "--output", str(folder / name), *cache)
        return middle(Path(made))

    tiles = [(decoded("color", "--task", "color"), "rendered where no photo was taken")]
    for model, name in zip(models, names, strict=True):
        task = find_model(model).spec().tasks[0]
        if not options.strokes:
            tiles.append((decoded(name, "--model", name, "--task", task), name))
            continue
        strokes = ("--strokes", str(options.strokes), "--view", options.view, "--refine")
        tiles.append((decoded(f"{name}-features", "--model", name, "--task", "features"), f"features of {name}"))
        tiles.append((painted(options), "strokes on a photo"))
        tiles.append((decoded(name, "--model", name, "--task", "segment", *strokes), "classes in the view"))
    return tiles


def middle(frames: Path) -> Image.Image:
    """Open the middle one of a folder's pictures, which may lie in folders as the photos do."""
    found: Sequence[Path] = sorted(frames.rglob("*.png"))
    return Image.open(found[len(found) // 2]).convert("RGB")


def painted(options: argparse.Namespace) -> Image.Image:
    """Show the strokes on their photo."""
    photo = next(view for view in load_scene(options.scene).views if Path(view.name).name == Path(options.view).name)
    strokes = np.array(Image.open(options.strokes).convert("RGB"))
    picture = np.array(Image.open(photo.image_path).convert("RGB").resize(strokes.shape[1::-1]))
    return Image.fromarray(np.where(strokes.any(2, keepdims=True), strokes, picture))


if __name__ == "__main__":
    main()
