"""Write the README's picture, `docs/images/strip.jpg`, from the results of `make demo`: `make picture` runs both."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from lift3d_cli import load_scene
from lift3d_cli.cache.renders import Render
from lift3d_cli.cache.session import recall

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "demo"
FRAME = 7
TILE = (320, 240)
GAP, LABEL = 8, 30


def main() -> None:
    """Three of the photos that the frame was made from, its rendered colour, and what the decoder makes of it."""
    session = recall(DEMO)
    if session is None:
        raise SystemExit(f"error: nothing is rendered in {DEMO}. hint: make demo")
    render = Render.open(session.require_render())
    views = load_scene(session.require_scene()).views
    sources = render.read_frame(FRAME)[2]["sources"].tolist()[:3]
    tiles = [(views[i].image_path, "a photo") for i in sorted(sources)]
    tiles.append((render.color_path(FRAME), "rendered from a new viewpoint"))
    tiles.append((DEMO / "colorize" / f"{render.facts['names'][FRAME]}.png", "its features, decoded by the colorizer"))
    width, height = TILE
    strip = Image.new("RGB", ((width + GAP) * len(tiles) - GAP, height + LABEL), "white")
    draw = ImageDraw.Draw(strip)
    font = ImageFont.load_default(16)
    for number, (path, label) in enumerate(tiles):
        left = number * (width + GAP)
        with Image.open(path) as image:
            strip.paste(image.convert("RGB").resize(TILE, Image.Resampling.LANCZOS), (left, 0))
        draw.text((left + width / 2, height + LABEL / 2), label, fill="black", font=font, anchor="mm")
    output = ROOT / "docs" / "images" / "strip.jpg"
    output.parent.mkdir(parents=True, exist_ok=True)
    strip.save(output, quality=88)
    print(output.relative_to(ROOT))  # noqa: T201


if __name__ == "__main__":
    main()
