"""Shared by the benchmarks: options, the machine, times of contestants that take turns, peak memory, tables, plots.

It must be imported before torch, so that OpenMP's threads wait for each other as those of the `lift3d` command do.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

import lift3d_cli
from lift3d_cli.errors import Lift3dError
from lift3d_cli.geometry import trajectories
from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.scene.scene import Scene

SCENE = Path(__file__).resolve().parents[1] / "examples" / "tabletop"


def parser(doc: str, rounds: int, device: bool = True) -> argparse.ArgumentParser:
    """Make a parser with the options that every benchmark has; `doc` is its module's docstring."""
    options = argparse.ArgumentParser(description=doc.splitlines()[0])
    options.add_argument("--rounds", type=int, default=rounds, help=f"that count, after one that does not [{rounds}]")
    if device:
        options.add_argument("--device", default="cpu", help="cpu or cuda [cpu]")
    options.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    options.add_argument("--plot", type=Path, help="also draw a plot: a file that ends in .svg or .png")
    return options


def machine(device: torch.device | str = "cpu") -> str:
    """Describe the machine in a line: versions, processor, threads, and the GPU if that is the device."""
    parts = [f"lift3d {lift3d_cli.__version__}", f"torch {torch.__version__}", f"Python {platform.python_version()}"]
    parts += [f"{_processor()} ({platform.machine()})", f"{torch.get_num_threads()} threads"]
    if torch.device(device).type == "cuda":
        parts.append(torch.cuda.get_device_name(device))
    return ", ".join(parts)


def _processor() -> str:
    """Return the processor's model, from Linux if possible."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, [*models, platform.processor()]), "unknown processor")


def medians(
    contestants: Mapping[str, Callable[[], object]], rounds: int, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """Return each contestant's median seconds; they take turns, and the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds + 1):
        for name, run in contestants.items():
            start = clock(device)
            run()
            times[name].append(clock(device) - start)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def clock(device: torch.device | str = "cpu") -> float:
    """Return the time in seconds, once the device has finished its work."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def forget_peak(device: str) -> int:
    """Start to measure the peak; return the bytes in use now."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5")
    return _resident("VmRSS")


def peak(device: str) -> int:
    """Return the most bytes in use since `forget_peak`: torch's tensors on a GPU, else the process's, by Linux."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _resident("VmHWM")


def _resident(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(what)).split()[1])


def novel_pose(scene: Scene, height: int) -> Camera:
    """Make a camera between two photos, with frames of this height in pixels."""
    photo = scene.views[0].camera
    width = round(photo.width * height / photo.height)
    poses = trajectories.interpolate(scene.cameras, 3 * len(scene.views), width, height)
    return poses[len(poses) // 2]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table; all columns but the first are aligned to the right."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def milliseconds(seconds: float) -> str:
    """Format with three significant digits and no exponent: `0.0123`, `4.56`, `12,345`."""
    value = seconds * 1e3
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 2
    return f"{value:,.{max(digits, 0)}f}"


def report(options: argparse.Namespace, result: Mapping[str, Any], markdown: str) -> None:
    """Print a result with the machine, as Markdown or as JSON."""
    where = machine(getattr(options, "device", "cpu"))
    if options.json:
        print(json.dumps({"machine": where, "rounds": options.rounds, **result}, indent=2))  # noqa: T201
    else:
        print(f"{where}; medians of {options.rounds}\n\n{markdown}")  # noqa: T201


def run(main: Callable[[], None]) -> None:
    """Run a benchmark; errors of a scene, a model or a device become one line."""
    try:
        main()
    except Lift3dError as e:
        sys.exit(f"error: {e}")


@contextmanager
def plot(file: Path, **settings: Any) -> Iterator[Any]:
    """Yield axes with `settings` such as xlabel, and save them as SVG or PNG at the end."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        sys.exit("--plot: needs matplotlib. hint: pip install matplotlib")
    if file.suffix not in (".svg", ".png"):
        sys.exit(f"--plot {file}: must end in .svg or .png")
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.set(**settings)
    yield axes
    # Without the date and random names, an SVG of the same numbers is the same file.
    with rc_context({"svg.hashsalt": file.name, "svg.fonttype": "none"}):
        figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix == ".svg" else None)
