"""Result files: frames as PNG, segmentations with overlay and legend, raw features, videos."""

from __future__ import annotations

import colorsys
import errno
import io
import json
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lift3d_cli.errors import ResourceError
from lift3d_cli.machine.atomic import Later, at_once, output_error, replacement, write_output
from lift3d_cli.machine.png import encode_png, to_uint8
from lift3d_cli.models.base import FeatureMap, Segmentation

# Hues a golden angle apart: each class differs from the last ones.
_GOLDEN = 0.618034
_MAX_CLASSES = 256  # limit of an index PNG


class TaskFolder:
    """The results of one task, in `root`: `NAME.png` of each frame.

    A segmentation is written there as an index PNG with a palette, and beside it `<task>-overlay/NAME.png`, on request
    `<task>-soft/NAME/CLASS.png` (a score of 1 is 255), and once `<task>-legend.json`.

    Args:
        root: the folder, named as the task.
        soft_masks: write the soft masks too.
        later: runs the writing, perhaps on another thread.
    """

    def __init__(self, root: Path, soft_masks: bool = False, later: Later = at_once) -> None:
        self.root = root
        self._soft_masks = soft_masks
        self._later = later

    def write(self, name: str, result: Tensor | Segmentation, image: Tensor) -> np.ndarray:
        """Write one frame; return its picture for the video, [H, W, 3] uint8.

        Args:
            name: name of the frame, without a suffix.
            result: output of the decoder.
            image: [3, H, W] colour of the view, below the overlay of a segmentation.

        Raises:
            ResourceError: if it cannot be written.
        """
        if isinstance(result, Tensor):
            shown = to_uint8(result)
            self._later(_write_png, self.root / f"{name}.png", shown)
            return shown
        labels, colors = labels_and_colors(result)
        self._later(lambda: write_output(self.root / f"{name}.png", _index_png(labels, colors)))
        shown = overlay(to_uint8(image), labels, colors)
        self._later(_write_png, self._beside("overlay") / f"{name}.png", shown)
        legend = [
            {"index": i, "name": n, "color": c.tolist()}
            for i, (n, c) in enumerate(zip(result.names, colors, strict=True))
        ]
        self._later(write_output, self._beside("legend.json"), (json.dumps(legend, indent=1) + "\n").encode())
        if self._soft_masks:
            self._write_soft_masks(self._beside("soft") / name, result.scores)
        return shown

    def _write_soft_masks(self, folder: Path, scores: Tensor) -> None:
        for stale in sorted(folder.glob("[0-9][0-9][0-9].png"))[len(scores) :]:  # from a task with more classes
            stale.unlink(missing_ok=True)
        for index, score in enumerate(scores):
            self._later(_write_png, folder / f"{index:03d}.png", to_uint8(score.expand(3, -1, -1)))

    def _beside(self, what: str) -> Path:
        return self.root.with_name(f"{self.root.name}-{what}")


def class_colors(names: tuple[str, ...]) -> tuple[tuple[int, int, int], ...]:
    """Choose a colour for each class; black for the class `other`, which an overlay does not show."""
    colors, hue = [], 0.0
    for name in names:
        if name == "other":
            colors.append((0, 0, 0))
            continue
        colors.append(tuple(round(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.75, 0.95)))
        hue = (hue + _GOLDEN) % 1
    return tuple(colors)


def overlay(image: np.ndarray, labels: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Tint a picture [H, W, 3] uint8 by classes [H, W]; pixels of black classes are unchanged."""
    tint = colors[labels]
    mixed = (image.astype(np.uint16) + tint) // 2
    return np.where(tint.any(2, keepdims=True), mixed, image).astype(np.uint8)


def _index_png(labels: np.ndarray, colors: np.ndarray) -> bytes:
    from PIL import Image

    if len(colors) > _MAX_CLASSES:
        raise ResourceError(f"{len(colors)} classes: an index PNG has {_MAX_CLASSES}")
    image = Image.fromarray(labels).convert("P")
    image.putpalette(colors.flatten().tolist())
    file = io.BytesIO()
    image.save(file, "PNG", optimize=False)
    return file.getvalue()


def labels_and_colors(segmentation: Segmentation) -> tuple[np.ndarray, np.ndarray]:
    """Return the class of each pixel [H, W] uint8, and the colour of each class [K, 3] uint8."""
    labels = segmentation.scores.argmax(0).to(torch.uint8).cpu().numpy()
    return labels, np.array(segmentation.colors or class_colors(segmentation.names), dtype=np.uint8)


def write_features(path: Path, features: FeatureMap, kind: str) -> Path:
    """Write a feature map as `.npy` [C, h, w], or as `.safetensors` with its grid in the metadata.

    Raises:
        ResourceError: if it cannot be written.
    """
    data = features.data.cpu().contiguous()
    path = path.with_name(f"{path.name}.{kind}")
    if kind == "npy":
        file = io.BytesIO()
        np.save(file, (data.float() if data.dtype == torch.bfloat16 else data).numpy())
        content = file.getvalue()
    else:
        import safetensors.torch

        grid = {"scale": json.dumps(features.grid.scale), "offset": json.dumps(features.grid.offset)}
        content = safetensors.torch.save({"features": data}, grid)
    write_output(path, content)
    return path


def _write_png(path: Path, image: np.ndarray) -> None:
    write_output(path, encode_png(image))


@contextmanager
def video_writer(path: Path | None, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Open a video and yield a function that appends a frame [H, W, 3] uint8; the file appears when it is complete.

    Raises:
        ResourceError: if it cannot be written.
    """
    if path is None:
        yield lambda image: None
        return
    import imageio.v2 as imageio

    try:
        with replacement(path, ".mp4") as temporary:
            # yuv420p halves the chroma in both directions, so sides must be even. Quality 8 looks almost lossless.
            settings = {"codec": "libx264", "quality": 8, "macro_block_size": 1, "ffmpeg_log_level": "quiet"}
            writer = imageio.get_writer(temporary, fps=fps, **settings)
            try:
                yield lambda image: writer.append_data(_even(image))
            finally:
                writer.close()
            if not _is_whole_mp4(temporary):  # ffmpeg's own errors are not passed on
                raise OSError(errno.ENOSPC, "the encoder stopped early, as on a full disk")
    except OSError as e:
        raise output_error(path, e) from e


def _is_whole_mp4(path: Path) -> bool:
    """Tell if a file ends where its boxes do, and has the index, which is written last; see ISO/IEC 14496-12."""
    kinds, size = [], path.stat().st_size
    with path.open("rb") as file:
        while file.tell() < size:
            begin = file.tell()
            length, kind = struct.unpack(">I4s", file.read(8).ljust(8, b"\0"))
            if length == 1:  # larger than 4 GB
                (length,) = struct.unpack(">Q", file.read(8).ljust(8, b"\0"))
            kinds.append(kind)
            file.seek(begin + max(length, 8))
        return b"moov" in kinds and file.tell() == size


def _even(image: np.ndarray) -> np.ndarray:
    """Pad an image with odd sides by repeating its last row and column."""
    return np.pad(image, ((0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)), mode="edge")
