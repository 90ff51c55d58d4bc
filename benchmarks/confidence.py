"""Test if the error of rendered pixels falls with their confidence, and that of frames with the warnings of `render`.

    python benchmarks/confidence.py SCENE... --model tiny-colorizer
    python benchmarks/confidence.py SCENE... --photos 3

Photos are left out and rendered from the others, as `lift3d eval` does. Three definitions of the confidence are
compared: the one of `lifting/confidence.py`, and either of its terms alone, each times coverage.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import measuring
import torch
from torch import Tensor

import lift3d_cli.lifting.renderer as renderer_module
from lift3d_cli.config import RenderConfig
from lift3d_cli.evaluation.protocols import EncodedOnTheSpot, cells_that_count, on_grid
from lift3d_cli.geometry.grids import sample_map
from lift3d_cli.lifting.confidence import confidence
from lift3d_cli.machine.device import resolve_device
from lift3d_cli.models.registry import find_model
from lift3d_cli.pipeline.encode import to_image
from lift3d_cli.pipeline.held_out import split
from lift3d_cli.pipeline.lift import LiftedView, SceneLifter
from lift3d_cli.pipeline.renderers import make_renderer
from lift3d_cli.pipeline.trust import DOUBTFUL, LEAST_COVERAGE, MOST_DOUBTFUL
from lift3d_cli.pipeline.workspace import ResizedWorkspace
from lift3d_cli.scene.load import load_scene

BINS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.01)


@dataclass(frozen=True)
class Measured:
    """A left-out photo.

    Args:
        error: [N] squared error, averaged over red, green and blue, of the pixels that count.
        candidates: confidence [N] of these pixels, by definition.
        features: squared error [M] of the cells that count and their confidence [M], or None.
        coverage, doubtful: the frame's, which `render` warns about.
    """

    error: Tensor
    candidates: Mapping[str, Tensor]
    features: tuple[Tensor, Tensor] | None
    coverage: float
    doubtful: float


def spearman(x: Tensor, y: Tensor) -> float:  # of [N]
    """Return the rank correlation; equal values share their mean rank."""
    x, y = (_ranks(values) - (len(values) + 1) / 2 for values in (x, y))
    return float((x * y).sum() / (x.square().sum() * y.square().sum()).sqrt())


def _ranks(values: Tensor) -> Tensor:
    _, place, count = values.unique(return_inverse=True, return_counts=True)
    return (count.cumsum(0) - (count - 1) / 2).double()[place]


def ause(believed: Tensor, error: Tensor) -> float:  # of [N]
    """Return the area under the sparsification error (Ilg et al. 2018): 0 for the true order, 1 for a random one.

    The curve is the mean error of the most confident pixels over their share, minus that of the pixels with the lowest
    true error; its area is relative to that of a random order.
    """
    curve, oracle = _means(error[believed.argsort(descending=True, stable=True)]), _means(error.sort().values)
    return float((curve - oracle).mean() / (error.double().mean() - oracle.mean()))


def _means(error: Tensor) -> Tensor:
    return error.double().cumsum(0) / torch.arange(1, len(error) + 1)


def halves(believed: Tensor, error: Tensor) -> tuple[float, float]:
    """Return the PSNR of the more confident half, and of the other."""
    error = error[believed.argsort(descending=True, stable=True)]
    return psnr(error[: len(error) // 2]), psnr(error[len(error) // 2 :])


def psnr(error: Tensor) -> float:
    """Return the PSNR in dB of squared errors."""
    return -10 * math.log10(float(error.double().mean()))


def measured(scene_path: Path, options: argparse.Namespace) -> Iterator[Measured]:
    """Measure the scene's left-out photos."""
    scene, device = load_scene(scene_path), resolve_device("cpu")
    total = len(scene.views)
    if options.photos:
        sources = sorted({int((k + 0.5) * total / options.photos) for k in range(options.photos)})
        rest = [i for i in range(total) if i not in sources]
        held_out = rest[:: math.ceil(len(rest) / options.most)]
    else:
        held_out, sources = split(scene, 8)
    photos = ResizedWorkspace(scene, options.height, keep=64)
    lifter = SceneLifter(photos, photos.points(sources), make_renderer(RenderConfig(), device), 8, device, sources)
    features = {}
    if options.model:
        model = find_model(options.model).load()
        features["model"] = EncodedOnTheSpot(photos, model, device, 32)
    terms = _watch_terms()
    for i in held_out:
        camera = photos.camera(i)
        view = lifter.lift(lifter.plan(camera, lifter.choose(camera), features))
        photo = photos.resized(i, camera.width, camera.height)
        counts, believed = torch.from_numpy(photo.valid & photo.opaque), view.frame.confidence
        yield Measured(
            (view.frame.image - to_image(photo, device)).square().mean(0)[counts],
            {name: values[counts] for name, values in terms.items()},
            _of_features(view, features["model"], i, counts) if features else None,
            float(view.frame.coverage.mean()),
            float((believed < DOUBTFUL).float().mean()),
        )


