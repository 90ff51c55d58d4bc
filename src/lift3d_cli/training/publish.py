"""How a training command ends: the weights and their line in `manifest.json`, which `lift3d_cli.weights` reads."""

from __future__ import annotations

import datetime
import hashlib
import json
from pathlib import Path

import safetensors.torch
from torch import Tensor

from lift3d_cli.machine.atomic import write_atomic
from lift3d_cli.machine.provenance import commit
from lift3d_cli.weights import MANIFEST, read_manifest


def publish_weights(
    tensors: dict[str, Tensor],
    path: Path,
    *,
    license: str,
    command: str,
    data: str,
    scores: dict[str, float],
) -> None:
    """Write weights and what they are to the manifest of the same folder.

    Args:
        tensors: name -> tensor, contiguous, in the dtype to be shipped.
        path: the `.safetensors` file to write.
        license: SPDX identifier.
        command: what trained them, with stand-ins for local paths.
        data: what they were trained on, and what was held out.
        scores: on the held-out data; what each number is, its name says.
    """
    content = safetensors.torch.save(tensors)
    manifest = read_manifest(path.parent)
    manifest[path.name] = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "license": license,
        "command": command,
        "data": data,
        "scores": scores,
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }
    write_atomic(path, content)
    write_atomic(path.parent / MANIFEST, (json.dumps(dict(sorted(manifest.items())), indent=2) + "\n").encode())
