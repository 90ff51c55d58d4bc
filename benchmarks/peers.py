"""Speed against plain ways to do the same: `python benchmarks/peers.py`.

1. The weighted gather against `grid_sample` of all samples followed by a weighted sum, the formula as it stands: time,
   and peak memory, each in a process of its own.
2. Rays of colour per second of the whole renderer against a view/ray transformer of GNT's published size (Varma T et
   al. 2023: 8 blocks of view and ray attention, width 64, 192 samples), of our own writing and with random weights,
   on which the time of a network does not depend.

Medians over rounds in which the contestants take turns, with the machine and the versions. Ratios are what to look at.
"""

from __future__ import annotations

import argparse
import functools
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

import lift3d_cli
from lift3d_cli import load_scene
from lift3d_cli.config import RenderConfig
from lift3d_cli.geometry.grids import sample_map
from lift3d_cli.ops.weighted_gather import WeightedGather, weighted_gather_ref
from lift3d_cli.stages.lift import SceneLifter
from lift3d_cli.stages.photos import ResizedPhotos
from lift3d_cli.stages.renderers import make_renderer

SCENE = Path(__file__).resolve().parents[1] / "examples" / "tabletop"
# Features of a 480 x 270 view at stride 8, from 8 photos with 8 samples a ray.
VIEWS, SAMPLES, WIDTH, HEIGHT = 8, 8, 60, 34


def medians(contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, which take turns; the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds + 1):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def gather_inputs(channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Maps [V, C, h, w], uv [V, R, S, 2] and weights [V, R, S] of all rays of a frame."""
    torch.manual_seed(0)
    rays = WIDTH * HEIGHT
    uv = torch.rand(VIEWS, rays, SAMPLES, 2) * torch.tensor([WIDTH, HEIGHT])
    weights = torch.softmax(torch.randn(rays, VIEWS * SAMPLES), 1).reshape(rays, VIEWS, SAMPLES).transpose(0, 1)
    return torch.randn(VIEWS, channels, HEIGHT, WIDTH), uv, weights.contiguous()


def fused(maps: Tensor, uv: Tensor, omega: Tensor) -> Tensor:
    """As the renderer does it: chunks of rays."""
    gather = WeightedGather(maps)
    parts = torch.arange(uv.shape[1]).split(512)
    return torch.cat([gather(uv[:, part], omega[:, part]) for part in parts])


GATHERS = {"fused": fused, "plain": weighted_gather_ref}


def peak_megabytes(name: str, channels: int) -> float:
    """What a gather adds to the peak memory of a process that has its inputs."""
    command = [sys.executable, __file__, "--peak-of", name, "--channels", str(channels)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def added_peak(name: str, channels: int) -> float:
    """See `peak_megabytes`, within that process."""
    inputs = gather_inputs(channels)
    GATHERS[name](*(x[:, :1] if i else x[:, :, :2, :2] for i, x in enumerate(inputs)))  # what torch itself takes once
    before = peak_kilobytes()
    GATHERS[name](*inputs)
    return (peak_kilobytes() - before) / 1024


def peak_kilobytes() -> int:
    """The most resident memory that this process has had, by Linux."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


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
        """x [R, S, C], views [R, S, V, C], direction [R, S, V, 4] -> [R, S, C]."""
        query, key, position = self.q(self.norm[0](x)), self.k(views), self.position(direction)
        attention = torch.softmax(self.weight(key - query[:, :, None] + position), 2)
        x = x + ((self.v(views) + position) * attention).sum(2)
        x = x + self.feed[0](self.norm[1](x))
        y = self.norm[2](x)
        x = x + self.ray(y, y, y, need_weights=False)[0]
        return x + self.feed[1](self.norm[3](x))


class ViewRayTransformer(nn.Module):
    """The size of GNT: 8 blocks of width 64 on 35 input channels per view (32 features and the colour)."""

    def __init__(self, blocks: int = 8, width: int = 64) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(35, width), nn.ReLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(ViewRayBlock(width) for _ in range(blocks))
        self.tail = nn.Linear(width, 3)

    def forward(self, maps: Tensor, uv: Tensor, direction: Tensor) -> Tensor:
        """maps [V, 35, h, w], uv [V, R, S, 2], direction [R, S, V, 4] -> colour [R, 3]."""
        views = self.head(sample_map(maps, uv).permute(2, 3, 0, 1))
        x = views.amax(2)
        for block in self.blocks:
            x = block(x, views, direction)
        return torch.sigmoid(self.tail(x.mean(1)))


@torch.inference_mode()
def rays_per_second(rounds: int, height: int, rays: int) -> tuple[dict[str, float], int]:
    """Of lift3d's renderer, a whole frame, and of the transformer, `rays` of it; and the number of photos."""
    photos = ResizedPhotos(load_scene(SCENE), height, keep=32)
    candidates = list(range(1, len(photos.scene.views)))
    lifter = SceneLifter(photos, photos.points(), make_renderer(RenderConfig()), 10, torch.device("cpu"), candidates)
    target = photos.scene.views[0].camera
    choice = lifter.choose(target)
    views = len(choice.sources)
    network, maps = ViewRayTransformer().eval(), torch.rand(views, 35, height, target.width)
    uv = torch.rand(views, rays, 192, 2) * torch.tensor([target.width, height])
    direction = torch.rand(rays, 192, views, 4)
    seconds = medians(
        {"lift3d": lambda: lifter.lift(target, choice), "transformer": lambda: network(maps, uv, direction)}, rounds
    )
    pixels = target.width * target.height
    return {"lift3d": pixels / seconds["lift3d"], "transformer": rays / seconds["transformer"]}, views


def main() -> None:
    """Print both tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--height", type=int, default=270, help="of the rendered frame, in pixels")
    parser.add_argument("--rays", type=int, default=32, help="that the transformer renders at a time")
    parser.add_argument("--channels", type=int, nargs="+", default=[64, 384, 1280])
    parser.add_argument("--peak-of", choices=GATHERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        print(added_peak(options.peak_of, options.channels[0]))  # noqa: T201
        return
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, Python {platform.python_version()}"
    lines = [f"lift3d {lift3d_cli.__version__}, torch {torch.__version__}, {machine}; medians of {options.rounds}\n"]
    lines += ["| gather | plain / fused, time | peak memory, plain | fused |", "|---|--:|--:|--:|"]
    for channels in options.channels:
        inputs = gather_inputs(channels)
        contestants = {name: functools.partial(run, *inputs) for name, run in GATHERS.items()}
        seconds = medians(contestants, options.rounds)
        peaks = [peak_megabytes(name, channels) for name in ("plain", "fused")]
        ratio = seconds["plain"] / seconds["fused"]
        lines.append(f"| {channels} channels | {ratio:.1f}x | {peaks[0]:.0f} MiB | {peaks[1]:.0f} MiB |")
    speeds, views = rays_per_second(options.rounds, options.height, options.rays)
    lines += ["\n| rays of colour, " + f"{views} photos | per second |", "|---|--:|"]
    lines += [f"| {name} | {value:,.0f} |" for name, value in speeds.items()]
    lines.append(f"| ratio | {speeds['lift3d'] / speeds['transformer']:,.0f}x |")
    print("\n".join(lines))  # noqa: T201


if __name__ == "__main__":
    main()
