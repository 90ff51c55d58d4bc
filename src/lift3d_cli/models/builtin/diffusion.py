"""What models that sample by diffusion share: settings that are numbers, and noise that all photos share."""

from __future__ import annotations

import torch
from torch import Tensor

from lift3d_cli.errors import ModelError

# Side, in cells, of a field of noise. Beyond, it repeats.
NOISE_CELLS = 512


def number(model: str, setting: str, text: str, kind: type, low: float, high: float) -> float:
    """Convert the text of a model's setting to a number.

    Raises:
        ModelError: if it is not one, or not in [low, high].
    """
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        what = "a whole number" if kind is int else "a number"
        raise ModelError(f"model {model}: {setting} is {text!r}, needs {what} from {low} to {high}")
    return value


def noise_field(generator: torch.Generator, channels: int, width: int, height: int) -> Tensor:
    """Draw normal noise [1, channels, height, width]: a cell has the same noise whatever the size.

    On the CPU, so that it is the same on all devices; the generator moves on by as much for all sizes.
    """
    field = torch.randn(1, channels, NOISE_CELLS, NOISE_CELLS, generator=generator)
    v, u = torch.arange(height) % NOISE_CELLS, torch.arange(width) % NOISE_CELLS
    return field[:, :, v[:, None], u]
