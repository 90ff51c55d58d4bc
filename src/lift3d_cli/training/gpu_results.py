"""Processing of results for the GPU kit's `run.sh`: `python -m lift3d_cli.training.gpu_results COMMAND ...`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
from PIL import Image

# One row per scene: photo, render and depth of its last left-out photo.
_ROW_HEIGHT, _QUALITY = 240, 85


def figure(figures: str, name: str, file: str) -> None:
    """Add the contents of a JSON file to the figures, under a name."""
    path = Path(figures)
    found = json.loads(path.read_text()) if path.exists() else {}
    found[name] = json.loads(Path(file).read_text())
    path.write_text(json.dumps(found, indent=1))


def weights(checkpoint: str, file: str) -> None:
    """Write the averaged weights of an unfinished training."""
    tensors = safetensors.torch.load_file(checkpoint)
    prefixes = ("network.", "average.")  # the average takes precedence
    named = {n.removeprefix(p): t.half() for p in prefixes for n, t in tensors.items() if n.startswith(p)}
    safetensors.torch.save_file(named, file)


def total(checkpoint: str, minutes: str, planned: str) -> None:
    """Print the minutes of the whole schedule: as planned, or extended by the minutes of this call."""
    seconds = 0.0
    if Path(checkpoint).exists():
        with safetensors.safe_open(checkpoint, "pt") as file:
            seconds = float(file.metadata().get("seconds", 0))
    sys.stdout.write(f"{max(float(planned), seconds / 60 + float(minutes)):.3f}\n")


def sheet(folder: str, file: str) -> None:
    """Stack the last picture of each scene in one image."""
    rows = []
    for scene in sorted(path for path in Path(folder).iterdir() if path.is_dir()) or [Path(folder)]:
        pictures = sorted(scene.rglob("*.png"))
        if pictures:
            with Image.open(pictures[-1], formats=["PNG"]) as picture:
                width = round(picture.width * _ROW_HEIGHT / picture.height)
                rows.append(np.asarray(picture.convert("RGB").resize((width, _ROW_HEIGHT))))
    widest = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 4), (0, widest - row.shape[1]), (0, 0))) for row in rows]
    Image.fromarray(np.concatenate(padded)).save(file, quality=_QUALITY)


if __name__ == "__main__":
    commands: dict[str, Callable[..., None]] = {f.__name__: f for f in (figure, weights, total, sheet)}
    commands[sys.argv[1]](*sys.argv[2:])
