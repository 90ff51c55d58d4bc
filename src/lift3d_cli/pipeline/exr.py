"""OpenEXR files: named channels of half or single precision; colours in linear light, by the primaries of sRGB."""

from __future__ import annotations

from collections.abc import Mapping
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
