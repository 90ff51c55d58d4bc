"""Where to compute, and how much memory to use."""

from __future__ import annotations

import re

import torch

from lift3d_cli.errors import ResourceError

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def resolve_device(name: str) -> torch.device:
    """`auto` (CUDA if there is any), `cpu`, `cuda` or `cuda:N`.

    Raises:
        ResourceError: if there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as e:
        raise ResourceError(f"--device {name}: no such device. hint: auto, cpu, cuda or cuda:N") from e
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ResourceError(f"--device {name}: this torch sees {torch.cuda.device_count()} CUDA devices. hint: cpu")
    if device.type not in ("cpu", "cuda"):
        raise ResourceError(f"--device {name}: only cpu and cuda are supported")
    return device


def parse_bytes(text: str) -> int:
    """`512MiB`, `2GiB`, `2G` or a number of bytes.

    Raises:
        ResourceError: if it is none of these, or less than 64 MiB.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    if match is None:
        raise ResourceError(f"--memory {text}: not a size. hint: 2GiB or 512MiB")
    size = int(float(match[1]) * _UNITS[match[2]])
    if size < 64 * 2**20:
        raise ResourceError(f"--memory {text}: too little to render with. hint: 64MiB or more")
    return size
