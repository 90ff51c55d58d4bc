"""Speed compared with straightforward implementations: `python benchmarks/peers.py`, on a GPU with `--device cuda`.

1. The weighted gather against `grid_sample` of all samples followed by a weighted sum, the formula itself, at the sizes
   of a frame: of 480 x 270 pixels from 8 photos, on a GPU 1008 x 756 from 10. Three channels are the photos themselves,
   others are features at stride 8. Fused gathers read a table, which is made once per frame; a GPU has two, of which
   torch's is for where Triton does not run. Requested bytes are four cells and the position and weight of each sample
   with a weight, and the result; with caches they can exceed what a copy moves. The least bytes are all maps once.
2. Rays of colour per second of the whole renderer against a view/ray transformer of GNT's published size (Varma T et
   al. 2023: 8 blocks of view and ray attention, width 64, 192 samples), of our own writing and with random weights,
   on which the time of a network does not depend.

The ratios matter, not the times.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from unittest.mock import patch

import measuring
import torch
from measuring import forget_peak, peak
from roofline import speed
from torch import Tensor, nn

from lift3d_cli import load_scene
from lift3d_cli.config import RenderConfig
from lift3d_cli.geometry.grids import FeatureGrid, sample_map
from lift3d_cli.machine.device import resolve_device
from lift3d_cli.machine.parallel import mapped, num_workers
from lift3d_cli.ops import weighted_gather as gather_module
from lift3d_cli.ops.weighted_gather import WeightedGather, weighted_gather_ref
from lift3d_cli.pipeline.lift import SceneLifter
from lift3d_cli.pipeline.renderers import make_renderer
from lift3d_cli.pipeline.workspace import ResizedWorkspace

SAMPLES, CHUNK = 8, 512
FLOAT = 4  # bytes
Gather = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """All rays of a frame, with the samples of each ray on a line in each photo.

    Args:
        maps: [V, C, h, w] float32.
        uv: [V, R, S, 2] pixels of the maps.
        omega: [V, R, S], of which a quarter are 0, as in frames of the example.
    """

    maps: Tensor
    uv: Tensor
    omega: Tensor

    @classmethod
    def make(cls, channels: int, device: torch.device) -> Problem:
        """Make a problem of the size for the device and the channels."""
        views, width, height = (8, 480, 270) if device.type == "cpu" else (10, 1008, 756)
        stride = 1 if channels == 3 else 8
        grid = FeatureGrid.from_stride(width, height, stride)
        torch.manual_seed(0)
        rays = grid.cell_centers() / stride
        shift = torch.randn(views, 1, 1, 2) * 0.1 * height / stride
        direction = torch.nn.functional.normalize(torch.randn(views, 1, 1, 2), dim=-1)
        along = torch.linspace(-24, 24, SAMPLES)[:, None] / stride * torch.rand(views, len(rays), 1, 1)
        omega = torch.rand(views, len(rays), SAMPLES) * (torch.rand(views, len(rays), SAMPLES) > 0.25)
        maps = torch.randn(views, channels, grid.height, grid.width)
        tensors = maps, rays[:, None] + shift + along * direction, omega / omega.sum((0, 2)).clamp(min=1e-9)[:, None]
        return cls(*(x.to(device) for x in tensors))

    def bytes_asked_for(self, maps: Tensor) -> int:
        """Return the bytes requested; see the module."""
        reads = int((self.omega > 0).sum()) * (4 * maps.shape[1] * maps.element_size() + 3 * FLOAT)
        return reads + FLOAT * self.uv.shape[1] * maps.shape[1]

    def least_bytes(self, maps: Tensor) -> int:
        """Return the least bytes; see the module."""
        return maps.nbytes + 3 * FLOAT * self.omega.numel() + FLOAT * self.uv.shape[1] * maps.shape[1]


def plain(maps: Tensor) -> Gather:
    """Gather by the formula itself."""
    return partial(weighted_gather_ref, maps)


def fused(maps: Tensor) -> Gather:
    """Gather; on a CPU in chunks of rays, in parallel on its cores, as the renderer does."""
    gather = WeightedGather(maps)
    if maps.is_cuda:
        return gather

    def in_chunks(uv: Tensor, omega: Tensor) -> Tensor:
        out = torch.empty(uv.shape[1], maps.shape[1])

        def fill(part: slice) -> None:
            out[part] = gather(uv[:, part], omega[:, part])

        for _ in mapped(fill, [slice(at, at + CHUNK) for at in range(0, len(out), CHUNK)], out.device):
            pass
        return out

    return in_chunks


def fallback(maps: Tensor) -> Gather:
    """Gather as on GPUs without Triton."""
    with patch.object(gather_module, "load_kernel", lambda device: None):
        return fused(maps)


def fused_half(maps: Tensor) -> Gather:
    """Gather from maps as they are stored."""
    return fused(maps.half())


def contestants(device: torch.device) -> dict[str, Callable[[Tensor], Gather]]:
    """Return, by name, functions that make a gather of maps [V, C, h, w]."""
    if device.type == "cpu":
        return {"plain": plain, "fused": fused}
    return {"plain": plain, "fused by torch": fallback, "fused": fused, "fused, float16": fused_half}


@torch.inference_mode()
def compare_gathers(channels: int, rounds: int, device: torch.device, bandwidth: float) -> list[dict]:
    """Return a row for each contestant."""
    problem, rows = Problem.make(channels, device), []
    inputs = (problem.uv, problem.omega)
    makers = contestants(device)
    gathers = {name: maker(problem.maps) for name, maker in makers.items()}
    runs = {name: partial(gather, *inputs) for name, gather in gathers.items()}
    tables = {f"{name}, table": partial(maker, problem.maps) for name, maker in makers.items() if maker is not plain}
    seconds = measuring.medians(runs | tables, rounds, device)
    for name, maker in makers.items():
        maps = problem.maps.half() if maker is fused_half else problem.maps
        table = seconds.get(f"{name}, table", 0.0)
        row = {"channels": channels, "gather": name, "table": table, "seconds": seconds[name]}
        row["ratio"] = seconds["plain"] / (table + seconds[name])
        row["peak"] = peak_of(name, channels, device)
        row["asked"] = problem.bytes_asked_for(maps) / seconds[name] / bandwidth
        row["least"] = problem.least_bytes(maps) / seconds[name] / bandwidth
        rows.append(row)
    return rows


def peak_of(name: str, channels: int, device: torch.device) -> int:
    """Measure the bytes that a gather, with its table, adds to the peak of a new process that has its inputs."""
    argv = [sys.executable, __file__, "--device", str(device), "--peak-of", name, "--channels", str(channels)]
    # With this, glibc returns freed memory at once: otherwise, memory that was free before would hide the increase.
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    return json.loads(subprocess.run(argv, check=True, capture_output=True, text=True, env=env).stdout)


@torch.inference_mode()
def added_peak(name: str, channels: int, device: torch.device) -> int:
    """Measure in the process of `peak_of`."""
    problem, maker = Problem.make(channels, device), contestants(device)[name]
    # What torch itself allocates once, for example for its threads.
    maker(problem.maps[..., :2, :2])(problem.uv[:, :CHUNK], problem.omega[:, :CHUNK])
    before = forget_peak(device)
    maker(problem.maps)(problem.uv, problem.omega)
    return peak(device) - before


class ViewRayBlock(nn.Module):
    """One block of GNT: attention over views by subtraction, then attention over the ray's samples."""

    def __init__(self, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.position = nn.Sequential(nn.Linear(4, width // 8), nn.ReLU(), nn.Linear(width // 8, width))
        self.weight = nn.Sequential(nn.Linear(width, width // 8), nn.ReLU(), nn.Linear(width // 8, width))
        self.ray = nn.MultiheadAttention(width, heads, batch_first=True)
        self.feed = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width)) for _ in range(2)
        )
        self.norm = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))

    def forward(self, x: Tensor, views: Tensor, direction: Tensor) -> Tensor:
        """Map x [R, S, C], views [R, S, V, C], direction [R, S, V, 4] to [R, S, C]."""
        query, key, position = self.q(self.norm[0](x)), self.k(views), self.position(direction)
        attention = torch.softmax(self.weight(key - query[:, :, None] + position), 2)
        x = x + ((self.v(views) + position) * attention).sum(2)
        x = x + self.feed[0](self.norm[1](x))
        y = self.norm[2](x)
        x = x + self.ray(y, y, y, need_weights=False)[0]
        return x + self.feed[1](self.norm[3](x))


