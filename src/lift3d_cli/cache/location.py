"""The location of a scene's cache. Needs no torch."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from lift3d_cli.cache.format import slug
from lift3d_cli.errors import CacheError


class CacheLocation(NamedTuple):
    """A scene's cache folder, which need not exist yet, and a note for the user if its place is unusual."""

    path: Path
    note: str | None = None


def cache_dir(scene_root: Path, cache_option: str | Path | None = None) -> CacheLocation:
    """Decide where the cache of a scene is; nothing is created.

    In this order: a folder of its own in `cache_option`, in the folder that `LIFT3D_CACHE` names, `<scene>/.lift3d`,
    and, if that cannot be written, a folder of its own in `$XDG_CACHE_HOME/lift3d`.

    Args:
        scene_root: the scene's folder.
        cache_option: the `--cache` argument, or None.

    Raises:
        CacheError: if the user's home is needed and there is none.
    """
    scene = scene_root.resolve()  # one cache per scene, whichever link leads to it
    chosen = cache_option or os.environ.get("LIFT3D_CACHE")
    if chosen:
        return CacheLocation(_within(_expand(Path(chosen)), scene))
    default = scene_root / ".lift3d"
    if os.access(default if os.path.exists(default) else scene_root, os.W_OK | os.X_OK):
        return CacheLocation(default)
    path = _within(_home_cache(), scene)
    return CacheLocation(path, f"{scene_root} cannot be written: its cache is {path}; --cache DIR chooses another")


def user_cache() -> Path:
    """Return the folder for what belongs to no scene: `LIFT3D_CACHE`, or `$XDG_CACHE_HOME/lift3d`.

    Raises:
        CacheError: if the user's home is needed and there is none.
    """
    chosen = os.environ.get("LIFT3D_CACHE")
    return _expand(Path(chosen)).absolute() if chosen else _home_cache()


def _home_cache() -> Path:
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))  # the XDG specification says to ignore a relative one
    return (xdg if xdg.is_absolute() else _expand(Path("~/.cache"))) / "lift3d"


def _within(folder: Path, scene: Path) -> Path:
    """Return a folder for this scene only: two scenes may have the same name."""
    digest = hashlib.sha256(os.fsencode(scene)).hexdigest()
    return folder.absolute() / f"{slug(scene.name, 'scene')}-{digest[:8]}"


def _expand(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise CacheError(f"{path}: this user has no home folder. hint: --cache DIR or LIFT3D_CACHE=DIR") from error
