"""Tiny weights of LPIPS by which every layer hands on the three channels of its input, so that values are known."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch

LINE = (0.5, 0.25, 1.0)
"""Weights of the three channels, the same in all five layers."""
_KERNELS = {
    "alex": {1: {0: 11}, 2: {3: 5}, 3: {6: 3}, 4: {8: 3}, 5: {10: 3}},
    "vgg": {1: (0, 2), 2: (5, 7), 3: (10, 12, 14), 4: (17, 19, 21), 5: (24, 26, 28)},
}


def save_lpips(path: Path, network: str, leave_out: str = "") -> str:
    """The state dict that the package `lpips` has of this network, without one tensor."""
    state = {f"lin{n}.model.1.weight": torch.tensor(LINE).reshape(1, 3, 1, 1) for n in range(5)}
    for number, convs in _KERNELS[network].items():
        for conv in convs:
            side = convs[conv] if isinstance(convs, dict) else 3
            weight = torch.zeros(3, 3, side, side)
            weight[range(3), range(3), side // 2, side // 2] = 1
            state |= {f"net.slice{number}.{conv}.weight": weight, f"net.slice{number}.{conv}.bias": torch.zeros(3)}
    safetensors.torch.save_file({name: x.clone() for name, x in state.items() if name != leave_out}, path)
    return str(path)


def zeroed_color(channel: int, value: float = 1.0) -> torch.Tensor:
    """[3] in [0, 1]: the colour that is `value` in this channel and 0 in the others as the network sees it."""
    seen = torch.zeros(3)
    seen[channel] = value
    return (1 + torch.tensor([-0.030, -0.088, -0.188]) + seen * torch.tensor([0.458, 0.448, 0.450])) / 2
