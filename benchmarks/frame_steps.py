"""Time of each step of a frame against this machine's roofline: `python benchmarks/frame_steps.py`.

A frame is rendered and decoded as by `lift3d render` and `lift3d decode`, from photos that no earlier frame has read,
with a clock around each step; the time of a step excludes that of steps within it. A CPU computes on one thread, and
what other threads otherwise read and write in the background is done in turn. The roofline of a step is the time in
which the machine could move the least bytes, or do the least flops, that the step needs, at the measured rates of a
large copy and a large matrix product. Photos and features are counted once, however often they are read, so data in the
processor's cache can be faster than the roofline.
"""

from __future__ import annotations

import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import measuring
import torch
from roofline import COLORS, FrameSizes, Work, speed, work
from torch.utils.flop_counter import FlopCounterMode

from lift3d_cli import load_scene
from lift3d_cli.cache.frames import FrameFolder
from lift3d_cli.cache.store import SceneCache
from lift3d_cli.config import DecodeConfig, EncodeConfig, RenderConfig
from lift3d_cli.lifting import gather as gather_module
from lift3d_cli.lifting import renderer as renderer_module
from lift3d_cli.lifting.blending.learned import LearnedBlending
from lift3d_cli.lifting.network import Lift3DNetwork
from lift3d_cli.lifting.proposal.learned import LearnedProposal
from lift3d_cli.lifting.renderer import Renderer
from lift3d_cli.machine import background as overlap
from lift3d_cli.models.registry import find_model
from lift3d_cli.ops.weighted_gather import WeightedGather
from lift3d_cli.pipeline import decode_job as decode_module
from lift3d_cli.pipeline import lift as lift_module
from lift3d_cli.pipeline import render as render_module
from lift3d_cli.pipeline.decode import decode
from lift3d_cli.pipeline.encode import encode
from lift3d_cli.pipeline.lift import PHOTOS_PER_VIEW
from lift3d_cli.pipeline.render import CachedFeatures, render
from lift3d_cli.pipeline.results import TaskFolder
from lift3d_cli.pipeline.workspace import Workspace
from lift3d_cli.scene.paths import CameraPath
from lift3d_cli.scene.scene import Scene

ONCE_A_PHOTO = ("read photos", "read features", "photo features", "descriptors of photos")
"""Steps whose results are kept for the next frames."""
REST, RENDERER = "all else", "all else in the renderer"
"""Time outside of all steps: padding, stacking, converting positions from photos to features."""


class InTurn:
    """Replaces a `ThreadPoolExecutor`: functions run immediately, in the caller's thread."""

    def __init__(self, *_: Any) -> None: ...

    def submit(self, function: Callable, *args: Any) -> Future:
        """Run the function, and return its result as a finished future."""
        done: Future = Future()
        done.set_result(function(*args))
        return done

    def shutdown(self, **_: Any) -> None:
        """Do nothing: no thread is running."""


