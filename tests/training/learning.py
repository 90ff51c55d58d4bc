"""A folder of photos to learn from, and whether a task learns."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from lift3d_cli.training import loop


def write_photos(folder: Path, picture: Callable[[int], np.ndarray], number: int) -> Path:
    """Write `number` photos to learn from and two held-out ones, of uint8 RGB pictures [H, W, 3] by their seeds."""
    for part, seeds in (("train", range(number)), ("val", (100, 101))):
        (folder / part).mkdir(parents=True)
        for i, seed in enumerate(seeds):
            cv2.imwrite(str(folder / part / f"{i}.png"), cv2.cvtColor(picture(seed), cv2.COLOR_RGB2BGR))
    return folder


def share_left(run: loop.TrainingRun, steps: int) -> float:
    """The loss after some steps as a share of that before, of the same crops: the steps' own differ too much."""

    def loss() -> float:
        return sum(float(run.task.loss(random.Random(seed), 0).detach()) for seed in range(4))

    before = loss()
    for _ in range(steps):
        run.advance()
    return loss() / before
