"""What a render will take: time, memory and disk, measured on small cut-outs of a frame or on its first frame."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.pipeline.lift import Plan

# Bytes per pixel of a frame: its PNG, depth, coverage and confidence.
_FRAME_BYTES = 2 + 4 + 1 + 1
_BYTES = {"fp16": 2, "bf16": 2, "fp32": 4}
# Sides of the cut-outs in parts of a frame's: what is fixed and what grows with the pixels can be told apart.
_CUTS = (8, 4)
_LEAST_SIDE = 24


@dataclass(frozen=True)
class Forecast:
    """What rendering some frames takes.

    Args:
        frames: how many are to be rendered.
        seconds: of each.
        memory_bytes: at most.
        frame_bytes: of each on disk.
        surfaces: photos whose surface has to be found first, which takes about as long as a frame each.
    """

    frames: int
    seconds: float
    memory_bytes: int
    frame_bytes: int
    surfaces: int = 0

    @property
    def total_seconds(self) -> float:
        """Seconds in all."""
        return (self.frames + self.surfaces) * self.seconds

    @property
    def disk_bytes(self) -> int:
        """Bytes on disk in all."""
        return self.frames * self.frame_bytes


def frame_bytes(plan: Plan, dtype: str) -> int:
    """Estimate the size on disk of a frame with the features of its plan."""
    cells = sum(f.target.width * f.target.height * f.maps[0].shape[0] for f in plan.features.values())
    return plan.target.width * plan.target.height * _FRAME_BYTES + cells * _BYTES[dtype]


def peak_memory() -> int:
    """Return the most memory that this process has held so far, in bytes; of the GPU, if there is one in use."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    with contextlib.suppress(ImportError):  # Windows
        import resource

        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 0


def measured_seconds(target: Camera, lift: Callable[[Camera], object]) -> float:
    """Estimate the seconds of a frame by rendering small cut-outs of its middle.

    Args:
        target: the frame's camera.
        lift: renders a camera.
    """
    lift(_cut(target, 2 * _CUTS[0]))  # reads the photos
    found = []
    for parts in _CUTS:
        cut = _cut(target, parts)
        begun = time.monotonic()
        lift(cut)
        found.append((cut.width * cut.height, time.monotonic() - begun))
    (few, fast), (many, slow) = found
    slope = (slow - fast) / (many - few) if many > few and slow > fast else slow / many
    return slow + slope * (target.width * target.height - many)


def _cut(camera: Camera, parts: int) -> Camera:
    """Return the camera of the middle of a picture, a part of it in width and height."""
    width, height = (min(n, max(_LEAST_SIDE, n // parts)) for n in (camera.width, camera.height))
    K = camera.K.copy()
    K[0, 2] -= (camera.width - width) // 2
    K[1, 2] -= (camera.height - height) // 2
    return Camera(K, camera.w2c, width, height)
