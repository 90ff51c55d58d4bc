"""Check all files of a cache or a render, as far as they can be checked by themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from lift3d_cli.cache.format import parse_document
from lift3d_cli.cache.frames import MANIFEST, FrameFolder
from lift3d_cli.errors import CacheError
from lift3d_cli.machine.png import read_png
from lift3d_cli.machine.progress import Progress, no_progress


def verify(root: Path, progress: Progress = no_progress) -> list[tuple[Path, str]]:
    """Read every file of a scene's cache whole; return those that are damaged, with the reason.

    Args:
        root: the cache.
        progress: see `Progress`.
    """
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.suffix in _CHECKS)
    found = []
    for path in progress(files, "verify", len(files)):
        try:
            _CHECKS[path.suffix](path)
        except (CacheError, SafetensorError, OSError, ValueError) as error:
            reason = str(error).removeprefix(f"{path}: ").split(" hint:")[0]
            found.append((path, " ".join(reason.split()) or type(error).__name__))
    return found


def _check_tensors(path: Path) -> None:
    with safe_open(path, "np") as file:
        for name in file.keys():  # noqa: SIM118, it is no mapping
            if file.get_slice(name).get_dtype() == "BF16":  # numpy has no bfloat16; the header is checked
                continue
            values = file.get_tensor(name)
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise ValueError(f"{name} has NaN or infinite values")


def _check_document(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.name == MANIFEST:
        FrameFolder.open(path.parent)
    elif path.name == "encoder.json":
        parse_document(text, "encoder")
    else:
        json.loads(text)


_CHECKS: dict[str, Callable[[Path], object]] = {
    ".safetensors": _check_tensors,
    ".json": _check_document,
    ".png": read_png,
}
