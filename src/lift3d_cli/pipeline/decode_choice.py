"""Which features of a render a decode works with, and to which task."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from lift3d_cli.cache.renders import FeatureRender, Render
from lift3d_cli.config import FEATURES, MODEL_FOR_TEXT, VIEW_TASKS, DecodeConfig
from lift3d_cli.errors import CacheError, ModelError, UsageError
from lift3d_cli.models.base import Model
from lift3d_cli.models.fingerprint import is_made_by
from lift3d_cli.models.registry import ModelRef, find_recorded_model
from lift3d_cli.pipeline.decode_options import flag_of
from lift3d_cli.pipeline.undecodable import way_to, why_not


def is_view_task(render: Render, config: DecodeConfig) -> bool:
    """Tell if the task needs no model, and check that no option of models is given then."""
    if config.raw or config.task not in VIEW_TASKS:
        return False
    if any(config.task in recorded_model(render, r).spec().tasks for r in latest_features(render)):
        return False  # a model's own, such as one that estimates depth
    for name in (
        "model",
        "text",
        "strokes",
        "point",
        "view",
        "clusters",
        "style",
        "refine",
        "soft_masks",
        "source_views",
        "seed",
    ):
        if getattr(config, name):
            what = f"{flag_of(name)} does nothing here: task '{config.task}' does not use it"
            raise UsageError(f"{what}. hint: leave it out")
    return True


def latest_features(render: Render) -> list[FeatureRender]:
    """Return the last rendered features of each model, by name."""
    return [r for _, r in sorted({r.model: r for r in render.feature_renders()}.items())]


def recorded_model(render: Render, features: FeatureRender) -> ModelRef:
    """Find the model of a render's features, see `find_recorded_model`."""
    return find_recorded_model(features.ref, render.root, render.scene)


def choose_features(render: Render, config: DecodeConfig) -> tuple[FeatureRender, Model, str, bool]:
    """Choose the lifted features to decode; return them with their model, the task and whether no other can do it."""
    found = latest_features(render)
    names = [r.model for r in found]
    if not found:
        raise why_not(render, config, {})
    # Features can be shown of any model, by their principal components.
    tasks = {r.model: (*recorded_model(render, r).spec().tasks, FEATURES) for r in found}
    if config.model:
        wanted = {config.model, re.split(r"[:?]", config.model)[0]}  # a reference such as dinov2:FOLDER means its name
        found = [r for r in found if r.model in wanted]
        if not found:
            near = difflib.get_close_matches(config.model, names, 1)
            hint = f"Did you mean '{near[0]}'?" if near else way_to(render, model=config.model)
            raise CacheError(f"{render.root}: has no features of {config.model}, only of {', '.join(names)}. {hint}")
    able = [r for r in found if not config.task or config.task in tasks[r.model]]
    asked = able
    if not able:
        raise why_not(render, config, {r.model: tasks[r.model] for r in found})
    if len(able) > 1 and not config.model:
        able = _likely(render, able, config)
    if len(able) > 1 and not config.raw:
        ways = ", ".join(f"--model {r.model} --task {config.task or tasks[r.model][0]}" for r in asked)
        raise CacheError(f"{render.root}: which of its features? hint: {ways}")
    if len(able) > 1:
        raise CacheError(f"{render.root}: which of its features? hint: --model {' or --model '.join(names)}")
    (chosen,) = able
    ref = recorded_model(render, chosen)
    model = ref.load()
    task = config.task or model.spec.tasks[0]  # a model's tasks may depend on its checkpoint
    if not is_made_by(chosen.fingerprint, model, ref):
        raise ModelError(
            f"model {ref.name}: changed since its features were rendered. hint: lift3d encode, then render"
        )
    return chosen, model, task, sum(task in of_model for of_model in tasks.values()) <= 1


def _likely(render: Render, able: Sequence[FeatureRender], config: DecodeConfig) -> Sequence[FeatureRender]:
    """Choose of several: weights that are not for commercial use are taken only by name, and one model is for words."""
    likely = [r for r in able if recorded_model(render, r).spec().commercial] or able
    return [r for r in likely if config.text and r.model == MODEL_FOR_TEXT] or likely
