"""ablate: how much each part of the method, and other ways to get features, matter for their quality (Table 3)."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from torch import Tensor

from lift3d_cli.config import AblationConfig, RenderConfig
from lift3d_cli.evaluation.baselines import BestBlend, NearestView
from lift3d_cli.evaluation.metrics import feature_mse
from lift3d_cli.evaluation.protocols import EncodedOnTheSpot, cells_that_count, on_grid
from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.geometry.grids import FeatureGrid
from lift3d_cli.lifting.correction.corrector import Corrector
from lift3d_cli.machine.device import resolve_device
from lift3d_cli.machine.progress import Progress, no_progress
from lift3d_cli.models.base import FeatureMap
from lift3d_cli.models.registry import find_model
from lift3d_cli.pipeline.held_out import HeldOutPhotos
from lift3d_cli.pipeline.lift import LiftedView
from lift3d_cli.pipeline.renderers import load_prediction, make_renderer
from lift3d_cli.scene.scene import Scene

ROWS = {
    "full": "two stages and corrector",
    "single-stage": "corrector, but samples all along the ray",
    "no-correction": "two stages, weights of the colours",
    "single-stage-no-correction": "neither",
    "feature-prediction": "a head regresses the feature",
    "training-free": "no network",
    "2d-on-render": "the 2D model on the rendered colour",
    "nearest-photo": "the photo nearest in direction",
    "oracle": "best blend of the same photos, knowing the truth",
    "crossed-oracle": "half of the channels by what suits the other half",
}
"""The rows of the table, with a description."""
Errors = dict[str, dict[str, tuple[float, float]]]
"""By model and row: mean squared error, absolute and relative to the features' variance."""


class _Ablation:
    """One scene, prepared for measuring view by view."""

    def __init__(self, scene: Scene, config: AblationConfig) -> None:
        device = resolve_device(config.device)
        self.photos = HeldOutPhotos(scene, config.height, config.every, config.views)
        models = [find_model(name).load() for name in config.models]
        self.sources = {m.spec.name: EncodedOnTheSpot(self.photos, m, device, 3 * config.views) for m in models}
        settings = RenderConfig(memory=config.memory, weights=config.weights)
        renderers = {v: make_renderer(settings, device, v) for v in ("full", "single-stage", "training-free")}
        self.lifters = {name: self.photos.lifter(renderer, device) for name, renderer in renderers.items()}
        corrector = renderers["full"].corrector
        # The correctors by row, for the rows that share one pass of a renderer.
        self.correctors: dict[str, dict[str, Corrector | None]] = {
            "full": {
                "full": corrector,
                "no-correction": None,
                "feature-prediction": load_prediction(corrector, device),
                "nearest-photo": NearestView(),
            },
            "single-stage": {"single-stage": corrector, "single-stage-no-correction": None},
            "training-free": {"training-free": None},
        }

    def measure(self, index: int) -> Errors:
        """Measure the errors of every row at one left-out photo."""
        camera, counts = self.photos.camera(index), self.photos.truth(index)[1]
        truths = {model: source.read(index) for model, source in self.sources.items()}
        errors: Errors = {model: {} for model in self.sources}
        for name, correctors in self.correctors.items():
            view = self._lift(name, camera, truths, correctors)
            for key, features in view.frame.features.items():
                model, row = key
                grid = view.grids[key]
                errors[model][row] = self._error(features, truths[model], grid, counts)
            if name == "full":
                for model, source in self.sources.items():
                    again = source.model.checked_encode(view.frame.image)
                    grid = view.grids[model, "full"]
                    errors[model]["2d-on-render"] = self._error(on_grid(again, grid), truths[model], grid, counts)
        return errors

    def _lift(
        self, name: str, camera: Camera, truths: Mapping[str, FeatureMap], correctors: Mapping[str, Corrector | None]
    ) -> LiftedView:
        """Render once for all models; the features are by (model, row)."""
        by_model = {(model, row): part for model in self.sources for row, part in correctors.items()}
        if name == "full":
            for model, truth in truths.items():
                by_model[model, "oracle"] = BestBlend(truth)
                by_model[model, "crossed-oracle"] = BestBlend(truth, is_crossed=True)
        features = {key: self.sources[key[0]] for key in by_model}
        lifter = self.lifters[name]
        return lifter.lift(lifter.plan(camera, lifter.choose(camera), features, by_model))

    def _error(self, features: Tensor, truth: FeatureMap, grid: FeatureGrid, counts: Tensor) -> tuple[float, float]:
        cells = cells_that_count(counts.to(features.device), grid)
        return feature_mse(features, on_grid(truth, grid), cells)


def ablate(scene: Scene, config: AblationConfig, progress: Progress = no_progress) -> dict[str, object]:
    """Measure every row of the table on the left-out photos of one scene.

    Returns:
        JSON values: settings, and `errors` by model and row: `mse` and `mse_relative`, means over the photos.

    Raises:
        SceneError, ModelError, ResourceError: in one line.
    """
    ablation = _Ablation(scene, config)
    held_out = ablation.photos.held_out
    measured = [ablation.measure(i) for i in progress(held_out, f"ablate {scene.root.name}", len(held_out))]
    errors = {model: {row: _mean([m[model][row] for m in measured]) for row in ROWS} for model in ablation.sources}
    return {
        "scene": scene.root.name,
        "photos": ablation.photos.photos_digest(),
        "every": config.every,
        "height": config.height,
        "num_views": config.views,
        "num_photos": len(held_out),
        "errors": errors,
    }


def _mean(errors: Sequence[tuple[float, float]]) -> dict[str, float]:
    mse, relative = (statistics.fmean(values) for values in zip(*errors, strict=True))
    return {"mse": mse, "mse_relative": relative}


def as_markdown(results: Sequence[Mapping[str, object]]) -> str:
    """Format results of several scenes: a table per model, a column per scene, and the mean over the scenes."""
    scenes = [str(result["scene"]) for result in results]
    parts = []
    for model in results[0]["errors"]:
        lines = [
            f"**{model}**\n",
            "| | " + " | ".join(f"`{scene}`" for scene in scenes) + " | mean |",
            "|---|" + "--:|" * (len(scenes) + 1),
        ]
        for row, what in ROWS.items():
            cells = [result["errors"][model][row] for result in results]
            mean = {key: statistics.fmean(cell[key] for cell in cells) for key in ("mse", "mse_relative")}
            numbers = [f"{cell['mse_relative']:.3f} ({cell['mse']:.3g})" for cell in [*cells, mean]]
            lines.append(f"| `{row}`: {what} | " + " | ".join(numbers) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"
