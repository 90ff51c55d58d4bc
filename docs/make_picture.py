"""Write the pictures of the documents: `make picture` runs it, after `make demo`.

`docs/images/strip.jpg` from the demo's results, and `docs/images/models.jpg` from the embedded models on the example.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from lift3d_cli import RenderedView, load_scene
from lift3d_cli.cache.renders import Render
from lift3d_cli.cache.session import recall
from lift3d_cli.models.registry import find_model

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "demo"
SCENE = ROOT / "examples" / "tabletop"
IMAGES = ROOT / "docs" / "images"
FRAME = 7
HELD_OUT = 1
MODELS = ("tiny-colorizer", "tiny-superres", "style")
TILE = (320, 240)
GAP, LABEL = 8, 30


def main() -> None:
    """Write both pictures and name them."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    save([strip()], IMAGES / "strip.jpg")
    save([models_row(name) for name in MODELS], IMAGES / "models.jpg")


def strip() -> list[tuple[Image.Image, str]]:
    """Show three source photos of a frame, its rendered colour, and the decoded result."""
    session = recall(DEMO)
    if session is None:
        raise SystemExit(f"error: nothing is rendered in {DEMO}. hint: make demo")
    render = Render.open(session.require_render())
    views = load_scene(session.require_scene()).views
    sources = render.read_maps(FRAME).sources[:3]
    tiles = [(Image.open(views[i].image_path), "a photo") for i in sorted(sources)]
    tiles.append((Image.open(render.color_path(FRAME)), "rendered from a new viewpoint"))
    decoded = DEMO / "colorize" / f"{render.names[FRAME]}.png"
    return [*tiles, (Image.open(decoded), "its features, decoded by the colorizer")]


def models_row(name: str) -> list[tuple[Image.Image, str]]:
    """Show a left-out photo, the 2D model on it, and the result lifted from the other photos."""
    out = DEMO / "models"
    held_out, poses = SCENE / "held_out", out / "path.json"
    cache = ("--cache", str(out / "cache"))
    out.mkdir(parents=True, exist_ok=True)
    run("path", str(held_out), "views", "--max-size", str(TILE[0]), "--output", str(poses), *cache)
    run("encode", str(SCENE), "--model", name, "--max-size", str(TILE[0]), *cache)
    rendered = run("render", str(SCENE), "--poses", str(poses), "--model", name, "--views", "5", *cache)
    run("decode", rendered, "--model", name, "--output", str(out), "--no-video")
    model = find_model(name).load()
    task = model.spec.tasks[0]
    photo = Image.open(load_scene(held_out).views[HELD_OUT].image_path).convert("RGB").resize(TILE)
    image = torch.from_numpy(np.array(photo)).permute(2, 0, 1) / 255
    with torch.inference_mode():
        alone = model.decode(model.checked_encode(image), RenderedView(image, torch.ones_like(image[0])), task)
    alone = Image.fromarray((alone.permute(1, 2, 0) * 255).round().byte().numpy())
    lifted = Image.open(sorted((out / task).rglob("*.png"))[HELD_OUT])
    tiles = [(photo, "a photo that was left out"), (alone, f"{name} on it"), (lifted, "lifted from the others")]
    if task == "superres":  # whose pixels would not be seen
        tiles = [(center(picture), label) for picture, label in tiles]
    return tiles


def center(picture: Image.Image) -> Image.Image:
    """Cut out the central quarter of the width and height."""
    width, height = picture.size
    return picture.crop((width * 3 // 8, height * 3 // 8, width * 5 // 8, height * 5 // 8))


def run(*words: str) -> str:
    """Run a command of lift3d, and return the last line that it prints."""
    command = [sys.executable, "-m", "lift3d_cli", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]


def save(rows: list[list[tuple[Image.Image, str]]], path: Path, tile: tuple[int, int] = TILE) -> None:
    """Lay pictures out in rows, each in the size of a tile and with a caption below, and name the file."""
    width, height = tile
    sheet = Image.new("RGB", ((width + GAP) * len(rows[0]) - GAP, (height + LABEL) * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(16)
    for i, row in enumerate(rows):
        for j, (picture, label) in enumerate(row):
            left, top = j * (width + GAP), i * (height + LABEL)
            sheet.paste(picture.convert("RGB").resize(tile, Image.Resampling.LANCZOS), (left, top))
            draw.text((left + width / 2, top + height + LABEL / 2), label, fill="black", font=font, anchor="mm")
    sheet.save(path, quality=88)
    print(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)  # noqa: T201


if __name__ == "__main__":
    main()
