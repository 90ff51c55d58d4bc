"""Segmentation of left-out photos by features lifted from 3, 6 and 10 others, compared with the 2D model (Table 4).

Classes are learned from strokes on one photo, or given by text, and compared with masks of other photos. Without masks,
the truth is the 2D model's segmentation of the left-out photo itself, into the same classes: that measures how well
lifting replaces the model, not how well the model segments.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.config import EvalConfig
from lift3d_cli.errors import ModelError, SceneError
from lift3d_cli.evaluation.metrics import segmentation_scores
from lift3d_cli.evaluation.protocols import Bench
from lift3d_cli.machine.progress import Progress, no_progress
from lift3d_cli.models.base import Decoder, FeatureMap, RenderedView, Segmentation
from lift3d_cli.pipeline.held_out import HeldOutPhotos
from lift3d_cli.pipeline.lift import SceneLifter
from lift3d_cli.pipeline.lifted_features import cell_points
from lift3d_cli.scene.photos import read_photo
from lift3d_cli.scene.scene import Scene

VIEWS = (3, 6, 10)
"""Source photos, as in the paper's table."""
_THING = "#ffffff"


def measure_segmentation(
    scene: Scene,
    config: EvalConfig,
    progress: Progress = no_progress,
    photos: HeldOutPhotos | None = None,
    show: Callable[[int, str, Tensor, Tensor], object] = lambda *_: None,
) -> dict[str, dict[str, float]]:
    """Segment left-out photos, lifted and in 2D.

    Args:
        scene: the scene.
        config: settings; its `text`, `strokes` or `clusters` define the classes, `masks` the truth.
        progress: see `Progress`.
        photos: see `Bench`.
        show: takes a photo's index, a method, the class of each pixel [H, W] that it finds, and the true one.

    Returns:
        By method (`lifted-3`, ...): `iou`, `accuracy`, `map`, means over the photos: of the object if there are masks,
        else of all classes.

    Raises:
        SceneError, ModelError, ResourceError: in one line.
    """
    bench = Bench(scene, config, photos)
    lifters = {f"lifted-{n}": bench.lifter(n) for n in VIEWS}
    masks = {i: _mask_path(scene, i, config.masks) for i in bench.held_out} if config.masks else {}
    todo = [i for i in bench.held_out if not config.masks or masks[i]]
    if not todo:
        name = Path(scene.views[bench.held_out[0]].name).stem
        raise SceneError(f"{config.masks}: has no mask of a photo that is left out. hint: {name}.png, white on black")
    decoders = {way: _lifted_decoder(bench, lifter, todo) for way, lifter in lifters.items()}
    decoders["2d"] = bench.decoder("segment")
    rows: dict[str, list[dict[str, float]]] = {}
    for i in progress(todo, f"segmentation {scene.root.name}", len(todo)):
        counts, found = bench.photo(i)[1], _segmented(bench, lifters, decoders, i)
        if config.masks:
            truth, classes = _read_mask(scene, i, masks[i], counts).long(), [1]
            scores = {way: _thing(segmentation, config) for way, segmentation in found.items()}
        else:
            scores = {way: segmentation.scores for way, segmentation in found.items()}
            truth = scores.pop("2d-on-photo").argmax(0)
            classes = truth[counts].unique().tolist()
        for way, values in scores.items():
            show(i, way, values.argmax(0), truth)
            rows.setdefault(way, []).append(segmentation_scores(values, truth, counts, classes))
    return {way: {key: _mean([row[key] for row in measured]) for key in measured[0]} for way, measured in rows.items()}


def _lifted_decoder(bench: Bench, lifter: SceneLifter, targets: Sequence[int]) -> Decoder:
    """Make the decoder of lifted frames: strokes grow in space over the photos that the targets are lifted from."""
    if not bench.config.strokes:
        return bench.decoder("segment")
    sources = {i for target in targets for i in lifter.choose(bench.camera(target)).sources}
    return bench.decoder("segment", sorted(sources), lifter.surfaces)


@torch.inference_mode()
def _segmented(
    bench: Bench, lifters: dict[str, SceneLifter], decoders: dict[str, Decoder], index: int
) -> dict[str, Segmentation]:
    """Segment a left-out photo by each method: lifted, the 2D model on the last rendered image, and on the photo."""
    source, camera, found = bench.source, bench.camera(index), {}
    for way, lifter in lifters.items():
        view = lifter.lift(lifter.plan(camera, lifter.choose(camera), {"model": source}))
        rendered, grid = RenderedView(view.frame.image, view.frame.coverage), view.grids["model"]
        points = cell_points(grid, camera, view.frame.depth).to(rendered.image.device)
        found[way] = decoders[way](FeatureMap(view.frame.features["model"], grid, points), rendered)
    decode = decoders["2d"]
    found["2d-on-render"] = decode(source.model.checked_encode(rendered.image), rendered)
    photo = RenderedView(bench.photo(index)[0], torch.ones_like(rendered.coverage))
    return found | {"2d-on-photo": decode(source.read(index), photo)}


def _thing(segmentation: Segmentation, config: EvalConfig) -> Tensor:  # [2, H, W]
    """Return the scores of everything else, and of the masks' object: the first prompt, or what is painted white."""
    names, wanted = segmentation.names, config.text[0] if config.text else _THING
    if wanted not in names or (not config.text and not config.strokes):
        raise ModelError(
            "--masks: are of what? hint: --text THING, or --strokes with the thing painted white and all else otherwise"
        )
    thing = names.index(wanted)
    others = [k for k in range(len(names)) if k != thing]
    return torch.stack([segmentation.scores[others].amax(0), segmentation.scores[thing]])


def _mask_path(scene: Scene, index: int, folder: Path) -> Path | None:
    """Find a photo's mask, by its path in the scene or its name alone."""
    name = Path(scene.views[index].name).with_suffix(".png")
    return next((folder / path for path in (name, name.name) if (folder / path).is_file()), None)


def _read_mask(scene: Scene, index: int, path: Path, counts: Tensor) -> Tensor:  # [H, W] bool
    """Read a mask: True where most of a pixel is not black; undistorted as its photo is."""
    whole = read_photo(replace(scene.views[index], mask_path=path)).valid
    part = F.interpolate(torch.from_numpy(whole)[None, None].float(), counts.shape, mode="area")[0, 0]
    return (part > 0.5).to(counts.device)


def _mean(values: Sequence[float]) -> float:
    """Average over the photos where it is defined."""
    defined = [value for value in values if not math.isnan(value)]
    return statistics.fmean(defined) if defined else math.nan
