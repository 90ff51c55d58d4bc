"""What shells complete: names of models, tasks and renders. Fast, so nothing here imports torch; silent on errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lift3d_cli.config import FEATURES, NO_MODEL, POINTS, VIEW_TASKS
from lift3d_cli.errors import Lift3dError

if TYPE_CHECKING:
    from lift3d_cli.cache.format import EncoderRecord


def models(incomplete: str) -> list[str]:
    """Complete the name of a model that can encode."""
    from lift3d_cli.models.registry import list_models

    return _starting([ref.name for ref in list_models()], incomplete)


def encoded_models(incomplete: str) -> list[str]:
    """Complete the name of a model whose features the last command's scene has."""
    return _starting([encoder.name for encoder in _encoders()], incomplete)


def models_to_lift(incomplete: str) -> list[str]:
    """Complete what `render --model` takes: an encoded model, or none."""
    return _starting([*(encoder.name for encoder in _encoders()), NO_MODEL], incomplete)


def one_of(values: Sequence[str]) -> Callable[[str], list[str]]:
    """Make the completion of an option with a fixed set of values, which the core checks."""

    def complete(incomplete: str) -> list[str]:
        return _starting(list(values), incomplete)

    return complete


def tasks(incomplete: str) -> list[str]:
    """Complete a task that needs no model, or that a model of the last command's scene can do."""
    encoders = _encoders()
    of_models = [str(task) for encoder in encoders for task in encoder.spec.get("tasks", ())]
    of_models += [FEATURES] if encoders else []
    return _starting([*VIEW_TASKS, POINTS, *of_models], incomplete)


def renders(incomplete: str) -> list[str]:
    """Complete the folder of a render of the last command's scene."""
    from lift3d_cli.cache.renders import is_render, renders_dir

    root, here = _cache_root(), Path.cwd()
    folders = sorted(renders_dir(root).glob("*/")) if root else []
    found = [folder for folder in folders if is_render(folder)]
    return _starting([str(f.relative_to(here) if f.is_relative_to(here) else f) for f in found], incomplete)


def _starting(names: list[str], incomplete: str) -> list[str]:
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]


def _cache_root() -> Path | None:
    from lift3d_cli.cache.session import recall

    try:
        session = recall()
        return session.cache_root() if session else None
    except Lift3dError:
        return None


def _encoders() -> list[EncoderRecord]:
    from lift3d_cli.cache.store import SceneCache

    root = _cache_root()
    return SceneCache(root).encoders() if root else []
