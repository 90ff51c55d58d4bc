"""Weights tuned to a scene: which of those in its cache belong to its photos as they are now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lift3d_cli.cache.format import key_of
from lift3d_cli.cache.tuned import Tuning, finished_tunings
from lift3d_cli.errors import CacheError
from lift3d_cli.pipeline.renderers import load_network
from lift3d_cli.pipeline.workspace import Workspace


def tuning_of(workspace: Workspace, weights: str, settings: Mapping[str, object]) -> Tuning:
    """Locate the tuning of a scene with a cache, from these weights by these settings; it may not exist."""
    content = {"photos": _photos(workspace), "weights": load_network(weights)[1], "settings": dict(settings)}
    return Tuning.of(workspace.cache.root, content)


def find_tuned(workspace: Workspace, weights: str) -> Path:
    """Find the last used tuning of a scene as it is now that began with `weights` ("" for those that ship).

    Raises:
        CacheError: if there are none.
    """
    root, scene = workspace.cache.root, workspace.scene.root
    hint = f"hint: lift3d tune {scene}"
    found = finished_tunings(root)
    if not found:
        raise CacheError(f"{root}: no weights are tuned to this scene. {hint}")
    photos = _photos(workspace)
    found = [tuning for tuning in found if tuning.content.get("photos") == photos]
    if not found:
        raise CacheError(f"{root}: photos or poses have changed since the weights were tuned to them. {hint}")
    identity = load_network(weights)[1]
    found = [tuning for tuning in found if tuning.content.get("weights") == identity]
    if not found:
        hint += f" --weights {weights}" if weights else ""
        raise CacheError(f"{root}: other weights than {weights or 'those that ship'} were tuned to this scene. {hint}")
    better = [tuning for tuning in found if tuning.weights_path.is_file()]
    if not better:
        raise CacheError(f"{root}: tuning made no weights better than it began with. hint: render without --tuned")
    return better[-1].weights_path


def _photos(workspace: Workspace) -> str:
    """Return the key of a scene's photos and their poses."""
    photos = [[workspace.record(i).key, workspace.camera(i).w2c.tolist()] for i in range(workspace.num_photos)]
    return key_of("tuned-photos", {"photos": photos})
