"""train: train the renderer's networks, and write weights that `--weights` takes."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lift3d_cli.config import TrainConfig
from lift3d_cli.errors import ResourceError, SceneError
from lift3d_cli.lifting.network import Lift3DNetwork
from lift3d_cli.machine.device import resolve_device
from lift3d_cli.machine.progress import Progress, no_progress
from lift3d_cli.pipeline.renderers import SHIPPED_WEIGHTS, load_network
from lift3d_cli.training import loop
from lift3d_cli.training.command import settings_of
from lift3d_cli.training.corrector import CorrectorTask, PredictionTask
from lift3d_cli.training.propagation import PropagationTask
from lift3d_cli.training.publish import publish_weights, shipped
from lift3d_cli.training.renderer import RendererTask
from lift3d_cli.weights import find_other_weights, find_weights, read_manifest


def train(config: TrainConfig, report: Callable[[Mapping[str, float]], None], progress: Progress = no_progress) -> Path:
    """Train, and write the weights with an entry in the manifest beside them; return the weights' file.

    Args:
        config: settings.
        report: called with each row of the learning curves.
        progress: see `Progress`.

    Raises:
        SceneError, ModelError, ResourceError: in one line.
    """
    if (config.run / loop.CHECKPOINT).exists() and not config.resume:
        raise ResourceError(f"{config.run}: has a training already. hint: --resume, or another --run")
    if not config.scenes and (config.part == "corrector" or config.textures is None):
        raise SceneError("nothing to learn from. hint: name scenes, or --textures PHOTOS for procedural ones")
    torch.manual_seed(config.seed)
    network = Lift3DNetwork() if config.weights == "none" else load_network(config.weights)[0]
    task = _task(config, network, progress)
    row: Mapping[str, float] = {}
    try:
        for row in loop.train(config, task, progress):
            report(row)
    finally:
        task.close()
    output = config.output or config.run / "weights.safetensors"
    # Networks are trained part by part, so the manifest entry of the initial weights still applies to the other parts.
    before = _facts_of_start(config) if config.part in ("renderer", "propagation", "corrector") else {}
    publish_weights(
        _shipped(config.part, task.network),
        output,
        command=" && ".join([*filter(None, [before.get("command")]), train_command(config)]),
        data=_data_of(config, before.get("data", "")),
        scores=before.get("scores", {}) | loop.scores_of(row),
    )
    return output


def _facts_of_start(config: TrainConfig) -> Mapping[str, Any]:
    """Return the manifest entry of the initial weights; empty where there is none."""
    if config.weights == "none":
        return {}
    path = find_other_weights(config.weights, SHIPPED_WEIGHTS) if config.weights else find_weights(SHIPPED_WEIGHTS)
    return read_manifest(path.parent).get(path.name, {})


def _task(config: TrainConfig, network: Lift3DNetwork, progress: Progress) -> loop.TrainingTask:
    device = resolve_device(config.device)
    if config.part == "corrector":
        return CorrectorTask(config, network, device, progress)
    if config.part == "propagation":
        return PropagationTask(config, network, device)
    if config.part == "feature-prediction":
        return PredictionTask(config, network, device, progress)
    return RendererTask(config, network, device, single_stage=config.part == "single-stage")


def _shipped(part: str, network: Lift3DNetwork) -> dict[str, Tensor]:
    """Return the tensors of a part's weights file."""
    prefix = "blending." if part == "single-stage" else ""
    return {name: tensor for name, tensor in shipped(network).items() if name.startswith(prefix)}


def train_command(config: TrainConfig) -> str:
    """Return the command line `lift3d train` of a training, with placeholders for local paths."""
    words = ["lift3d", "train", config.part, "SCENE..."]
    words += ["--held-out HELD_OUT"] * bool(config.held_out) + ["--textures PHOTOS"] * (config.textures is not None)
    words += [f"--model {shlex.quote(Path(name).name)}" for name in config.models]
    words += [f"--batch {config.batch}"] * (config.batch > 1)
    words.append(settings_of(config))
    if config.part in ("corrector", "feature-prediction"):
        words.append(f"--examples {config.examples}")
    return " ".join(words)


def _data_of(config: TrainConfig, before: str) -> str:
    """Describe the training data, as parts separated by semicolons; those of the initial weights come first."""
    parts = [part for part in before.split("; ") if part]
    if config.part in ("renderer", "propagation", "single-stage"):
        parts.append("procedural scenes with textures from photos" if config.textures else "procedural scenes")
    if config.scenes:
        parts.append(f"photos of {' '.join(sorted(folder.name for folder in config.scenes))}")
    if config.part in ("corrector", "feature-prediction"):
        parts.append(f"features of {' '.join(Path(name).name for name in config.models)}")
    return "; ".join(dict.fromkeys(parts))
