"""The command line that the trainings of our own small 2D models share: `python -m lift3d_cli.training.NAME`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lift3d_cli.config import TrainConfig
from lift3d_cli.training import loop


def say(facts: Mapping[str, object]) -> None:
    """Print a JSON line to stdout."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def learn(config: TrainConfig, task: loop.TrainingTask) -> dict[str, float]:
    """Train to the last step, and print each row of the learning curves as a JSON line; return the last scores.

    Raises:
        ModelError: if the run's checkpoint belongs to another training.
    """
    row: dict[str, float] = {}
    for row in loop.train(config, task):
        say({name: round(value, 4) for name, value in row.items()})
    return loop.scores_of(row)


def command_of(config: TrainConfig, folders: str = "") -> str:
    """Return the command line of a training, with placeholders for local paths; `folders` are further arguments."""
    words = [f"python -m lift3d_cli.training.{config.part} --photos PHOTOS", *filter(None, [folders])]
    return " ".join([*words, settings_of(config)])


def settings_of(config: TrainConfig) -> str:
    """Return the part of a training's command line that its result depends on."""
    return f"--steps {config.steps} --learning-rate {config.learning_rate:g} --seed {config.seed}"


def parse(name: str, about: str, defaults: Mapping[str, object], **folders: str) -> tuple[TrainConfig, dict[str, Any]]:
    """Read the command line of `python -m lift3d_cli.training.NAME`.

    Args:
        name: name of the module, and of the run's folder.
        about: text for `--help`.
        defaults: defaults of output, steps, learning_rate and evaluate_every.
        folders: further required arguments, with their help.

    Returns:
        The settings, and by name `photos`, `dataset` and the further folders.
    """
    parser = argparse.ArgumentParser(prog=f"python -m lift3d_cli.training.{name}", description=about)
    for folder, what in {"photos": "folder of photos", **folders}.items():
        parser.add_argument(f"--{folder}", type=Path, required=True, help=what)
    parser.add_argument("--dataset", default="BSDS500, train and test; held out: val", help="for the manifest")
    for field, value in {**defaults, "run": Path("runs", name), "seed": 0}.items():
        parser.add_argument("--" + field.replace("_", "-"), type=type(value), default=value)
    parser.add_argument("--resume", action="store_true")
    settings = vars(parser.parse_args())
    data = {key: settings.pop(key) for key in ("photos", "dataset", *folders)}
    torch.set_num_threads(1)  # the pictures are too small to share among threads
    return TrainConfig(name, **settings), data
