"""What rendering a window of each crop gains in training: `python benchmarks/training_window.py SCENE...`.

Two untrained networks learn from the same crops, taking turns step by step: Stage II renders the whole crop for one and
a window of it for the other. Prints both losses on the same crops, whole ones that neither learns from, as they go, and
how many times as many crops a second the window allows.
"""

from __future__ import annotations

import random
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import measuring
import torch

from lift3d_cli.config import TrainConfig
from lift3d_cli.lifting.network import Lift3DNetwork
from lift3d_cli.machine.device import resolve_device
from lift3d_cli.training.loop import TrainingRun, keep_freed_memory
from lift3d_cli.training.renderer import RendererTask, loss_of, render_crops
from lift3d_cli.training.renderer_data import CPU_CROP, Example

_JUDGED_CROPS, _JUDGEMENTS = 24, 5
# As few as a short training can do with.
_WARM_UP_STEPS = 5


@torch.no_grad()
def judge(task: RendererTask, judged: list[Example]) -> float:
    """Return the mean loss over the examples."""
    return statistics.fmean(float(loss_of(*render_crops(task.network, each), each)) for each in judged)


def measure(config: TrainConfig, steps: int) -> dict[str, object]:
    """Train both by turns; returns the losses at each judgement and the median times of a step, whole crops first."""
    keep_freed_memory()
    device = resolve_device(config.device)
    whole = tuple(2 * n for n in CPU_CROP.voxels)
    tasks, runs = [], []
    for name, size in (("whole", replace(CPU_CROP, window=whole)), ("window", CPU_CROP)):
        torch.manual_seed(0)
        tasks.append(RendererTask(config, Lift3DNetwork(), device, size=size))
        tasks[-1].warm_up_steps = _WARM_UP_STEPS
        runs.append(TrainingRun(replace(config, run=config.run / name), tasks[-1]))
    # Whole crops, drawn with another seed than the training's.
    judged = [tasks[0].example(random.Random(f"judged/{number}"), number) for number in range(_JUDGED_CROPS)]
    rows, times = [], ([], [])
    for step in range(steps + 1):
        if step % max(1, steps // _JUDGEMENTS) == 0:
            rows.append({"step": step, "whole": judge(tasks[0], judged), "window": judge(tasks[1], judged)})
        for run, spent in zip(runs, times, strict=True):
            start = measuring.clock(device)
            run.advance()
            spent.append(measuring.clock(device) - start)
    ratios = [a / b for a, b in zip(*times, strict=True)]
    return {"losses": rows, "seconds": [statistics.median(t) for t in times], "ratio": statistics.median(ratios)}


def main() -> None:
    """Measure and print."""
    parser = measuring.parser(__doc__, rounds=100)
    parser.add_argument("scenes", type=Path, nargs="+", help="to learn from")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            scenes=tuple(options.scenes),
            weights="none",
            run=Path(folder),
            steps=options.rounds,
            batch=2,
            height=240,
            procedural=0,
            device=options.device,
        )
        result = measure(config, options.rounds)
    rows = [[str(row["step"]), f"{row['whole']:.4f}", f"{row['window']:.4f}"] for row in result["losses"]]
    rows.append(["crops/s", "1", f"{result['ratio']:.2f}x"])
    measuring.report(options, result, measuring.table(["step", "whole crops", "windows"], rows))


if __name__ == "__main__":
    measuring.run(main)
