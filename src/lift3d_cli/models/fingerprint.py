"""The identity of a loaded model, for cache keys: two models with one fingerprint make the same features."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch

from lift3d_cli.errors import ModelError
from lift3d_cli.models.base import Model
from lift3d_cli.models.registry import ModelRef


def fingerprint(model: Model, ref: ModelRef) -> dict[str, object]:
    """Return what the features of a photo depend on, as JSON values.

    Returns:
        name, version: those of the spec.
        weights: sha256 over names, dtypes, shapes and bytes of the parameters and buffers; "" if there are none.
        source: sha256 of the file, for a model given as `./file.py:Class`, because people edit such files without
            the version; "" for others.
        preprocessing: the result of the model's `preprocessing()`.

    Raises:
        ModelError: if the state is not all tensors, or the preprocessing has no JSON form.
    """
    preprocessing = model.preprocessing()
    try:
        # Also a copy, so that the caller's key cannot change with the model; tuples become lists, as when read back.
        preprocessing = json.loads(json.dumps(preprocessing, allow_nan=False))
    except (TypeError, ValueError) as e:
        raise ModelError(f"model {model.spec.name}: preprocessing() is not plain JSON values: {e}") from e
    return {
        "name": model.spec.name,
        "version": model.spec.version,
        "weights": _weights_sha256(model),
        "source": hashlib.sha256(ref.source.read_bytes()).hexdigest() if ref.source else "",
        "preprocessing": preprocessing,
    }


def is_made_by(recorded: Mapping[str, Any], model: Model, ref: ModelRef) -> bool:
    """Return True if a recorded fingerprint matches that of a model as it is now.

    Args:
        recorded: stored with the features; it may have further entries, such as settings of encode.
        model: loaded from `ref`.
        ref: reference of the model.
    """
    return fingerprint(model, ref).items() <= dict(recorded).items()


def _weights_sha256(model: Model) -> str:
    state = model.state_dict()
    if not state:
        return ""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        if not isinstance(tensor, torch.Tensor):
            raise ModelError(f"model {model.spec.name}: its state {name!r} is a {type(tensor).__name__}, not a tensor")
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        # reshape: a 0-dimensional tensor has no view as bytes.
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
