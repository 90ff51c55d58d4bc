"""The options of a decoder: read from the user's files, and noted when they are used."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import fields
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from lift3d_cli.config import DecodeConfig
from lift3d_cli.errors import SceneError, UsageError
from lift3d_cli.models.base import DecodeOptions
from lift3d_cli.scene.photos import open_picture
from lift3d_cli.scene.scene import Scene

_FLAGS = {name: f"--{name}" for name in ("text", "strokes", "clusters", "point", "style")}
_FLAGS |= {"strokes_view": "--view", "point_view": "--view"}


def flag_of(name: str) -> str:
    """Spell a field of `DecodeConfig` as on the command line."""
    return "--source-view" if name == "source_views" else "--" + name.replace("_", "-")


class NotedOptions(DecodeOptions):
    """Options that know which of them a decoder has looked at."""

    def __getattribute__(self, name: str) -> object:
        if name in _FLAGS:
            object.__getattribute__(self, "__dict__").setdefault("_used", set()).add(_FLAGS[name])
        return object.__getattribute__(self, name)

    def check_used(self, task: str) -> None:
        """Check, after a frame is decoded, that every option that was given has been looked at.

        Raises:
            UsageError: if one has not.
        """
        used = vars(self).get("_used", set())
        default = DecodeOptions()
        for field in sorted(fields(self), key=lambda field: field.name.endswith("_view")):  # it is the other's fault
            value, flag = vars(self)[field.name], _FLAGS.get(field.name)
            is_given = value is not None and (isinstance(value, torch.Tensor) or value != getattr(default, field.name))
            if flag and is_given and flag not in used:
                raise UsageError(f"{flag} does nothing here: task '{task}' does not use it. hint: leave it out")


def decode_options(config: DecodeConfig, point: tuple[float, float] | None = None) -> NotedOptions:
    """Make the decoder's options, and read the pictures that they name.

    Args:
        config: the settings.
        point: `config.point` in [0, 1] of the photo's width and height.

    Raises:
        SceneError: if a picture cannot be read.
    """
    strokes = None if config.strokes is None else torch.from_numpy(_read_picture(config.strokes))
    style = (
        None if config.style is None else torch.from_numpy(_read_picture(config.style)).permute(2, 0, 1).float() / 255
    )
    return NotedOptions(config.text, strokes, config.view, config.clusters, point, config.view, style)


def frame_settings(config: DecodeConfig) -> str:
    """Return a digest of the options that frames of one run differ by; pictures count by what is in their files."""
    names = ("text", "point", "view", "clusters", "refine", "seed")
    values: list[object] = [getattr(config, name) for name in names]
    for path in (config.strokes, config.style):
        content = b""
        with suppress(OSError):  # who reads the picture says so
            content = b"" if path is None else path.read_bytes()
        values.append(hashlib.sha256(content).hexdigest())
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def _read_picture(path: Path) -> np.ndarray:
    """Read a picture as [H, W, 3] uint8, black where it is transparent."""
    with open_picture(path) as image:
        pixels = np.array(image.convert("RGBA"))
    return pixels[..., :3] * (pixels[..., 3:] > 127)


def photo_index(scene: Scene, name: str) -> int:
    """Find a photo's index by its name in the scene, or by its file name, or that without its suffix.

    Raises:
        SceneError: if no photo has that name, or several do.
    """

    def spellings(view_name: str) -> set[str]:
        path = PurePosixPath(view_name)
        return {view_name, path.name, path.stem, path.with_suffix("").as_posix()}

    exact = [i for i, view in enumerate(scene.views) if name == view.name]
    found = exact or [i for i, view in enumerate(scene.views) if name in spellings(view.name)]
    if len(found) != 1:
        what = (
            "which photo? hint: --view" if not name else f"{name!r} names {'several photos' if found else 'no photo'}"
        )
        raise SceneError(f"{scene.root}: {what}, such as {scene.views[0].name}")
    return found[0]
