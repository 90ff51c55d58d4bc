"""Crops per second of the renderer's training: `python benchmarks/training.py SCENE...`.

Continues training for some steps from the shipped weights, all on real photos, and prints the median time of a step and
the crops per second; on a GPU, crops of 160 x 128 pixels in a batch, on a CPU smaller ones, one on each core.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import measuring
import torch

from lift3d_cli.config import TrainConfig
from lift3d_cli.machine.device import resolve_device
from lift3d_cli.pipeline.renderers import load_network
from lift3d_cli.training.loop import TrainingRun, keep_freed_memory
from lift3d_cli.training.renderer import RendererTask


def measure(config: TrainConfig, steps: int) -> dict[str, float]:
    """Time steps, after as many to warm up: crops per second, median milliseconds per step, peak memory."""
    keep_freed_memory()
    device = resolve_device(config.device)
    task = RendererTask(config, load_network("")[0], device)
    run, times, crops = TrainingRun(config, task), [], 0
    for step in range(2 * steps):
        start = measuring.clock(device)
        run.advance()
        if step >= steps:
            times.append(measuring.clock(device) - start)
            crops += task.num_crops
    task.close()
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    return {
        "crops_per_s": round(crops / sum(times), 2),
        "ms_per_step": round(1000 * statistics.median(times), 1),
        "crops_per_step": round(crops / steps, 2),
        "peak_gib": round(peak, 2),
    }


def main() -> None:
    """Measure and print."""
    parser = measuring.parser(__doc__, rounds=20)
    parser.add_argument("scenes", type=Path, nargs="+", help="to learn from")
    parser.add_argument("--batch", type=int, default=2, help="crops a step")
    parser.add_argument("--height", type=int, default=240, help="of the photos, in pixels")
    parser.add_argument("--compile", action="store_true", help="fuse Stage II's operations")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            scenes=tuple(options.scenes),
            run=Path(folder),
            batch=options.batch,
            height=options.height,
            procedural=0,
            device=options.device,
            compile=options.compile,
        )
        result = measure(config, options.rounds)
    rows = [[name.replace("_", " "), f"{value:g}"] for name, value in result.items()]
    measuring.report(options, result, measuring.table(["", "median"], rows))


if __name__ == "__main__":
    measuring.run(main)