class Stopwatch:
    """Seconds per step, without those of the steps within it.

    Args:
        device: waited for at both ends of a step.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.last: dict[str, tuple[Any, Any]] = {}  # arguments and result of the last call, by step
        self.decoder: Callable | None = None  # the last one made
        self._device = device
        self._stack: list[list[Any]] = []  # nested steps, with the seconds of the steps within them

    @contextmanager
    def step(self, name: str) -> Iterator[list[Any]]:
        """Time the block as a step; the name, first of the yielded list, can still be changed."""
        start = measuring.clock(self._device)
        entry = [name, 0.0]
        self._stack.append(entry)
        try:
            yield entry
        finally:
            elapsed = measuring.clock(self._device) - start
            self._stack.pop()
            self.seconds[entry[0]] += elapsed - entry[1]
            if self._stack:
                self._stack[-1][1] += elapsed

    def timed(self, call: Callable, name: str) -> Callable:
        """Wrap `call`, to time it as the step `name`; see `precise`."""

        def run(*args: Any, **kwargs: Any) -> Any:
            around = self._stack[-1][0] if self._stack else ""
            with self.step(name) as entry:
                result = call(*args, **kwargs)
                entry[0] = precise(name, around, result)
            self.last[entry[0]] = args, result
            return result

        return run

    def progress(self, items: Iterable[Any], description: str, total: int) -> Iterator[Any]:
        """Time the work on each item, as a `Progress`; what is in no step is `REST`."""
        for item in items:
            with self.step(REST):
                yield item

    @contextmanager
    def watching(self, model: type) -> Iterator[None]:
        """Time the steps of a frame with features of this class of model."""
        network, make_decoder = Lift3DNetwork(), model.decoder
        torch.set_num_threads(1)

        def decoder(*args: Any) -> Callable:
            self.decoder = make_decoder(*args)
            return self.timed(self.decoder, "decode")

        seams = [
            (Workspace, "resized", "read photos"),
            (CachedFeatures, "read", "read features"),
            (lift_module, "touched", "read features"),
            (LearnedBlending, "photo_features", "photo features"),
            (type(network.corrector), "describe", "descriptors"),
            (LearnedProposal, "__call__", "Stage I: sweep"),
            (type(network.regularizer), "__call__", "Stage I: 3-D network"),
            (renderer_module, "sample_depths", "sampling"),
            (LearnedBlending, "__call__", "Stage II: looking"),
            (type(network.blending), "__call__", "Stage II: network"),
            (WeightedGather, "__call__", "gather"),
            (Renderer, "render", RENDERER),
            (type(network.corrector), "correct", "corrector"),
            (gather_module, "fill_unseen", "fill"),
            (render_module, "encode_png", "write"),
            (FrameFolder, "write_frame", "write"),
            (FrameFolder, "read_frame", "read what is rendered"),
            (decode_module, "read_png", "read what is rendered"),
            (TaskFolder, "write", "write what is decoded"),
        ]
        with ExitStack() as stack:
            stack.enter_context(patch.object(overlap, "ThreadPoolExecutor", InTurn))
            for owner, name, step in seams:
                stack.enter_context(patch.object(owner, name, self.timed(getattr(owner, name), step)))
            stack.enter_context(patch.object(model, "decoder", decoder))
            yield


def precise(name: str, around: str, result: Any) -> str:
    """Name a gather by the step around it and the channels of its result [R, C]; and descriptors by their image."""
    if name == "gather":
        return around if around == "corrector" else f"gather of {'colour' if result.shape[1] <= COLORS else 'features'}"
    if name == "descriptors":
        return f"descriptors of {'the frame' if around == RENDERER else 'photos'}"
    return name


@dataclass(frozen=True)
class FirstFrame:
    """A frame of a scene, which `run` renders and decodes as the first one of a path."""

    scene: Scene
    cache: SceneCache
    path: CameraPath
    config: RenderConfig
    task: str

    def run(self, stopwatch: Stopwatch) -> None:
        """Render and decode the frame; only the features and the scene's points stay in the cache."""
        decoding = DecodeConfig(self.task, device=self.config.device, video=False)
        workspace = Workspace(self.scene, self.cache, keep=PHOTOS_PER_VIEW * self.config.views)
        with tempfile.TemporaryDirectory() as folder:
            done = render(workspace, self.path, "steps", self.config, Path(folder) / "render", stopwatch.progress)
            decode(done, Path(folder), decoding, stopwatch.progress)

    def sizes(self, stopwatch: Stopwatch) -> FrameSizes:
        """Return the sizes of the frame that a stopwatch timed last."""
        (_, _, sources, *_), distribution = stopwatch.last["Stage I: sweep"]
        (features, view), _ = stopwatch.last["decode"]
        of_photo = stopwatch.last["read features"][1].data
        views = len(sources.cameras)
        files = [seen.image_path.stat().st_size for seen in self.scene.views]
        return FrameSizes(
            views,
            round(views * statistics.fmean(files)),
            sum(camera.width * camera.height for camera in sources.cameras),
            view.image[0].numel(),
            self.config.samples,
            tuple(distribution.probability.shape),
            len(of_photo),
            views * of_photo[0].numel(),
            features.data[0].numel(),
        )


def measure(job: FirstFrame, model: type, rounds: int) -> tuple[dict[str, float], dict[str, Work], FrameSizes]:
    """Return median seconds of each step, the least work of each, and the sizes. A first round is not counted."""
    device = job.config.device
    times = defaultdict(list)
    for counts in [False, *[True] * rounds]:
        stopwatch = Stopwatch(device)
        with stopwatch.watching(model):
            job.run(stopwatch)
        for name, seconds in stopwatch.seconds.items() if counts else ():
            times[name].append(seconds)
    sizes = job.sizes(stopwatch)
    least = work(sizes, Lift3DNetwork())
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        stopwatch.decoder(*stopwatch.last["decode"][0])
    least["decode"] += Work(0, counter.get_total_flops())
    return {name: statistics.median(values) for name, values in times.items()}, least, sizes


