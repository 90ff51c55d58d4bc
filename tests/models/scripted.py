"""Scripted networks: saving, loading, and the one line that refuses one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from lift3d_cli import Model
from lift3d_cli.errors import ModelError
from lift3d_cli.models.registry import find_model

# torch says that TorchScript will go some day.
IGNORE_DEPRECATION = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


def save(network: nn.Module, path: Path) -> Path:
    torch.jit.script(network).save(path)
    return path


def load(*paths: Path, query: str = "") -> Model:
    return find_model(f"torchscript:{','.join(map(str, paths))}{query}").load()


def error_of(make: Callable[[], object]) -> str:
    with pytest.raises(ModelError) as error, torch.inference_mode():
        make()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600
    return str(error.value)