class ViewRayTransformer(nn.Module):
    """A transformer of GNT's size: 8 blocks of width 64 on 35 input channels per view (32 features and the colour)."""

    def __init__(self, blocks: int = 8, width: int = 64) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(35, width), nn.ReLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(ViewRayBlock(width) for _ in range(blocks))
        self.tail = nn.Linear(width, 3)

    def forward(self, maps: Tensor, uv: Tensor, direction: Tensor) -> Tensor:
        """Map maps [V, 35, h, w], uv [V, R, S, 2], direction [R, S, V, 4] to colour [R, 3]."""
        views = self.head(sample_map(maps, uv).permute(2, 3, 0, 1))
        x = views.amax(2)
        for block in self.blocks:
            x = block(x, views, direction)
        return torch.sigmoid(self.tail(x.mean(1)))


@torch.inference_mode()
def rays_per_second(rounds: int, height: int, rays: int, device: torch.device) -> tuple[dict[str, float], int]:
    """Time the renderer on a whole frame, and the transformer on `rays` per core; return the number of photos too."""
    photos = ResizedWorkspace(load_scene(measuring.SCENE), height, keep=32)
    candidates = list(range(1, photos.num_photos))
    renderer = make_renderer(RenderConfig(device=str(device)), device)
    lifter = SceneLifter(photos, photos.points(), renderer, 10, device, candidates)
    target = photos.camera(0)
    choice = lifter.choose(target)
    views = len(choice.sources)
    network, maps = ViewRayTransformer().eval().to(device), torch.rand(views, 35, height, target.width, device=device)
    uv = torch.rand(views, rays, 192, 2, device=device) * torch.tensor([target.width, height], device=device)
    direction = torch.rand(rays, 192, views, 4, device=device)

    def transform() -> None:
        for _ in mapped(lambda _: network(maps, uv, direction), range(num_workers(device)), device):
            pass

    runs = {"lift3d": lambda: lifter.lift(lifter.plan(target, choice)), "transformer": transform}
    seconds = measuring.medians(runs, rounds, device)
    pixels, num_rays = target.width * target.height, num_workers(device) * rays
    return {"lift3d": pixels / seconds["lift3d"], "transformer": num_rays / seconds["transformer"]}, views


