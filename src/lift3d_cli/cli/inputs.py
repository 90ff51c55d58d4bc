"""The inputs of commands: the scene and its cache, the render and its photos, by name or remembered in this folder."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lift3d_cli.cli import console
from lift3d_cli.errors import CacheError, SceneError

if TYPE_CHECKING:
    from lift3d_cli.cache.store import SceneCache
    from lift3d_cli.pipeline.workspace import Workspace
    from lift3d_cli.scene.scene import Scene

T = TypeVar("T")


def open_scene(path: Path, depth: Path | None = None, mesh: Path | None = None) -> Scene:
    """Load a scene, with the depth that `--depth` and `--mesh` name, and pass its warnings on."""
    from lift3d_cli.scene.depth_files import with_depth_from
    from lift3d_cli.scene.load import load_scene

    scene = with_depth_from(load_scene(path), depth, mesh)
    for warning in scene.warnings:
        console.warn(warning)
    return scene


def check_scene(scene: Scene, cache: SceneCache | None, is_wanted: bool = True) -> Scene:
    """Compare poses and points with the photos, if so wanted, and warn; return the scene as it is to be used."""
    if not is_wanted:
        return scene
    from lift3d_cli.pipeline.checked import checked

    scene, verdict = checked(scene, cache)
    for warning in verdict.warnings():
        console.warn(warning)
    return scene


def warn_of_depth(workspace: Workspace) -> None:
    """Check the depth that the photos come with, and say what is not used of it."""
    for warning in workspace.depth_warnings():
        console.warn(warning)


def open_cache(scene: Scene, option: Path | None) -> SceneCache:
    """Open a scene's cache, in the folder of `--cache` if that is given."""
    from lift3d_cli.cache.location import cache_dir
    from lift3d_cli.cache.store import SceneCache

    location = cache_dir(scene.root, option)
    if location.note:
        console.say(location.note)
    return SceneCache(location.path, str(scene.root))


def existing_cache(scene: Scene, option: Path | None) -> SceneCache | None:
    """Open a scene's cache if there is one: for commands that make none."""
    store = open_cache(scene, option)
    return store if store.root.is_dir() else None


def recalled_scene(scene: Path | None, cache: Path | None) -> tuple[Path, Path | None]:
    """Find the named scene, or else that of the last command in this folder; and its `--cache`.

    Raises:
        SceneError: if there is neither.
    """
    from lift3d_cli.cache.session import recall

    if scene is not None:
        return scene, cache
    session = recall()
    if session is None:
        raise SceneError("no scene named, and none used in this folder before. hint: lift3d encode SCENE")
    recalled = session.require_scene()
    here = Path.cwd()  # paths in messages are as if the scene had been named: relative where that is shorter
    recalled = recalled.relative_to(here) if recalled.is_relative_to(here) else recalled
    return recalled, cache or session.cache


def recalled_depth(scene: Path | None, depth: Path | None, mesh: Path | None) -> tuple[Path | None, Path | None]:
    """Find the `--depth` and `--mesh` that are named; or, where neither nor a scene is, those of the command before."""
    from lift3d_cli.cache.session import recall

    session = recall() if scene is None and depth is None and mesh is None else None
    return (depth, mesh) if session is None else (session.depth, session.mesh)


def or_nothing(read: Callable[..., T], *args: object) -> T | None:
    """Call a function that reads the note of the last command; None if the note is damaged."""
    try:
        return read(*args)
    except CacheError:
        return None


def find_render(given: Path | None, cache: Path | None) -> Path:
    """Find the render to use, see `options.RenderArgument`."""
    from lift3d_cli.cache.session import recall

    piped = _piped_line() if given is None else None
    given = given or (Path(piped) if piped else None)
    if given is None:
        session = recall()
        if session is None:
            raise CacheError("no render named, and none made in this folder before. hint: lift3d render SCENE")
        return session.require_render(is_piped=piped is not None)
    from lift3d_cli.cache.renders import all_renders, is_render

    if is_render(given):
        return given
    if not os.path.exists(given):
        raise CacheError(f"{given}: no such folder. hint: name a render's folder, or a scene")
    scene = open_scene(given)
    found = all_renders(open_cache(scene, cache).root)
    if not found:
        raise CacheError(f"{given}: nothing is rendered yet. hint: lift3d render {given} --poses path.json")
    return found[-1]


def _piped_line() -> str | None:
    """Read the line that `lift3d render` pipes into this command, "" if that fails; None without a pipe."""
    try:
        is_pipe = stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode)
    except (OSError, ValueError, AttributeError):  # no standard input at all
        return None
    return sys.stdin.readline().strip() if is_pipe else None


def open_workspace(scene: Path, render: Path, cache: Path | None) -> Workspace:
    """Open the scene that a render was made from, with the cache that it lies in."""
    from lift3d_cli.cache.renders import cache_of
    from lift3d_cli.cache.store import SceneCache
    from lift3d_cli.pipeline.workspace import Workspace

    loaded = open_scene(scene)
    root = cache_of(render) if cache is None else None
    store = open_cache(loaded, cache) if root is None else SceneCache(root, str(scene))
    return Workspace(loaded, store)
