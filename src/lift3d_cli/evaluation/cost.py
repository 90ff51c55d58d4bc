"""What lifting costs beside a 2D model on every frame (the paper's appendix B).

A task on M new views of a scene of N photos takes M (t_rend + t_enc + t_dec) seconds with the 2D model on each rendered
frame, which leaves the frames inconsistent, and N t_enc + M (t_rend + t_lift + t_dec) lifted. t_lift is what the
features of one model add to a frame: the paper's network renders them at no cost beside its own.
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

# Frames that are timed, after one that is not.
_FRAMES = 5


@dataclass(frozen=True)
class Cost:
    """Seconds, see the top of the file.

    Args:
        encode: t_enc, of the model's encoder on a photo or frame, which are of one size.
        render: t_rend, of the colour of a frame from photos that are known.
        lift: t_lift.
        decode: t_dec, of the model's decoder on a frame.
    """

    encode: float
    render: float
    lift: float
    decode: float

    def on_frames(self, frames: int) -> float:
        """Of the 2D model on each frame."""
        return frames * (self.render + self.encode + self.decode)

    def lifted(self, frames: int, photos: int) -> float:
        """Of encoding the photos, and lifting."""
        return photos * self.encode + frames * (self.render + self.lift + self.decode)

    def break_even(self, photos: int) -> int | None:
        """The fewest frames for which lifting is not slower, or None where it adds more than an encoder takes."""
        saved = self.encode - self.lift
        return math.ceil(photos * self.encode / saved) if saved > 0 else None


@torch.inference_mode()
def measure_cost(
    scene: Scene, config: EvalConfig, progress: Progress = no_progress, photos: HeldOutPhotos | None = None
) -> dict[str, float | None]:
    """Time the parts of a frame at left-out photos, in turns; medians, and nothing is read from disk meanwhile.

    t_lift is the difference of two frames, with and without features, which noise can hide where it is small.

    Args:
        scene: the scene.
        config: settings; its model decodes to its task.
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
    """Seconds of encoder, frame, frame with features and decoder at a photo's place."""
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
    """Until the device has done it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
