"""In which precision a network computes. Not all of a frame: half precision would move the epipolar lines by pixels."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor, nn


class MixedPrecision(nn.Module):
    """A network that computes in bfloat16 where it is told to, between inputs and results in float32.

    Its `forward` is one by `in_precision`.

    Attributes:
        precision: "fp32" or "bf16"; no part of its weights.
    """

    precision = "fp32"


def in_precision(forward: Callable[..., Tensor | tuple[Tensor, ...]]) -> Callable[..., Tensor | tuple[Tensor, ...]]:
    """Let the `forward` of a `MixedPrecision` compute in its precision; what is around it keeps its own."""

    @wraps(forward)
    def in_its_precision(module: MixedPrecision, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        if module.precision == "fp32":
            return forward(module, *inputs)
        # Without autocast's cache, which threads that train side by side would share.
        with torch.autocast(inputs[0].device.type, torch.bfloat16, cache_enabled=False):
            out = forward(module, *inputs)
        return tuple(x.float() for x in out) if isinstance(out, tuple) else out.float()

    return in_its_precision
