"""Time the photos' own surfaces, which `encode` finds once: `python benchmarks/surfaces.py SCENE...`."""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import measuring
import torch

from lift3d_cli.config import RenderConfig
from lift3d_cli.machine.device import resolve_device
from lift3d_cli.pipeline.renderers import make_renderer
from lift3d_cli.pipeline.surfaces import PhotoSurfaces
from lift3d_cli.pipeline.workspace import Workspace
from lift3d_cli.scene.load import load_scene


def row_of(folder: Path, options: argparse.Namespace) -> dict:
    """Measure seconds a photo, of photos evenly among the scene's, one after the other; nothing is kept."""
    workspace = Workspace(load_scene(folder), None, keep=32)
    device, num = resolve_device(options.device), workspace.num_photos
    finder = make_renderer(RenderConfig(), device).surface_finder
    surfaces = PhotoSurfaces(workspace, workspace.points(), finder, device, range(num))
    indices = sorted({round(i * (num - 1) / options.rounds) for i in range(options.rounds + 1)})
    wall, cpu = [], []
    for index in indices:
        surfaces.sources(index)  # photos are read before
        start, used = measuring.clock(device), time.process_time()
        surfaces.get(index)
        wall.append(measuring.clock(device) - start)
        cpu.append(time.process_time() - used)
    sources, near_far = surfaces.sources(indices[0])
    size = sources.cameras[0].width, sources.cameras[0].height
    planes = finder.proposal.planes(sources.cameras[0], sources.cameras, near_far)
    later = slice(1 if len(indices) > 1 else 0, None)
    seconds, of_one_core = statistics.median(wall[later]), statistics.median(cpu[later])
    return {"scene": folder.name, "size": size, "planes": planes, "seconds": seconds, "of_one_core": of_one_core}


def main() -> None:
    """Measure and print the table."""
    options = measuring.parser(__doc__, rounds=4)
    options.add_argument("scenes", nargs="*", type=Path, default=[measuring.SCENE], help="folders [the example]")
    options = options.parse_args()
    rows = [row_of(folder, options) for folder in options.scenes]
    head = ["scene", "found at", "planes", "s a photo", "s of one core"]
    lines = [
        [
            f"`{r['scene']}`",
            "x".join(map(str, r["size"])),
            str(r["planes"]),
            f"{r['seconds']:.2f}",
            f"{r['of_one_core']:.2f}",
        ]
        for r in rows
    ]
    measuring.report(options, {"rows": rows, "threads": torch.get_num_threads()}, measuring.table(head, lines))


if __name__ == "__main__":
    measuring.run(main)
