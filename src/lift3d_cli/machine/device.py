"""The device to compute on, its precision, and how much memory to use."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

import torch

from lift3d_cli.errors import ResourceError

PRECISIONS = ("auto", "bf16", "fp32")
_LEAST_BYTES = 64 * 2**20
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def resolve_device(name: str) -> torch.device:
    """Return the device of `auto` (CUDA if there is any), `cpu`, `cuda` or `cuda:N`.

    Raises:
        ResourceError: if the device does not exist.
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


def resolve_precision(name: str, device: torch.device) -> str:
    """Return `bf16` or `fp32`; `auto` is bf16 where the processor computes in it, not through float32.

    Raises:
        ResourceError: if the name is none of the three.
    """
    if name not in PRECISIONS:
        raise ResourceError(f"--precision {name}: not one of {', '.join(PRECISIONS)}")
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    # Older versions of torch cannot tell.
    able = getattr(torch.cpu, "get_capabilities", dict)()
    return "bf16" if able.get("avx512_bf16") or able.get("amx_bf16") else "fp32"


def resolve_memory(text: str, device: torch.device) -> int:
    """Return the bytes of a size; `auto` is half of what is free on the device.

    Raises:
        ResourceError: if the text is not a size, or less than 64 MiB.
    """
    return max(_LEAST_BYTES, free_bytes(device) // 2) if text == "auto" else parse_bytes(text)


def free_bytes(device: torch.device) -> int:
    """Return the memory that is free on the device, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = []
    with suppress(OSError, StopIteration):  # Linux
        lines = Path("/proc/meminfo").read_text().splitlines()
        found.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    with suppress(OSError, ValueError):  # the limit of a container, "max" for none
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    with suppress(OSError, ValueError, AttributeError):  # the total, on other systems; Windows has no sysconf
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(found, default=8 * 2**30)


def parse_bytes(text: str, option: str = "--memory") -> int:
    """Parse `512MiB`, `2GiB`, `2G` or a number of bytes; `option` names it in errors.

    Raises:
        ResourceError: if the text is none of these, or, as `--memory`, less than 64 MiB.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    if match is None:
        raise ResourceError(f"{option} {text}: not a size. hint: 2GiB or 512MiB")
    size = int(float(match[1]) * _UNITS[match[2]])
    if option == "--memory" and size < _LEAST_BYTES:
        raise ResourceError(f"--memory {text}: too little to render with. hint: 64MiB or more")
    return size
