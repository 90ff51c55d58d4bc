"""DDColor, as its authors save it."""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.models.builtin.ddcolor_net import DDColorNet, Sizes

DDCOLOR = Sizes(depths=(1, 1, 2, 1), widths=(8, 16, 24, 32), width=32, queries=6, layers=4, inner=24)


def save_ddcolor(folder: Path) -> str:
    """DDColor, as its authors save it: under a key, with the vectors of spectral normalisation."""
    state = {key: filled(key, tensor) for key, tensor in DDColorNet(DDCOLOR).state_dict().items()}
    state["decoder.color_decoder.color_embed.layers.2.weight"] *= 500  # strong colours, so that errors show
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"params": with_singular_vectors(state)}, folder / "small.pth")
    return str(folder / "small.pth")


def filled(key: str, tensor: Tensor) -> Tensor:
    """Numbers that depend on the tensor's name only, as those of the official network in the parity files were made."""
    if key in ("mean", "std"):
        return tensor
    if not tensor.is_floating_point():
        return torch.zeros_like(tensor, device="cpu")
    n = tensor.numel()
    x = np.arange(n, dtype=np.uint32) * np.uint32(2654435761)  # modulo 2**32, as meant
    x += np.uint32(zlib.crc32(key.encode()) % 10007 * 40503 % 2**32)
    x = (x ^ (x >> 16)) * np.uint32(2246822519)
    x ^= x >> 13
    v = x / 2.0**31 - 1
    if key.endswith("running_var"):
        v = 1 + 0.1 * v
    elif key.endswith(("bias", "running_mean")):
        v = 0.05 * v
    elif tensor.dim() == 1:
        v = 1 + 0.1 * v
    else:
        v = v * math.sqrt(3 / (n / tensor.shape[0]))
    return torch.from_numpy(v).float().reshape(tensor.shape)


def with_singular_vectors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add to each `weight_orig` of spectral normalisation its `weight_u` and `weight_v`."""
    for key in [key for key in state if key.endswith("weight_orig")]:
        weight = state[key].flatten(1).double()
        v = F.normalize(weight.sum(0), dim=0)
        state[key.replace("orig", "v")] = v.float()
        state[key.replace("orig", "u")] = F.normalize(weight @ v, dim=0).float()
    return state