def _watch_terms() -> dict[str, Tensor]:
    """Record the candidates for the confidence of each frame; returns a dict with those of the last one."""
    seen: dict[str, Tensor] = {}

    def watched(coverage: Tensor, color: Tensor, square: Tensor, spread: Tensor) -> Tensor:
        seen["colours"] = confidence(coverage, color, square, torch.zeros_like(spread))
        seen["depth"] = confidence(coverage, color, color.square().mean(0), spread)
        seen["both"] = confidence(coverage, color, square, spread)
        return seen["both"]

    renderer_module.confidence = watched
    return seen


def _of_features(view: LiftedView, source: EncodedOnTheSpot, index: int, counts: Tensor) -> tuple[Tensor, Tensor]:
    grid = view.grids["model"]
    error = (view.frame.features["model"] - on_grid(source.read(index), grid)).square().mean(0)
    centers = (grid.cell_centers())[None]
    believed = sample_map(view.frame.confidence[None, None], centers)[0, 0].reshape(error.shape)
    cells = cells_that_count(counts, grid)
    return error[cells], believed[cells]


def of_scene(frames: list[Measured]) -> dict[str, dict[str, float]]:
    """Return means over the photos, for each definition."""
    rows = {}
    for name in frames[0].candidates:
        pairs = [(frame.candidates[name], frame.error) for frame in frames]
        rows[name] = _scores(pairs)
        high, low = zip(*(halves(*pair) for pair in pairs), strict=True)
        rows[name] |= {"psnr_high": statistics.fmean(high), "psnr_low": statistics.fmean(low)}
    if frames[0].features is not None:
        rows["both, features"] = _scores([(believed, error) for error, believed in (f.features for f in frames)])
    return rows


def _scores(pairs: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    return {
        "spearman": statistics.fmean(-spearman(*pair) for pair in pairs),
        "ause": statistics.fmean(ause(*pair) for pair in pairs),
    }


def of_bins(frames: list[Measured]) -> list[dict[str, float]]:
    """Return how many pixels have a confidence in each bin, and their error."""
    believed, error = torch.cat([f.candidates["both"] for f in frames]), torch.cat([f.error for f in frames])
    rows = []
    for low, high in itertools.pairwise(BINS):
        inside = (believed >= low) & (believed < high)
        value = psnr(error[inside]) if inside.any() else math.nan
        rows.append({"from": low, "to": min(high, 1), "share": float(inside.float().mean()), "psnr": value})
    return rows


def of_frames(frames: list[Measured]) -> list[dict[str, object]]:
    """Return the PSNR of the frames that `render` warns about, and of the others."""
    groups = {
        "little seen": [f for f in frames if f.coverage < LEAST_COVERAGE],
        "doubtful": [f for f in frames if f.doubtful > MOST_DOUBTFUL],
        "neither": [f for f in frames if f.coverage >= LEAST_COVERAGE and f.doubtful <= MOST_DOUBTFUL],
    }
    rows = []
    for name, group in groups.items():
        values = sorted(psnr(frame.error) for frame in group) or [math.nan]
        rows.append({"frames": name, "count": len(group), "least": values[0], "most": values[-1]})
        rows[-1] |= {"median": statistics.median(values), "below_20": sum(value < 20 for value in values)}
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenes", type=Path, nargs="+")
    parser.add_argument("--photos", type=int, default=0, help="render from so many only; 0: all but every 8th")
    parser.add_argument("--most", type=int, default=8, help="photos to leave out, with --photos [8]")
    parser.add_argument("--height", type=int, default=240, help="of the photos [240]")
    parser.add_argument("--model", default="", help="also of the lifted features of this 2D model")
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    options = parser.parse_args()
    scenes = {path.name: list(measured(path, options)) for path in options.scenes}
    frames = [frame for of_one in scenes.values() for frame in of_one]
    result = {
        "scenes": {name: of_scene(of_one) for name, of_one in scenes.items()},
        "bins": {name: of_bins(of_one) for name, of_one in scenes.items()},
        "frames": of_frames(frames),
        "each": [{"coverage": f.coverage, "doubtful": f.doubtful, "psnr": psnr(f.error)} for f in frames],
    }
    if options.json:
        print(json.dumps(result, indent=2))  # noqa: T201
        return
    for part in ("scenes", "bins"):
        for name, rows in result[part].items():
            print(f"\n{name}\n\n{_table(rows if part == 'bins' else [{'': k, **v} for k, v in rows.items()])}")  # noqa: T201
    print(f"\n{_table(result['frames'])}")  # noqa: T201


def _table(rows: list[dict[str, object]]) -> str:
    head = list(rows[0])
    cells = [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in (row.get(k, "") for k in head)] for row in rows]
    return measuring.table(head, cells)


if __name__ == "__main__":
    measuring.run(main)