def markdown(rows: Sequence[dict], speeds: dict[str, float], views: int, bandwidth: float) -> str:
    """Format both tables."""
    head = ["gather", "table, ms", "gather, ms", "plain / both", "peak, MiB", "asked for / copy", "least / copy"]
    lines = []
    for row in rows:
        times = [measuring.milliseconds(row["table"]) if row["table"] else "", measuring.milliseconds(row["seconds"])]
        shares = [f"{row[key]:.2f}" for key in ("asked", "least")]
        of = f"{row['channels']} channels, {row['gather']}"
        lines.append([of, *times, f"{row['ratio']:.1f}x", f"{row['peak'] / 2**20:,.1f}", *shares])
    gathers = f"A copy moves {bandwidth / 1e9:,.1f} GB/s.\n\n{measuring.table(head, lines)}"
    ratio = speeds["lift3d"] / speeds["transformer"]
    lines = [[name, f"{value:,.0f}"] for name, value in speeds.items()] + [["ratio", f"{ratio:,.0f}x"]]
    return f"{gathers}\n\n{measuring.table([f'rays of colour, {views} photos', 'per second'], lines)}"


def draw(file: str, rows: Sequence[dict]) -> None:
    """Plot the time of each gather over the channels."""
    with measuring.plot(file, xlabel="channels", ylabel="milliseconds", xscale="log", yscale="log") as axes:
        for name in {row["gather"]: None for row in rows}:
            of = [row for row in rows if row["gather"] == name]
            times = [1e3 * (row["table"] + row["seconds"]) for row in of]
            axes.plot([row["channels"] for row in of], times, "o-", label=name)
        axes.legend()


def main() -> None:
    """Print both tables."""
    options = measuring.parser(__doc__, rounds=5)
    options.add_argument("--height", type=int, default=270, help="of the rendered frame, in pixels [270]")
    options.add_argument("--rays", type=int, help="that the transformer renders at a time [8, on a GPU 1024]")
    options.add_argument("--channels", type=int, nargs="+", default=[3, 16, 64, 384, 1280])
    options.add_argument("--peak-of", help=argparse.SUPPRESS)
    options = options.parse_args()
    device = resolve_device(options.device)
    if options.peak_of:
        print(added_peak(options.peak_of, options.channels[0], device))  # noqa: T201
        return
    bandwidth, _ = speed(RenderConfig(device=options.device))
    rows = [row for n in options.channels for row in compare_gathers(n, options.rounds, device, bandwidth)]
    rays = options.rays or (8 if device.type == "cpu" else 1024)
    speeds, views = rays_per_second(options.rounds, options.height, rays, device)
    if options.plot:
        draw(options.plot, rows)
    result = {"bandwidth": bandwidth, "gathers": rows, "rays_per_second": speeds, "photos": views}
    measuring.report(options, result, markdown(rows, speeds, views, bandwidth))


if __name__ == "__main__":
    measuring.run(main)
