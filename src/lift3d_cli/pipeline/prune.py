"""Remove from the cache what belongs to earlier versions of the photos or models."""

from __future__ import annotations

from lift3d_cli.cache.inventory import prune
from lift3d_cli.cache.renders import renders_dir
from lift3d_cli.cache.store import SceneCache
from lift3d_cli.pipeline.encode import encoded_size
from lift3d_cli.pipeline.workspace import Workspace
from lift3d_cli.scene.scene import Scene


def prune_features(scene: Scene, cache: SceneCache) -> int:
    """Delete features and photos that no longer match the scene, and all but the latest encoder of each model.

    Renders, tuned weights, points and the surfaces of the scene's photos stay. Return the bytes freed.
    """
    workspace = Workspace(scene, cache)
    latest = {encoder.name: encoder for encoder in cache.encoders()}.values()
    keep = [
        renders_dir(cache.root),
        *(path for kind in ("points", "depth-check", "check") for path in cache.array_paths(kind)),
    ]
    for index, view in enumerate(scene.views):
        keep.append(cache.photo_path(workspace.record(index)))
        keep += cache.surface_paths(view.name)
        for encoder in latest:
            record = workspace.record(index, encoded_size(encoder, view.camera))
            keep.append(cache.features_path(encoder, record))
    return prune(cache.root, keep)
