"""Write trained weights and their entry in `manifest.json`, which `lift3d_cli.weights` reads."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import safetensors.torch
from torch import Tensor, nn

from lift3d_cli.config import TrainConfig
from lift3d_cli.machine.atomic import write_atomic
from lift3d_cli.machine.provenance import commit
from lift3d_cli.training.command import say
from lift3d_cli.weights import MANIFEST, read_manifest

Scores = Mapping[str, float]
LICENSE = "Apache-2.0"
"""Licence of all weights that are trained here."""


def shipped(network: nn.Module) -> dict[str, Tensor]:
    """Return a network's tensors by name as they ship: contiguous, on the CPU, in half precision."""
    # BatchNorm's step counters, the only integers, are used in training only.
    floats = {name: tensor for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
    return {name: tensor.detach().cpu().half().contiguous() for name, tensor in floats.items()}


def publish_if_better(
    network: nn.Module,
    config: TrainConfig,
    measure: Callable[[Path], Scores],
    is_better: Callable[[Scores, Scores], bool],
    *,
    command: str,
    data: str,
) -> None:
    """Publish trained weights if they score better than the existing ones; print a JSON line about it.

    Args:
        network: the trained network.
        config: its settings, with an output, where weights may exist.
        measure: computes the scores of a weights file.
        is_better: compares the new scores with those of the existing weights, {} without any.
        command: see `publish_weights`.
        data: see `publish_weights`.
    """
    tensors, file = shipped(network), config.run / "weights.safetensors"
    write_atomic(file, safetensors.torch.save(tensors))  # scored as shipped
    new = {name: round(value, 3) for name, value in measure(file).items()}
    there = measure(config.output) if config.output.exists() else {}
    published = is_better(new, there)
    say({"new": new, "there": there, "published": published})
    if published:
        publish_weights(tensors, config.output, command=command, data=data, scores=new)


def publish_weights(
    tensors: dict[str, Tensor],
    path: Path,
    *,
    command: str,
    data: str,
    scores: Scores,
    license: str = LICENSE,
) -> None:
    """Write weights to a file, and their entry to the manifest in the same folder.

    Args:
        tensors: name -> tensor, contiguous, in the dtype to be shipped.
        path: the `.safetensors` file to write.
        command: the command line that trained them, with placeholders for local paths.
        data: the training data, and what was held out.
        scores: scores on the held-out data, by telling names.
        license: SPDX identifier.
    """
    content = safetensors.torch.save(tensors)
    manifest = read_manifest(path.parent)
    manifest[path.name] = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "license": license,
        "command": command,
        "data": data,
        "scores": dict(scores),
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }
    write_atomic(path, content)
    write_atomic(path.parent / MANIFEST, (json.dumps(dict(sorted(manifest.items())), indent=2) + "\n").encode())
