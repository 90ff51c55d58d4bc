"""What exact depth of the photos is worth: `python benchmarks/known_depth.py --scenes 10`.

Scenes as the embedded example, each with other textures and details, are made with the depth of every photo as PNG
files. Every 8th photo is left out, and rendered from the others with these files and without them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import torch

from lift3d_cli import load_scene
from lift3d_cli.config import RenderConfig
from lift3d_cli.pipeline.held_out import HeldOutPhotos
from lift3d_cli.pipeline.renderers import make_renderer
from lift3d_cli.procedural.__main__ import main as make_scene
from lift3d_cli.training.command import say


def measure(folder: Path, height: int) -> float:
    """Return the mean PSNR in dB of a scene's left-out photos."""
    photos = HeldOutPhotos(load_scene(folder), height)
    return photos.mean_psnr(make_renderer(RenderConfig()), torch.device("cpu"), photos.held_out)


def without_depth(folder: Path) -> None:
    """Take the depth out of a scene's `transforms.json`, and its files, which would be found by their names."""
    path = folder / "transforms.json"
    data = json.loads(path.read_text())
    for frame in data["frames"]:
        del frame["depth_file_path"]
    path.write_text(json.dumps(data))
    shutil.rmtree(folder / "depth")


def main() -> None:
    """Make the scenes, measure them and print a JSON line for each, and one of the means."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scenes", type=int, default=10)
    parser.add_argument("--height", type=int, default=160, help="of the photos, which are drawn in twice that size")
    args = parser.parse_args()
    rows = []
    for seed in range(1, args.scenes + 1):
        with tempfile.TemporaryDirectory() as name:
            size = ["--width", str(args.height * 8 // 3), "--height", str(args.height * 2)]
            with contextlib.redirect_stdout(sys.stderr):
                make_scene(["--output", name, "--seed", str(seed), "--held-out", "0", "--draft", "--depth", *size])
            known = measure(Path(name), args.height)
            without_depth(Path(name))
            rows.append({"seed": seed, "without": round(measure(Path(name), args.height), 2), "with": round(known, 2)})
        say(rows[-1])
    means = {key: round(statistics.fmean(row[key] for row in rows), 2) for key in ("without", "with")}
    say({"mean": means, "gain": round(means["with"] - means["without"], 2)})


if __name__ == "__main__":
    main()
