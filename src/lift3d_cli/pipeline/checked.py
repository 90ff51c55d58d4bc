"""The photos' verdict on a scene, kept in its cache, and the scene as it is used then."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from lift3d_cli.cache.format import key_of
from lift3d_cli.cache.store import SceneCache
from lift3d_cli.errors import CacheError
from lift3d_cli.scene.photo_check import Verdict, check_photos
from lift3d_cli.scene.scene import Scene

_KIND = "check"


def checked(scene: Scene, cache: SceneCache | None) -> tuple[Scene, Verdict]:
    """Check a scene by its photos, once; return it without points that contradict them, and the verdict.

    Args:
        scene: the scene.
        cache: where the verdict is kept, or None.

    Raises:
        SceneError: if a photo cannot be read.
        ResourceError, CacheError: if the disk is full or the folder cannot be written.
    """
    key = _key(scene)
    try:
        if cache is None:
            raise CacheError("no cache")
        verdict = Verdict(**json.loads(cache.read_arrays(_KIND, key)["verdict"].tobytes()))
    except (CacheError, KeyError):
        verdict = check_photos(scene)
        if cache is not None:
            text = json.dumps(verdict.as_dict()).encode()
            cache.write_arrays(_KIND, key, {"verdict": np.frombuffer(text, dtype=np.uint8)})
    return (scene if verdict.points_fit else replace(scene, points=None)), verdict


def _key(scene: Scene) -> str:
    """Identify what the verdict depends on; of a photo its size and time, as hashing all of them takes as long."""
    views = []
    for view in scene.views:
        stat, camera = view.image_path.stat(), view.camera
        lens = None if view.distortion is None else [view.distortion.model, list(view.distortion.coeffs)]
        views.append([view.name, stat.st_size, stat.st_mtime_ns, camera.K.tolist(), camera.w2c.tolist(), lens])
    points = scene.points
    summary = None if points is None else [len(points), points.mean(axis=0).tolist(), points.std(axis=0).tolist()]
    return key_of(_KIND, {"views": views, "points": summary})
