"""Where the cache of a scene is. Needs no torch."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from lift3d_cli.cache.format import slug
from lift3d_cli.errors import CacheError


class CacheLocation(NamedTuple):
    """A scene's cache folder, which need not exist yet, and a line for the user if it is not where one would look."""

    path: Path
    note: str | None = None


def cache_dir(scene_root: Path, cache_option: str | Path | None = None) -> CacheLocation:
    """Decide where the cache of a scene is; makes nothing.

    In this order: a folder of its own within `cache_option`, within the folder that `LIFT3D_CACHE` names,
    `<scene>/.lift3d`, and where that cannot be written, within `$XDG_CACHE_HOME/lift3d`.

    Args:
        scene_root: the scene's folder.
        cache_option: what `--cache` said, or None.

    Raises:
        CacheError: if a folder of the user's is needed and there is no home.
    """
    scene = scene_root.resolve()  # one cache, whichever link leads to the scene
    chosen = cache_option or os.environ.get("LIFT3D_CACHE")
    if chosen:
        return CacheLocation(_within(_expand(Path(chosen)), scene))
    default = scene_root / ".lift3d"
    if os.access(default if os.path.exists(default) else scene_root, os.W_OK | os.X_OK):
        return CacheLocation(default)
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))  # a relative one is to be ignored, says the XDG specification
    path = _within((xdg if xdg.is_absolute() else _expand(Path("~/.cache"))) / "lift3d", scene)
    return CacheLocation(path, f"{scene_root} cannot be written: its cache is {path}; --cache DIR chooses another")


def _within(folder: Path, scene: Path) -> Path:
    """A folder for this scene only: two scenes may have the same name."""
    digest = hashlib.sha256(os.fsencode(scene)).hexdigest()
    return folder.absolute() / f"{slug(scene.name, 'scene')}-{digest[:8]}"


def _expand(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise CacheError(f"{path}: this user has no home folder. hint: --cache DIR or LIFT3D_CACHE=DIR") from error
