"""eval --suite: all protocols for several scenes and models, as one Markdown document. And means over scenes."""

from __future__ import annotations

import datetime
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import lift3d_cli
from lift3d_cli.config import AblationConfig, EvalConfig
from lift3d_cli.errors import ModelError
from lift3d_cli.evaluation import ablation
from lift3d_cli.evaluation.consistency import measure_consistency
from lift3d_cli.evaluation.cost import measure_cost
from lift3d_cli.evaluation.protocols import evaluate
from lift3d_cli.evaluation.segmentation import VIEWS, measure_segmentation
from lift3d_cli.machine.progress import Progress, no_progress
from lift3d_cli.machine.provenance import commit
from lift3d_cli.models.registry import find_model
from lift3d_cli.pipeline.held_out import HeldOutPhotos
from lift3d_cli.scene.scene import Scene

# Tasks without `consistency`, which compares images: a segmentation is not one, and principal colours are no result.
_NO_PICTURES = ("segment", "features")
# The parts of a result that are averaged over scenes.
_MEASURED = ("mean", "pictures", "errors", "segmentation", "consistency", "cost")


def measure_suite(
    scene: Scene, config: EvalConfig, models: Sequence[str], progress: Progress = no_progress
) -> dict[str, object]:
    """Run all protocols on one scene.

    Args:
        scene: the scene.
        config: settings of all protocols, except for its model.
        models: models whose features are lifted.
        progress: see `Progress`.

    Returns:
        JSON values: `pictures` by row; `errors`, see `ablate`; `segmentation`, `consistency` and `cost` by model; and
        why something is `not_measured`.

    Raises:
        SceneError, ModelError, ResourceError: in one line.
    """
    photos = HeldOutPhotos(scene, config.height, config.every, config.views)
    bare = replace(config, model="")
    settings = {f"{n} photos": {"views": n} for n in sorted({*VIEWS, config.views})}
    settings[f"training-free, {config.views} photos"] = {"variant": "training-free"}
    pictures = {row: evaluate(scene, replace(bare, **what), progress, photos) for row, what in settings.items()}
    common = {f: getattr(config, f) for f in ("every", "height", "views", "device", "memory", "weights")}
    result = ablation.ablate(scene, AblationConfig(tuple(models), **common), progress)
    result["pictures"] = {row: measured["mean"] for row, measured in pictures.items()}
    result["not_measured"] = dict(next(iter(pictures.values()))["not_measured"])
    if not config.edit_text:
        result["not_measured"]["editing"] = (
            "no captions. hint: --edit-text BEFORE AFTER, and a model with the task edit"
        )
    result |= {"segmentation": {}, "consistency": {}, "cost": {}}

    def add(part: str, name: str, measure: Callable[..., object], settings: EvalConfig) -> None:
        try:
            result[part][name] = measure(scene, settings, progress, photos)
        except ModelError as e:  # a protocol that one model does not support may work with others
            result["not_measured"][f"{part} of {name}"] = str(e)

    for ref in models:
        own, spec = replace(config, model=ref, task=""), find_model(ref).load().spec
        add("segmentation", spec.name, measure_segmentation, own)
        for task in spec.tasks:
            if task not in _NO_PICTURES:
                text = config.edit_text if task == "edit" else None
                add("consistency", f"{spec.name}, {task}", measure_consistency, replace(own, task=task, edit_text=text))
        add("cost", spec.name, measure_cost, own)
    return result


def mean_over(results: Sequence[object]) -> object:
    """Average numbers, or dicts of them key by key, ignoring missing and infinite ones; None where none is left."""
    if isinstance(results[0], Mapping):
        keys = dict.fromkeys(key for result in results for key in result)
        return {key: mean_over([result[key] for result in results if key in result]) for key in keys}
    numbers = [x for x in results if isinstance(x, (int, float)) and math.isfinite(x)]
    return statistics.fmean(numbers) if numbers else None


