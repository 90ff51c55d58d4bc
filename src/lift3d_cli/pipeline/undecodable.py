"""Why a render's features cannot be decoded to what was asked for, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from contextlib import suppress

from lift3d_cli.cache.renders import Render, cache_of
from lift3d_cli.cache.store import SceneCache
from lift3d_cli.config import FEATURES, POINTS, VIEW_TASKS, DecodeConfig
from lift3d_cli.errors import CacheError, Lift3dError, ModelError, UsageError
from lift3d_cli.models.registry import list_models


def why_not(render: Render, config: DecodeConfig, tasks: Mapping[str, Sequence[str]]) -> Lift3dError:
    """Explain that no model of a render can do a task.

    Args:
        render: the render.
        config: what was asked for.
        tasks: by name, those of each model to choose from; empty where the render has colour only.
    """
    task, needs_none = config.task, (*VIEW_TASKS, POINTS)
    if config.raw and task in needs_none:
        what = f"--raw {config.raw}: writes a model's features, which task '{task}' does not use"
        return UsageError(f"{what}. hint: leave out one of them")
    here = {name for of_model in tasks.values() for name in of_model} | set(() if config.raw else needs_none)
    known = here | _all_tasks() if task and task not in here else here
    if task and task not in known:
        # What this render has is the likelier guess.
        near = difflib.get_close_matches(task, sorted(here), 1) or difflib.get_close_matches(task, sorted(known), 1)
        ways = f"Did you mean '{near[0]}'?" if near else f"hint: this render has {', '.join(sorted(here))}"
        return UsageError(f"{render.root}: there is no task '{task}'. {ways}")
    if not tasks:
        also = f"; {', '.join(VIEW_TASKS)} and {POINTS} need none"
        return CacheError(f"{render.root}: has colour only, no features of any model{also}. {way_to(render, task)}")
    of = ", ".join(tasks)
    return CacheError(f"{render.root}: none of its models ({of}) can do '{task}'. {way_to(render, task)}")


def way_to(render: Render, task: str = "", model: str = "") -> str:
    """Say how a render gets the features of a model, or of one that can do a task: an encoded one, if there is one."""
    root = cache_of(render.root)
    encoders = SceneCache(root).encoders()[::-1] if root else []
    able = [
        e.name for e in encoders if task in ("", FEATURES, *e.spec.get("tasks", ())) and model in ("", e.name, e.ref)
    ]
    if able:
        return f"hint: lift3d render with the same poses and --model {able[0]} adds them"
    return f"hint: lift3d encode SCENE --model {model or 'MODEL'}, then lift3d render again"


def _all_tasks() -> set[str]:
    """Return the tasks of all models that can be lifted."""
    found = set()
    for ref in list_models():
        with suppress(ModelError):  # it cannot be used
            found.update(ref.spec().tasks)
    return found
