"""Time and peak memory against the size of a job: `python benchmarks/scaling.py`.

Along each axis (photos, poses, source views, channels, resolution) the job grows and everything else stays. Every point
runs in a process of its own: first for its peak memory, beyond that of the process after all imports, then for its
time. The exponent p is that of n^p: the slope of a straight line through the logarithms of the points, or of the last
two if that is larger. Scenes are synthetic: no time depends on what photos show.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import measuring
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli import FeatureMap, FeatureModel, ModelSpec
from lift3d_cli.cache.store import SceneCache
from lift3d_cli.config import DecodeConfig, EncodeConfig, RenderConfig
from lift3d_cli.errors import ResourceError
from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.geometry.rigs import look_at
from lift3d_cli.pipeline.decode import decode
from lift3d_cli.pipeline.encode import encode
from lift3d_cli.pipeline.lift import PHOTOS_PER_VIEW
from lift3d_cli.pipeline.render import render
from lift3d_cli.pipeline.workspace import Workspace
from lift3d_cli.scene.paths import CameraPath
from lift3d_cli.scene.scene import Scene, View

STEEPEST = 1.15
"""Exponents up to this count as linear, as clocks are noisy."""
SURFACE_POINTS = 20_000


class Projection(FeatureModel):
    """A 2D model of any number of channels: each cell's colours in a random projection."""

    spec = ModelSpec(name="projection", channels=1, stride=8, tasks=("features",), license="Apache-2.0")

    def __init__(self, channels: str = "16", stride: str = "8") -> None:
        super().__init__()
        self.spec = replace(type(self).spec, channels=int(channels), stride=int(stride))
        mixing = torch.randn(int(channels), 3, 1, 1, generator=torch.Generator().manual_seed(0))
        self.register_buffer("mixing", mixing)

    def encode(self, image: Tensor) -> FeatureMap:
        """See `Model`."""
        stride = self.spec.stride
        padding = (0, -image.shape[2] % stride, 0, -image.shape[1] % stride)
        cells = F.avg_pool2d(F.pad(image[None], padding, mode="replicate"), stride)
        return FeatureMap(F.conv2d(cells, self.mixing)[0], self.grid(image.shape[2], image.shape[1]))


@dataclass(frozen=True)
class JobSize:
    """The size of a job: a scene, the poses to render, and how.

    Args:
        photos, poses: numbers of each.
        views: source photos per pose.
        channels, stride: those of the 2D model's features.
        width: width of photos and poses in pixels; their height is 3/4 of it.
    """

    photos: int = 8
    poses: int = 1
    views: int = 8
    channels: int = 16
    stride: int = 8
    width: int = 64


@dataclass(frozen=True)
class Axis:
    """An axis along which the job grows.

    Args:
        title: title of the table.
        unit: unit of the values.
        values: n, ascending.
        quick: a few values that take hardly any time.
        job: makes the job of a value n.
        command: what to run, one of `COMMANDS`.
    """

    title: str
    unit: str
    values: Sequence[int]
    quick: Sequence[int]
    job: Callable[[int], JobSize]
    command: str


def camera(share: float, job: JobSize, radius: float = 4.0) -> Camera:
    """Place a camera on a wavy circle around the scene, looking at its centre: at `share` of the photos' arc."""
    width, angle = job.width, share * min(2 * np.pi, 0.05 * job.photos)
    position = np.array([radius * np.sin(angle), -1 + 0.4 * np.cos(3 * angle), -radius * np.cos(angle)])
    height = 3 * width // 4
    K = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]])
    return Camera(K, look_at(position, np.zeros(3), np.array([0.0, -1, 0])), width, height)