def over_scenes(results: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """Combine results of several scenes, from `evaluate` or `measure_suite`, with their means."""
    means = {
        part: mean_over([result[part] for result in results]) for part in _MEASURED if part in (results or [{}])[0]
    }
    not_measured = {what: why for result in results for what, why in result["not_measured"].items()}
    rows = [{"name": result["scene"], **result.get("mean", {})} for result in results]
    return means | {"not_measured": not_measured, "views": rows, "scenes": list(results)}


def as_markdown(results: Sequence[Mapping[str, object]]) -> str:
    """Format results of `measure_suite` for several scenes with the same settings as a document."""
    first = results[0]
    version = f"lift3d {lift3d_cli.__version__}, commit {commit() or 'unknown'}, {datetime.date.today().isoformat()}"
    parts = [
        f"{version}. Every {first['every']}th photo left out, height {first['height']}, up to {first['num_views']} "
        "source photos where no other number is said.",
        "## Pictures (PSNR / SSIM / LPIPS)",
        _table([result["pictures"] for result in results], results, psnr="{:.2f}", ssim="{:.3f}", lpips="{:.3f}"),
        "## What each part is worth (Table 3: relative error of features, absolute in brackets)",
        ablation.as_markdown(results).rstrip(),
        "## Segmentation (Table 4: IoU / accuracy / mAP)",
        *_by_name("segmentation", results, iou="{:.3f}", accuracy="{:.3f}", map="{:.3f}"),
        "## View consistency (RMSE / chroma / LPIPS)",
        *_by_name("consistency", results, rmse="{:.4f}", chroma="{:.2f}", lpips="{:.3f}"),
    ]
    edits = _by_name("consistency", results, direction_similarity="{:.3f}", direction_consistency="{:.3f}")
    parts += ["## Editing (Table 5: direction similarity / direction consistency)", *edits] if edits else []
    seconds = dict.fromkeys(("t_enc", "t_rend", "t_lift", "t_dec"), "{:.3f}")
    parts += ["## Cost (appendix B: seconds of t_enc / t_rend / t_lift / t_dec / frames to break even, if ever)"]
    parts.append(_table([result["cost"] for result in results], results, **seconds, break_even="{:.0f}"))
    missing = {what: why for result in results for what, why in result["not_measured"].items()}
    return "\n\n".join(parts + [f"{what}: not measured ({why})" for what, why in missing.items()]) + "\n"


def _by_name(part: str, results: Sequence[Mapping], **formats: str) -> list[str]:
    """Format a table for each model of a part, if it has any of these numbers."""
    tables = []
    for name in dict.fromkeys(name for result in results for name in result[part]):
        rows = [_flat(result[part].get(name, {})) for result in results]
        if any(key in formats for row in rows for numbers in row.values() for key in numbers):
            tables += [f"**{name}**", _table(rows, results, **formats)]
    return tables


def _flat(rows: Mapping) -> Mapping:
    """Flatten rows of pairs of frames, joining both names."""
    deep = {
        f"{outer}, {inner}": numbers
        for outer, row in rows.items()
        for inner, numbers in row.items()
        if isinstance(numbers, Mapping)
    }
    return deep or rows


def _table(measured: Sequence[Mapping], results: Sequence[Mapping], **formats: str) -> str:
    """Format a column per scene and their mean, from the numbers in `measured` that have a format."""
    names = [f"`{result['scene']}`" for result in results]
    lines = [f"| | {' | '.join(names)} | mean |", "|---|" + "--:|" * (len(names) + 1)]
    mean = mean_over(measured)
    for row in mean:
        cells = []
        for numbers in (*(m.get(row, {}) for m in measured), mean[row]):
            shown = [(numbers[key], text) for key, text in formats.items() if key in numbers]
            cells.append(" / ".join("–" if x is None else text.format(x) for x, text in shown) or "–")
        lines.append(f"| `{row}` | {' | '.join(cells)} |")
    return "\n".join(lines)
