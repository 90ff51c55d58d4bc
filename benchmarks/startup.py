"""Start-up time of `lift3d`: `python benchmarks/startup.py`, each time in a new process.

The fixed cost of a render is that of `lift3d render` with all frames present: it imports, loads the renderer's and
the 2D model's weights, identifies the photos, chooses the sources of every pose, and opens the cache and the render.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import measuring

COMMAND = [sys.executable, "-m", "lift3d_cli"]
STARTS = {
    "python, nothing else": [sys.executable, "-c", ""],
    "lift3d --version": [*COMMAND, "--version"],
    "lift3d --help": [*COMMAND, "--help"],
    "lift3d render --help": [*COMMAND, "render", "--help"],
    "import torch": [sys.executable, "-c", "import torch"],
    "all that a render imports": [sys.executable, "-c", "import lift3d_cli.cli.app, lift3d_cli.pipeline.render"],
}


def prepare(scene: Path, model: str, frames: int, folder: Path) -> list[str]:
    """Encode a scene and render a path of small frames, with a cache in `folder`; return the command that did it."""
    poses = folder / "path.json"
    render = [*COMMAND, "render", str(scene), "--poses", str(poses)]
    path = [*COMMAND, "path", str(scene), "orbit", "--frames", str(frames), "--max-size", "32", "-o", str(poses)]
    for command in ([*COMMAND, "encode", str(scene), "--model", model, "--max-size", "64"], path, render):
        run(command, folder)
    return render


def run(command: Sequence[str], folder: Path) -> None:
    """Run a command in a new process, with the cache in `folder`."""
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"LIFT3D_CACHE": str(folder)}, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stderr.strip())


def main() -> None:
    """Measure and print the table."""
    options = measuring.parser(__doc__, rounds=7, device=False)
    options.add_argument("--scene", type=Path, default=measuring.SCENE)
    options.add_argument("--frames", type=int, default=60, help="of the path that is rendered [60]")
    options.add_argument("--model", default="tiny-colorizer", help="2D model that is encoded [tiny-colorizer]")
    options = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        render = prepare(options.scene.resolve(), options.model, options.frames, folder)
        starts = {**STARTS, f"lift3d render of {options.frames} frames that are there": render}
        contestants: dict[str, Callable[[], None]] = {
            what: functools.partial(run, command, folder) for what, command in starts.items()
        }
        seconds = measuring.medians(contestants, options.rounds)
    if options.plot:
        with measuring.plot(options.plot, xlabel="seconds") as axes:
            axes.barh(list(seconds)[::-1], list(seconds.values())[::-1])
    rows = [[what, measuring.milliseconds(value)] for what, value in seconds.items()]
    measuring.report(options, {"seconds": seconds}, measuring.table(["start", "ms"], rows))


if __name__ == "__main__":
    measuring.run(main)