def make_scene(folder: Path, job: JobSize) -> Scene:
    """Write photos of coloured fog, each different, around points of a ball."""
    rng, views = np.random.default_rng(0), []
    for index in range(job.photos):
        file = folder / f"{index:05d}.png"
        lens = camera(index / job.photos, job)
        fog = rng.integers(0, 256, (job.width // 16, job.width // 16, 3), np.uint8)
        cv2.imwrite(str(file), cv2.resize(fog, (lens.width, lens.height), interpolation=cv2.INTER_CUBIC))
        views.append(View(file.name, file, lens))
    return Scene(folder, "nerfstudio", tuple(views), rng.normal(0, 0.5, (SURFACE_POINTS, 3)))


class JobFolder:
    """A job on disk, in a folder of its own; each run of a command does all of its work again."""

    def __init__(self, job: JobSize, folder: Path, device: str, memory: str) -> None:
        self.job = job
        self.folder = folder
        self.device = device
        self.scene = make_scene(folder, job)
        self.model = f"{__file__}:Projection?channels={job.channels}&stride={job.stride}"
        self.config = RenderConfig(views=job.views, device=device, memory=memory)
        lenses = [camera((i + 0.5) / job.poses, job, 3.8) for i in range(job.poses)]
        self.path = CameraPath(tuple(lenses), tuple(f"{i:05d}" for i in range(job.poses)))
        self._fresh = (folder / f"run-{i}" for i in itertools.count())
        self._cache = SceneCache(next(self._fresh))

    def encode(self) -> None:
        """Encode all photos."""
        self._cache = SceneCache(next(self._fresh))
        encode(self._photos(), EncodeConfig((self.model,), self.device))

    def render(self) -> Path:
        """Render all poses."""
        return render(self._photos(), self.path, "poses", self.config, next(self._fresh))

    def render_and_decode(self) -> None:
        """Render all poses, and decode them to frames and a video."""
        decode(self.render(), next(self._fresh), DecodeConfig(device=self.device))

    def plan(self) -> None:
        """Do all of a render but the frames: sources of each pose, the manifest, and which frames are missing."""

        def stop(items: Iterable, description: str, total: int) -> Iterable:
            if description == "choose photos":
                return items
            raise InterruptedError

        with suppress(InterruptedError):
            render(self._photos(), self.path, "poses", self.config, next(self._fresh), stop)

    def _photos(self) -> Workspace:
        return Workspace(self.scene, self._cache, keep=PHOTOS_PER_VIEW * self.job.views)


COMMANDS: dict[str, Callable[[JobFolder], object]] = {
    "encode": JobFolder.encode,
    "plan": JobFolder.plan,
    "render": JobFolder.render,
    "render and decode": JobFolder.render_and_decode,
}

AXES = {
    "photos": Axis("encode", "photos", (125, 250, 500, 1000), (4, 8), lambda n: JobSize(n), "encode"),
    "choice": Axis(
        "prepare a render of 64 poses", "photos", (125, 250, 500, 1000), (4, 8), lambda n: JobSize(n, poses=64), "plan"
    ),
    "poses": Axis("prepare a render", "poses", (250, 500, 1000, 2000), (8, 16), lambda n: JobSize(poses=n), "plan"),
    "frames": Axis(
        "render and decode", "poses", (4, 8, 16, 32), (2, 4), lambda n: JobSize(poses=n), "render and decode"
    ),
    "views": Axis(
        "render 240 x 180 pixels",
        "source views",
        (2, 4, 8, 16),
        (2, 4),
        lambda n: JobSize(n, views=n, width=240),
        "render",
    ),
    "channels": Axis(
        "render 240 x 180 pixels, a cell for 4 x 4",
        "channels",
        (20, 80, 320, 1280),
        (4, 16),
        lambda n: JobSize(channels=n, stride=4, width=240),
        "render",
    ),
    "resolution": Axis(
        "render a pose",
        "pixels",
        tuple(12 * n**2 for n in (30, 60, 120)),
        (12 * 4**2, 12 * 5**2),
        lambda n: JobSize(width=round(math.sqrt(n * 4 / 3))),
        "render",
    ),
}
"""Commands by name; width by height is 4 by 3."""


def measure(axis: Axis, n: int, rounds: int, device: str, memory: str) -> dict[str, float]:
    """Measure one point in this process: median seconds, and the peak bytes beyond those at the start."""
    with tempfile.TemporaryDirectory() as folder:
        bench = JobFolder(axis.job(n), Path(folder), device, memory)
        if axis.command != "encode":
            bench.encode()
        before = measuring.forget_peak(device)
        COMMANDS[axis.command](bench)
        added = measuring.peak(device) - before
        times = []
        for _ in range(rounds):
            start = measuring.clock(device)
            COMMANDS[axis.command](bench)
            times.append(measuring.clock(device) - start)
    return {"n": n, "seconds": statistics.median(times), "bytes": added}


def exponent(points: Sequence[dict[str, float]], what: str) -> float:
    """Return the exponent; see the module."""
    n, values = (np.log([max(point[key], 1e-9) for point in points]) for key in ("n", what))
    return max(np.polyfit(n, values, 1)[0], np.polyfit(n[-2:], values[-2:], 1)[0])


def markdown(name: str, points: Sequence[dict[str, float]]) -> str:
    """Format the table of an axis, with its verdict."""
    axis, slopes = AXES[name], [exponent(points, what) for what in ("seconds", "bytes")]
    verdict = "linear or better" if max(slopes) <= STEEPEST else "**worse than linear**"
    rows = [[f"{p['n']:,}", measuring.milliseconds(p["seconds"]), f"{p['bytes'] / 2**20:,.0f}"] for p in points]
    rows.append(["exponent", *(f"{slope:.2f}" for slope in slopes)])
    return f"{axis.title}: {verdict}\n\n{measuring.table([axis.unit, 'ms', 'peak, MiB'], rows)}"


def draw(file: Path, result: Mapping[str, Sequence[dict[str, float]]]) -> None:
    """Plot the time of each axis relative to its first point, with a linear reference."""
    scales = {"xscale": "log", "yscale": "log", "xlabel": "size, times that of the first point"}
    with measuring.plot(file, ylabel="time, times that of the first point", **scales) as axes:
        for name, points in result.items():
            n, seconds = ([p[key] / points[0][key] for p in points] for key in ("n", "seconds"))
            axes.plot(n, seconds, "o-", label=f"{AXES[name].title}, {AXES[name].unit}")
        ends = [1, max(p[-1]["n"] / p[0]["n"] for p in result.values())]
        axes.plot(ends, ends, "--", color="gray", linewidth=0.8, label="linear")
        axes.legend()


def main() -> None:
    """Measure and print the tables."""
    options = measuring.parser(__doc__, rounds=2)
    options.add_argument("--axis", action="append", choices=AXES, help="measure only this one; may be repeated")
    options.add_argument("--memory", default=RenderConfig.memory, help="as of lift3d render [auto]")
    options.add_argument("--quick", action="store_true", help="two small points an axis, to try it out")
    options.add_argument("--point", type=int, help=argparse.SUPPRESS)
    options = options.parse_args()
    if options.point:
        point = measure(AXES[options.axis[0]], options.point, options.rounds, options.device, options.memory)
        print(json.dumps(point))  # noqa: T201
        return
    if not Path("/proc/self/clear_refs").exists():
        raise ResourceError("peak memory of a process is read from /proc, which only Linux has")
    result = {}
    for name in options.axis or AXES:
        values = AXES[name].quick if options.quick else AXES[name].values
        result[name] = [_in_process_of_its_own(name, n, options) for n in values]
    if options.plot:
        draw(options.plot, result)
    measuring.report(options, {"axes": result}, "\n\n".join(markdown(name, points) for name, points in result.items()))


def _in_process_of_its_own(axis: str, n: int, options: argparse.Namespace) -> dict[str, float]:
    settings = ["--rounds", options.rounds, "--device", options.device, "--memory", options.memory]
    argv = [sys.executable, __file__, "--axis", axis, "--point", n, *settings]
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{axis} {n}: {done.stderr.strip()}")
    return json.loads(done.stdout)


if __name__ == "__main__":
    measuring.run(main)
