"""What models of a cell a pixel add to a frame's colour: `python benchmarks/fine_models.py --scene scene/`.

Colour alone, and with the features of each model, take turns on one frame between two photos: from photos as large as
the frame, and from those of the scene as they are, encoded at most as large as the model's `max_size` or, with
`--full`, as large as they are. Photos, features and descriptors are in memory, as for all but the first frames of a
path. Features are random projections of the photos with the channels, stride and scale that the model has, since no
time of lifting depends on their values, and encoders of others may be slow or need weights. On a CPU the times are
those of the processor, which other programs disturb little.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import measuring
import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli import load_scene
from lift3d_cli.config import RenderConfig
from lift3d_cli.machine.device import resolve_device
from lift3d_cli.models.base import FeatureMap, Model, ModelSpec
from lift3d_cli.models.registry import find_model
from lift3d_cli.pipeline.encode import to_image
from lift3d_cli.pipeline.lift import PHOTOS_PER_VIEW, SceneLifter
from lift3d_cli.pipeline.renderers import make_renderer
from lift3d_cli.pipeline.workspace import Recent, ResizedWorkspace, Workspace, shrunk_size

MODELS = ("rgb", "tiny-superres", "swin2sr", "resshift")


class StandIn(Model):
    """A model with another's channels, stride and scale, whose features are a random projection of the photo."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(spec.channels, 3, 3, 3, generator=generator)

    def encode(self, image: Tensor) -> FeatureMap:
        """See `Model`."""
        grid = self.grid(image.shape[2], image.shape[1])
        data = F.conv2d(image[None], self.weight.to(image), padding=1)
        return FeatureMap(F.interpolate(data, (grid.height, grid.width), mode="area")[0].half(), grid)


class Encoded:
    """Features of photos at most as large as `max_size`, made when they are first read: a `FeatureSource`."""

    def __init__(self, photos: Workspace, model: Model, max_size: int | None, keep: int) -> None:
        self.model = model
        self._photos, self._max_size = photos, max_size
        self._recent: Recent[FeatureMap] = Recent(keep)

    def size(self, index: int) -> tuple[int, int]:
        """See `FeatureSource`."""
        return shrunk_size(self._photos.camera(index), self._max_size)

    def read(self, index: int, keep: bool = True) -> FeatureMap:
        """See `FeatureSource`."""
        photo = partial(self._photos.resized, index, *self.size(index))
        return self._recent.get(index, lambda: self.model.checked_encode(to_image(photo())))


def medians(runs: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
    """Return each run's median seconds, of the processor on a CPU; they take turns, and the first is not counted."""
    clock = partial(measuring.clock, device) if device.type == "cuda" else time.process_time
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            start = clock()
            run()
            times[name].append(clock() - start)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def rows_of(height: int, models: list[str], options: argparse.Namespace) -> list[dict]:
    """Measure colour and each model, from photos of a height in pixels; 0 for their own."""
    device = resolve_device(options.device)
    keep = PHOTOS_PER_VIEW * options.views * (1 + len(models))
    photos = ResizedWorkspace(load_scene(options.scene), height, keep)
    lifter = SceneLifter(photos, photos.points(), make_renderer(RenderConfig(), device), options.views, device)
    target = measuring.novel_pose(photos.scene, options.height)
    choice = lifter.choose(target)
    lifter.find_surfaces([choice])
    sources = {"colour": {}}
    for name in models:
        spec = find_model(name).spec()
        sources[name] = {name: Encoded(photos, StandIn(spec), None if options.full else spec.max_size, keep)}

    def lift(features: dict[str, Encoded]) -> None:
        lifter.lift(lifter.plan(target, choice, features))

    seconds = medians({n: partial(lift, f) for n, f in sources.items()}, options.rounds, device)
    photo, rows = photos.camera(choice.sources[0]), []
    for name, features in sources.items():
        grids = [found.target for found in lifter.plan(target, choice, features).features.values()]
        cells = grids[0].width * grids[0].height if grids else 0
        row = {"frame": (target.width, target.height), "photos": (photo.width, photo.height), "model": name}
        row |= {"channels": features[name].model.spec.channels if features else 3, "cells": cells}
        rows.append(row | {"seconds": seconds[name], "ratio": seconds[name] / seconds["colour"]})
    return rows


def markdown(rows: list[dict]) -> str:
    """Format the table."""
    head = ["frame with", "photos", "channels", "cells / pixels", "s", "/ colour"]
    lines = []
    for row in rows:
        cells = f"{row['cells'] / (row['frame'][0] * row['frame'][1]):.2f}" if row["cells"] else ""
        size = "x".join(map(str, row["photos"]))
        lines.append([row["model"], size, str(row["channels"]), cells, f"{row['seconds']:.2f}", f"{row['ratio']:.2f}x"])
    width, height = rows[0]["frame"]
    return f"A frame of {width}x{height}.\n\n{measuring.table(head, lines)}"


def main() -> None:
    """Measure and print the table."""
    options = measuring.parser(__doc__, rounds=3)
    options.add_argument("--scene", type=Path, default=measuring.SCENE)
    options.add_argument("--height", type=int, default=270, help="of the frame, in pixels [270]")
    options.add_argument("--views", type=int, default=RenderConfig.views, help="source photos [8]")
    options.add_argument("--model", action="append", help=f"may be repeated [{', '.join(MODELS)}]")
    options.add_argument("--full", action="store_true", help="encode photos as large as they are")
    options = options.parse_args()
    models = options.model or list(MODELS)
    rows = [row for height in (options.height, 0) for row in rows_of(height, models, options)]
    measuring.report(options, {"rows": rows}, markdown(rows))


if __name__ == "__main__":
    measuring.run(main)
