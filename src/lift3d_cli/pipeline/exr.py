"""OpenEXR files: named channels of half or single precision; colours in linear light, by the primaries of sRGB."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from lift3d_cli.errors import ResourceError
from lift3d_cli.machine.atomic import output_error, replacement


def require_openexr() -> ModuleType:
    """Import the OpenEXR package.

    Raises:
        ResourceError: if it is not installed.
    """
    try:
        import OpenEXR
    except ImportError as e:
        raise ResourceError("EXR needs the package OpenEXR. hint: pip install 'lift3d-cli[exr]'") from e
    return OpenEXR


def layer_names(names: Sequence[str]) -> list[str]:
    """Spell names as compositing tools take those of layers: ASCII letters, digits and _, no digit first, all unlike.

    OpenEXR itself takes any; but a dot begins a layer, and Nuke, for one, changes or drops spaces and other signs.
    """
    found: list[str] = []
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_") or "class"
        plain = f"_{plain}" if plain[0].isdigit() else plain
        spellings = itertools.chain([plain], (f"{plain}_{number}" for number in itertools.count(2)))
        found.append(next(spelling for spelling in spellings if spelling not in found))
    return found


def write_exr(path: Path, channels: Mapping[str, np.ndarray], facts: Mapping[str, str] | None = None) -> None:
    """Write an EXR file atomically, compressed without loss.

    Args:
        path: file to write; its folder is created.
        channels: arrays [H, W] of one size by name, float16 or float32; colours in linear light.
        facts: texts for the header.

    Raises:
        ResourceError: if it cannot be written, or OpenEXR is not installed.
    """
    openexr = require_openexr()
    header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage, **(facts or {})}
    try:
        with replacement(path) as temporary:
            file = openexr.File(header, {name: np.ascontiguousarray(data) for name, data in channels.items()})
            file.write(str(temporary))
    except OSError as e:
        raise output_error(path, e) from e
    except RuntimeError as e:  # the library's own errors
        raise ResourceError(f"{path}: cannot be written ({e})") from e
