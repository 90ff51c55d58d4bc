"""The cost of lifting compared with a 2D model on every frame (the paper's appendix B).

For M new views of a scene of N photos, a task takes M (t_rend + t_enc + t_dec) seconds with the 2D model on each
rendered frame, which leaves the frames inconsistent, and N t_enc + M (t_rend + t_lift + t_dec) seconds lifted. t_lift
is what the features of one model add to a frame: the paper's network renders them at no extra cost.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from lift3d_cli.config import EvalConfig
from lift3d_cli.evaluation.protocols import Bench
from lift3d_cli.machine.progress import Progress, no_progress
from lift3d_cli.models.base import Decoder, FeatureMap, RenderedView
from lift3d_cli.pipeline.held_out import HeldOutPhotos
from lift3d_cli.pipeline.lift import SceneLifter
from lift3d_cli.scene.scene import Scene

# Frames to time, after one that is not timed.
_FRAMES = 5


@dataclass(frozen=True)
class Cost:
    """Seconds, see the module.

    Args:
        encode: t_enc, the model's encoder on a photo or frame, which have the same size.
        render: t_rend, the colours of a frame from photos in memory.
        lift: t_lift.
        decode: t_dec, the model's decoder on a frame.
    """

    encode: float
    render: float
    lift: float
    decode: float

    def on_frames(self, frames: int) -> float:
        """Return the time of the 2D model on each frame."""
        return frames * (self.render + self.encode + self.decode)

    def lifted(self, frames: int, photos: int) -> float:
        """Return the time of encoding the photos, and lifting."""
        return photos * self.encode + frames * (self.render + self.lift + self.decode)

    def break_even(self, photos: int) -> int | None:
        """Return the fewest frames for which lifting is not slower; None where it adds more than an encoder takes."""
        saved = self.encode - self.lift
        return math.ceil(photos * self.encode / saved) if saved > 0 else None


@torch.inference_mode()
def measure_cost(
    scene: Scene, config: EvalConfig, progress: Progress = no_progress, photos: HeldOutPhotos | None = None
) -> dict[str, float | None]:
    """Time the parts of a frame at left-out photos, in turns; medians, and nothing is read from disk while timing.

    t_lift is the difference of two frames, with and without features; where it is small, noise can hide it.

    Args:
        scene: the scene.
        config: settings; its model is decoded to its task.
        progress: see `Progress`.
        photos: see `Bench`.

    Returns:
        JSON values: `t_enc`, `t_rend`, `t_lift`, `t_dec` in seconds, `photos`: how many are not left out, and
        `break_even`: see `Cost`.

    Raises:
        SceneError, ModelError, ResourceError: in one line.
    """
    bench = Bench(scene, config, photos)
    decode, lifter = bench.decoder(bench.task), bench.lifter()
    indices = [bench.held_out[n % len(bench.held_out)] for n in range(_FRAMES + 1)]
    shown = progress(indices, f"cost {scene.root.name}", len(indices))
    rows = [_timed(bench, lifter, decode, i) for i in shown][1:]
    added = max(0.0, statistics.median(both - render for _, render, both, _ in rows))
    encode, render, _, decoding = (statistics.median(values) for values in zip(*rows, strict=True))
    cost = Cost(encode, render, added, decoding)
    photos = len(bench.candidates)
    return {
        "t_enc": cost.encode,
        "t_rend": cost.render,
        "t_lift": cost.lift,
        "t_dec": cost.decode,
        "photos": photos,
        "break_even": cost.break_even(photos),
    }


def _timed(bench: Bench, lifter: SceneLifter, decode: Decoder, index: int) -> list[float]:
    """Time encoder, frame, frame with features and decoder at a photo's camera, in seconds."""
    model, features, camera = bench.source.model, {"model": bench.source}, bench.camera(index)
    choice = lifter.choose(camera)
    view = lifter.lift(lifter.plan(camera, choice, features))  # reads photos and features
    rendered = RenderedView(view.frame.image, view.frame.coverage)
    lifted = FeatureMap(view.frame.features["model"], view.grids["model"])
    parts: list[Callable[[], object]] = [
        lambda: model.checked_encode(rendered.image),
        lambda: lifter.lift(lifter.plan(camera, choice)),
        lambda: lifter.lift(lifter.plan(camera, choice, features)),
        lambda: decode(lifted, rendered),
    ]
    return [_seconds(part, bench.device) for part in parts]


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    """Time a function until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
