"""The precision that a network computes in. Not a whole frame's: half precision would move epipolar lines by pixels."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor, nn


class MixedPrecision(nn.Module):
    """A network that can compute in bfloat16, with inputs and results in float32.

    Its `forward` is decorated with `in_precision`.

    Attributes:
        precision: "fp32" or "bf16"; not part of the state dict.
    """

    precision = "fp32"


def in_precision(forward: Callable[..., Tensor | tuple[Tensor, ...]]) -> Callable[..., Tensor | tuple[Tensor, ...]]:
    """Make the `forward` of a `MixedPrecision` compute in the module's precision, and leave the caller's alone."""

    @wraps(forward)
    def in_its_precision(module: MixedPrecision, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        if module.precision == "fp32":
            return forward(module, *inputs)
        # Without autocast's cache, which threads that train side by side would share.
        with torch.autocast(inputs[0].device.type, torch.bfloat16, cache_enabled=False):
            out = forward(module, *inputs)
        return tuple(x.float() for x in out) if isinstance(out, tuple) else out.float()

    return in_its_precision
