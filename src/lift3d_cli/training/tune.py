"""tune: go on training the network on one scene's own photos, for as long as photos that are kept back gain by it.

Each example leaves one photo out and renders it from others, as in every training of the renderer. Some photos are kept
back: they are neither rendered nor rendered from. Their PSNR says which weights are the best, and when to stop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

import lift3d_cli
from lift3d_cli.config import TrainConfig, TuneConfig
from lift3d_cli.machine.atomic import write_atomic
from lift3d_cli.machine.device import resolve_device
from lift3d_cli.machine.progress import Progress, no_progress
from lift3d_cli.pipeline.renderers import load_network
from lift3d_cli.pipeline.tuned import tuning_of
from lift3d_cli.pipeline.workspace import Workspace
from lift3d_cli.scene.scene import Scene
from lift3d_cli.training import curves, loop
from lift3d_cli.training.publish import shipped
from lift3d_cli.training.tune_task import BEST, TuneTask, photos_kept_back, without

# How many scores in a row, and which part of the minutes, may pass without a better one: what is lost while the
# learning rate is high comes back when it falls.
_PATIENCE_SCORES, _PATIENCE = 3, 0.4
_BATCH_CPU, _BATCH_GPU = (2, 8), 12

Report = Callable[[Mapping[str, float]], None]


@dataclass(frozen=True)
class Outcome:
    """What came of a tuning.

    Args:
        psnr_before: mean PSNR of the photos kept back in dB, with the initial weights.
        psnr: the same with the best weights; equal if none are better.
        share: share of the tuned weights in the best ones; 0 if none are better than the initial ones.
        steps: number of training steps.
        minutes: duration of the tuning.
        num_photos: number of photos to learn from.
        kept_back: names of the photos kept back.
    """

    psnr_before: float
    psnr: float
    share: float
    steps: int
    minutes: float
    num_photos: int
    kept_back: Sequence[str]


def tune_scene(
    workspace: Workspace, config: TuneConfig, report: Report, progress: Progress = no_progress
) -> tuple[Path | None, Outcome]:
    """Tune to a scene with a cache, and keep the result there; a finished result is not made again.

    Args:
        workspace: the scene.
        config: settings.
        report: called with the step, minutes and PSNR of each score.
        progress: see `Progress`.

    Returns:
        The file of the weights, None if none are better than the initial ones; and the outcome.

    Raises:
        SceneError, CacheError, ModelError, ResourceError: in one line.
    """
    config = replace(config, batch=_batch(config))
    settings = {k: v for k, v in asdict(config).items() if k not in ("weights", "device")}
    tuning = tuning_of(workspace, config.weights, settings | {"version": lift3d_cli.__version__})
    facts = tuning.facts()
    if facts is None:
        state, outcome = tune(workspace.scene, config, tuning.root, report, progress, workspace)
        if state is not None:
            write_atomic(tuning.weights_path, safetensors.torch.save(state))
        facts = asdict(outcome)
        tuning.finish(facts)
        for name in (loop.CHECKPOINT, BEST):
            (tuning.root / name).unlink(missing_ok=True)
    outcome = Outcome(**facts)
    return (tuning.weights_path if outcome.share else None), outcome


def tune(
    scene: Scene,
    config: TuneConfig,
    run: Path,
    report: Report,
    progress: Progress = no_progress,
    workspace: Workspace | None = None,
) -> tuple[dict[str, Tensor] | None, Outcome]:
    """Tune to a scene, or go on with a tuning that was interrupted.

    Args:
        scene: 3 photos or more; no other is looked at.
        config: settings.
        run: folder for the checkpoint, the best weights and the learning curve.
        report: called with the step, minutes and PSNR of each score.
        progress: see `Progress`.
        workspace: workspace of the scene, to find its points in a cache.

    Returns:
        The weights as they ship, None if none are better than the initial ones; and the outcome.

    Raises:
        SceneError, ModelError, ResourceError: in one line.
    """
    kept_back = photos_kept_back(scene)
    learned = [i for i in range(len(scene.views)) if i not in kept_back]
    # Without the photos kept back: with them, they would say where the surfaces are.
    scene = replace(scene, points=(workspace or Workspace(scene, None)).points(learned))
    network = load_network(config.weights)[0]
    settings = _train_config(config, run)
    torch.manual_seed(config.seed)
    task = TuneTask(settings, network, resolve_device(config.device), scene, kept_back)
    try:
        before = task.begin()
        rows = curves.read_curves(run / curves.CURVES)
        report({"step": 0, "minutes": 0.0, "psnr": before})
        for row in loop.train(settings, task, lambda items, _, total: progress(items, "tune", total)):
            report(row)
            rows = curves.read_curves(run / curves.CURVES)
            if _has_fallen(rows, config.minutes):
                break
        share, psnr = task.finish()
    finally:
        task.close()
    names = [scene.views[i].name for i in kept_back]
    outcome = Outcome(before, psnr, share, int(rows[-1]["step"]), rows[-1]["minutes"], len(learned), names)
    return (shipped(task.network) if share else None), outcome


def tune_without(
    scene: Scene,
    held_out: Sequence[int],
    config: TuneConfig,
    folder: Path,
    report: Report,
    progress: Progress = no_progress,
) -> tuple[str, Outcome]:
    """Tune to a scene as if some of its photos were not there, for an evaluation on these.

    Args:
        scene: the scene.
        held_out: indices of the photos that are not looked at.
        config: settings.
        folder: an empty folder.
        report: see `tune`.
        progress: see `Progress`.

    Returns:
        The best weights, as settings name them: a file, or the initial ones; and the outcome.

    Raises:
        SceneError, ModelError, ResourceError: in one line.
    """
    state, outcome = tune(without(scene, held_out), config, folder, report, progress)
    if state is None:
        return config.weights, outcome
    path = folder / "tuned.safetensors"
    write_atomic(path, safetensors.torch.save(state))
    return str(path), outcome


def _has_fallen(rows: Sequence[Mapping[str, float]], minutes: float) -> bool:
    """Tell if the PSNR has not improved for so long that no better one is to be expected."""
    best = max(range(len(rows)), key=lambda i: rows[i]["psnr"])
    since = rows[-1]["minutes"] - rows[best]["minutes"]
    return len(rows) - 1 - best >= _PATIENCE_SCORES and since >= _PATIENCE * minutes


def _train_config(config: TuneConfig, run: Path) -> TrainConfig:
    return TrainConfig(
        weights=config.weights,
        run=run,
        minutes=config.minutes,
        batch=_batch(config),
        learning_rate=config.learning_rate,
        height=config.height or 10**6,
        procedural=0.0,
        seed=config.seed,
        resume=True,
    )


def _batch(config: TuneConfig) -> int:
    """Choose the number of examples a step: as the settings say, or as many as learn side by side."""
    if config.batch:
        return config.batch
    if resolve_device(config.device).type != "cpu":
        return _BATCH_GPU
    least, most = _BATCH_CPU
    return min(most, max(least, torch.get_num_threads()))
