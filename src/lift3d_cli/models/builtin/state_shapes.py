"""Build networks to the names and shapes in a checkpoint, so that no sizes are written down twice."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

State = Mapping[str, Tensor]


def within(state: State, prefix: str) -> State:
    """Return the part of a state below `prefix.`, without the prefix."""
    return {key[len(prefix) + 1 :]: value for key, value in state.items() if key.startswith(f"{prefix}.")}


def listed(state: State, prefix: str = "") -> list[State]:
    """Return the parts `prefix.0`, `prefix.1`, ... of a state."""
    state = within(state, prefix) if prefix else state
    parts: list[State] = []
    while part := within(state, str(len(parts))):
        parts.append(part)
    return parts


def conv_like(weight: Tensor, **settings: int) -> nn.Conv2d:
    """Make a convolution of the shape of its weight, padded to keep the size; `settings` of it instead."""
    outputs, inputs, kernel, _ = weight.shape
    return nn.Conv2d(inputs, outputs, kernel, **{"padding": kernel // 2, **settings})
