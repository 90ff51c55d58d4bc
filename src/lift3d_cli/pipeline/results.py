"""Files of `decode`: frames in one of the formats, and what goes beside them."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lift3d_cli.config import FRAME_FORMATS
from lift3d_cli.machine.atomic import Later, at_once, write_output
from lift3d_cli.machine.png import encode_png, to_uint8
from lift3d_cli.models.base import Segmentation
from lift3d_cli.models.builtin.color_space import linear_from_srgb
from lift3d_cli.pipeline.class_pictures import index_png, labels_and_colors, overlay
from lift3d_cli.pipeline.exr import layer_names, write_exr
from lift3d_cli.pipeline.result_folder import LEGEND, OVERLAY, SOFT


@dataclass(frozen=True)
class Result:
    """One decoded frame.

    Args:
        value: [3, H, W] sRGB picture in [0, 1], or a segmentation.
        image: [3, h, w] sRGB colour of the view, below overlays.
        numbers: what the picture stands for, by EXR channel: [H, W] float; empty if the picture is the result.
        levels: [H, W] or [3, H, W] in [0, 65535] to store in 16-bit PNGs; None for the picture.
        layers: channels of the view for EXR, [h, w] float: Z (depth), A (coverage), confidence.
    """

    value: Tensor | Segmentation
    image: Tensor
    numbers: Mapping[str, Tensor] = field(default_factory=dict)
    levels: Tensor | None = None
    layers: Mapping[str, Tensor] = field(default_factory=dict)


class TaskFolder:
    """The results of one task, in `root`: a file `NAME.*` of each frame.

    A segmentation is written there as an index PNG with a palette, or in EXR as a layer `mask.CLASS` of each class;
    and beside it `<task>-overlay/NAME.png`, on request `<task>-soft/NAME/CLASS.png` (a score of 1 is 255), and once
    `<task>-legend.json`.

    Args:
        root: the folder, named as the task.
        format: one of the `FRAME_FORMATS`.
        soft_masks: write the soft masks too.
        later: runs the writing, perhaps on another thread.
    """

    def __init__(
        self, root: Path, format: str = FRAME_FORMATS[0], soft_masks: bool = False, later: Later = at_once
    ) -> None:
        self.root = root
        self._format = format
        self._soft_masks = soft_masks
        self._later = later

    def beside(self, value: Tensor | Segmentation) -> list[str]:
        """Return the names of the files and folders that results of this kind have beside the folder."""
        parts = [] if isinstance(value, Tensor) else [OVERLAY, LEGEND, *([SOFT] if self._soft_masks else [])]
        return [self._beside(part).name for part in parts]

    def write(self, name: str, result: Result) -> np.ndarray:
        """Write one frame; return its picture for the video, [H, W, 3] uint8.

        Raises:
            ResourceError: if it cannot be written.
        """
        if isinstance(result.value, Tensor):
            shown = to_uint8(result.value)
            if self._format == "png":
                self._png(self.root / f"{name}.png", shown)
        else:
            shown = self._write_classes(name, result.value, result.image)
        if self._format == "png16" and isinstance(result.value, Tensor):
            levels = result.value.clamp(0, 1) * 65535 if result.levels is None else result.levels
            levels = levels.round().to(torch.int32).cpu().numpy().astype(np.uint16)
            self._png(self.root / f"{name}.png", levels if levels.ndim == 2 else levels.transpose(1, 2, 0))
        if self._format.startswith("exr"):
            channels = exr_channels(result, np.float32 if self._format == "exr-float" else np.float16)
            self._later(write_exr, self.root / f"{name}.exr", channels, {"colorInteropID": "lin_rec709_scene"})
        return shown

    def _write_classes(self, name: str, classes: Segmentation, image: Tensor) -> np.ndarray:
        labels, colors = labels_and_colors(classes)
        if not self._format.startswith("exr"):
            self._later(lambda: write_output(self.root / f"{name}.png", index_png(labels, colors)))
        shown = overlay(to_uint8(image), labels, colors)
        self._png(self._beside(OVERLAY) / f"{name}.png", shown)
        legend: list[dict[str, object]] = [
            {"index": i, "name": n, "color": c.tolist()}
            for i, (n, c) in enumerate(zip(classes.names, colors, strict=True))
        ]
        if self._format.startswith("exr"):
            legend = [
                row | {"layer": f"mask.{name}"} for row, name in zip(legend, layer_names(classes.names), strict=True)
            ]
        self._later(write_output, self._beside(LEGEND), (json.dumps(legend, indent=1) + "\n").encode())
        if self._soft_masks:
            self._write_soft_masks(self._beside(SOFT) / name, classes.scores)
        return shown

    def _write_soft_masks(self, folder: Path, scores: Tensor) -> None:
        for stale in sorted(folder.glob("[0-9][0-9][0-9].png"))[len(scores) :]:  # from a task with more classes
            stale.unlink(missing_ok=True)
        for index, score in enumerate(scores):
            self._png(folder / f"{index:03d}.png", to_uint8(score.expand(3, -1, -1)))

    def _png(self, path: Path, image: np.ndarray) -> None:
        self._later(lambda: write_output(path, _as_srgb(encode_png(image)) if image.ndim == 3 else encode_png(image)))

    def _beside(self, what: str) -> Path:
        return self.root.with_name(self.root.name + what)


def exr_channels(result: Result, kind: type) -> dict[str, np.ndarray]:
    """Return what an EXR file holds of a frame, in half (Z always in single) or single precision.

    Colours are R, G, B in linear light. Layers of the view are left out if the result is of another size.
    """
    channels: dict[str, Tensor] = dict(result.numbers)
    if isinstance(result.value, Segmentation):
        channels |= _rgb(result.image)
        names = layer_names(result.value.names)
        channels |= {f"mask.{name}": score for name, score in zip(names, result.value.scores, strict=True)}
    elif not channels:
        channels |= _rgb(result.value)
    size = next(iter(channels.values())).shape
    channels |= {name: layer for name, layer in result.layers.items() if layer.shape == size}
    arrays = {name: values.float().cpu().numpy() for name, values in channels.items()}
    return {name: values if name == "Z" else values.astype(kind) for name, values in arrays.items()}


def _rgb(image: Tensor) -> dict[str, Tensor]:
    return dict(zip("RGB", linear_from_srgb(image.float().clamp(0, 1)), strict=True))


def _as_srgb(png: bytes) -> bytes:
    """Say in a PNG file that its colours are sRGB (relative colorimetric), by a chunk behind its header."""
    chunk = b"sRGB" + bytes([1])
    return png[:33] + struct.pack(">I", 1) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]