def rows_of(seconds: Mapping[str, float], least: Mapping[str, Work], bandwidth: float, rate: float) -> list[dict]:
    """Return a row per step in order; a step that was not timed counts as part of the one before it."""
    seen: list[tuple[str, Work]] = []
    for name, step in least.items():
        if name in seconds:
            seen.append((name, step))
        else:
            before, its_work = seen.pop()
            seen.append((f"{before}, {name}", its_work + step))
    rows = []
    for name, step in seen:
        taken, roofline = seconds[name.split(",")[0]], step.seconds(bandwidth, rate)
        rows.append({"step": name, "seconds": taken, **asdict(step), "roofline": roofline, "ratio": taken / roofline})
    return rows


def markdown(rows: list[dict], rest: Mapping[str, float], sizes: FrameSizes, bandwidth: float, rate: float) -> str:
    """Format the table, below the sizes."""
    planes, height, width = sizes.voxels
    head = ["step", "ms", "MB", "Gflop", "roofline, ms", "ms / roofline"]
    lines = []
    for row in rows:
        amounts = f"{row['bytes'] / 1e6:,.1f}", f"{row['flops'] / 1e9:,.2f}"
        times = measuring.milliseconds(row["seconds"]), measuring.milliseconds(row["roofline"])
        lines.append([row["step"], times[0], *amounts, times[1], f"{row['ratio']:,.1f}x"])
    lines += [[name, measuring.milliseconds(value), *[""] * 4] for name, value in rest.items()]
    total, roofline = sum(row["seconds"] for row in rows) + sum(rest.values()), sum(row["roofline"] for row in rows)
    sums = measuring.milliseconds(total), "", "", measuring.milliseconds(roofline), f"{total / roofline:,.1f}x"
    lines.append(["a path's first frame", *sums])
    once = sum(row["seconds"] for row in rows if row["step"] in ONCE_A_PHOTO)
    lines.append(["a frame of photos that are known", measuring.milliseconds(total - once), *[""] * 4])
    return (
        f"A frame of {sizes.pixels:,} pixels from {sizes.views} photos, {sizes.samples} samples a ray, "
        f"{planes} x {height} x {width} voxels, features of {sizes.channels} channels in {sizes.cells:,} cells.\n"
        f"Roofline: {bandwidth / 1e9:,.1f} GB/s, {rate / 1e9:,.0f} Gflop/s.\n\n{measuring.table(head, lines)}"
    )


def draw(file: Path, rows: list[dict]) -> None:
    """Plot each step's time and roofline as bars."""
    with measuring.plot(file, xlabel="milliseconds", xscale="log") as axes:
        names = [row["step"] for row in rows][::-1]
        for key, height in (("seconds", 0.8), ("roofline", 0.4)):
            axes.barh(names, [1e3 * row[key] for row in rows][::-1], height, label=key.replace("seconds", "measured"))
        axes.legend()


def main() -> None:
    """Measure and print the table."""
    options = measuring.parser(__doc__, rounds=3)
    options.add_argument("--scene", type=Path, default=measuring.SCENE)
    options.add_argument("--height", type=int, default=270, help="of the frame, in pixels [270]")
    options.add_argument("--views", type=int, default=RenderConfig.views, help="source photos [8]")
    options.add_argument("--model", default="tiny-colorizer", help="2D model [tiny-colorizer]")
    options.add_argument("--task", default="", help="that it is decoded to [the model's first]")
    options = options.parse_args()
    scene, model = load_scene(options.scene), find_model(options.model).load()
    path = CameraPath((measuring.novel_pose(scene, options.height),), ("0000",))
    with tempfile.TemporaryDirectory() as folder:
        cache = SceneCache(Path(folder), str(scene.root))
        # At the frame's size, so that its features have as many pixels per cell as those of the photos.
        longest = max(path.cameras[0].width, path.cameras[0].height)
        encode(Workspace(scene, cache), EncodeConfig((options.model,), options.device, max_size=longest))
        config = RenderConfig(views=options.views, device=options.device)
        job = FirstFrame(scene, cache, path, config, options.task or model.spec.tasks[0])
        seconds, least, sizes = measure(job, type(model), options.rounds)
    bandwidth, rate = speed(config)
    rows = rows_of(seconds, least, bandwidth, rate)
    if options.plot:
        draw(options.plot, rows)
    rest = {name: seconds[name] for name in (RENDERER, REST)}
    result = {"sizes": asdict(sizes), "bandwidth": bandwidth, "flops_per_second": rate, "steps": rows, "rest": rest}
    measuring.report(options, result, markdown(rows, rest, sizes, bandwidth, rate))


if __name__ == "__main__":
    measuring.run(main)
