"""The scene and render of the last command: a small file in the current folder, for the next command.

Needs no torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lift3d_cli.errors import CacheError, SceneError
from lift3d_cli.machine.atomic import replace_file
from lift3d_cli.machine.reading import read_file

FILE_NAME = ".lift3d.json"
_SCHEMA = 1
_MAX_BYTES = 64 * 1024


@dataclass(frozen=True)
class Session:
    """The scene and render that the last command in this folder used. Paths are absolute, and may no longer exist.

    Args:
        scene: folder of the scene.
        cache: its `--cache` argument, or None.
        render: folder of its render, or None.
        depth: what its `--depth` said, or None.
        mesh: what its `--mesh` said, or None.
        models: names of the models that were encoded since the last render; or, after one, those that it lifted.
        has_failed: True from when a render begins until it is done: `render` is then that of a command before.
    """

    scene: Path
    cache: Path | None = None
    render: Path | None = None
    depth: Path | None = None
    mesh: Path | None = None
    models: tuple[str, ...] = ()
    has_failed: bool = False

    def require_scene(self) -> Path:
        """Return the scene.

        Raises:
            SceneError: if it no longer exists.
        """
        if not os.path.exists(self.scene):
            raise SceneError(f"{self.scene}: the scene of the last command is gone. hint: name the scene")
        return self.scene

    def cache_root(self) -> Path:
        """Return the folder of the scene's cache, which may not exist.

        Raises:
            CacheError: as `cache_dir`.
        """
        from lift3d_cli.cache.location import cache_dir

        # A scene may be named by its file.
        return cache_dir(self.scene.parent if os.path.isfile(self.scene) else self.scene, self.cache).path

    def require_render(self, is_piped: bool = False) -> Path:
        """Return the render.

        Args:
            is_piped: a command in front of this one should have piped its render into it, and has not.

        Raises:
            CacheError: if there is none, or it no longer exists; or if that command was a render that failed.
        """
        if self.render is None or (is_piped and self.has_failed):
            raise CacheError(self._why_no_render())
        if not os.path.exists(self.render):
            raise CacheError(f"{self.render}: the render of the last command is gone. hint: lift3d render")
        return self.render

    def _why_no_render(self) -> str:
        """Say that no render is noted, which is not to say that there is none."""
        from lift3d_cli.cache.renders import all_renders, is_complete

        found = all_renders(self.cache_root())
        whole = [folder for folder in found if is_complete(folder)]
        if not whole:
            return f"{self.scene}: nothing is rendered {'completely ' * bool(found)}yet. hint: lift3d render"
        since = "the last render failed" if self.has_failed else "it was encoded since it was rendered"
        kept = f"{len(whole)} renders before it are" if len(whole) > 1 else "1 render before it is"
        return f"{self.scene}: {since}; {kept} kept. hint: lift3d render, or name one, such as the latest: {whole[-1]}"


def remember(
    scene: Path,
    cache: Path | None = None,
    render: Path | None = None,
    folder: Path | None = None,
    *,
    depth: Path | None = None,
    mesh: Path | None = None,
    models: Sequence[str] = (),
    has_failed: bool = False,
) -> str | None:
    """Save these for the next command in `folder` (the current one); all are replaced.

    Returns:
        A warning for the user if the file cannot be written, which is not an error.
    """
    folder = Path.cwd() if folder is None else folder
    paths = {"scene": scene, "cache": cache, "render": render, "depth": depth, "mesh": mesh}
    stored = {name: None if path is None else _relative(Path(path), folder) for name, path in paths.items()}
    failure = {"has_failed": True} if has_failed else {}
    text = json.dumps({"schema": _SCHEMA, **stored, "models": list(models), **failure}, indent=2) + "\n"
    try:
        replace_file(folder / FILE_NAME, text.encode())
    except OSError as error:
        reason = error.strerror or error
        return f"{folder / FILE_NAME} cannot be written ({reason}): name the scene in the next command"
    return None


def recall(folder: Path | None = None) -> Session | None:
    """Read what `remember` saved in `folder` (the current one); None if there is nothing.

    Raises:
        CacheError: if the file is damaged or of another version.
    """
    folder = Path.cwd() if folder is None else folder
    path = folder / FILE_NAME
    try:
        return _parse(json.loads(read_file(path, _MAX_BYTES)), folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CacheError(f"{path}: cannot be read ({error.strerror}). hint: name the scene") from error
    except (ValueError, RecursionError) as error:
        reason = error.args[0] if type(error) is ValueError else "damaged"
        raise CacheError(f"{path}: {reason}. hint: name the scene, or delete this file") from error


def begin_render(folder: Path | None = None, is_sure: bool = False) -> str | None:
    """Save that a render begins, which counts as failed until `remember` is called; return a warning as that does.

    Args:
        folder: as for `recall`.
        is_sure: its arguments are right: what was rendered before is forgotten, as no command should take it for this.
    """
    session = recall(folder)
    if session is None:
        return None
    render = None if is_sure else session.render
    kept = {"depth": session.depth, "mesh": session.mesh, "models": session.models}
    return remember(session.scene, session.cache, render, folder, **kept, has_failed=True)


def models_to_render(scene: Path, encoded: Sequence[str] = (), folder: Path | None = None) -> tuple[str, ...]:
    """Return the models that were encoded for the next render of a scene, with those that are encoded now.

    Args:
        scene: the scene.
        encoded: names of the models that are encoded now.
        folder: as for `recall`.
    """
    session = recall(folder)
    if session is None or session.scene != Path(os.path.abspath(scene)):
        return tuple(dict.fromkeys(encoded))
    # Those of a render that is done are asked for again only by a render.
    before = () if encoded and session.render is not None else session.models
    return tuple(dict.fromkeys([*before, *encoded]))


def _parse(document: object, folder: Path) -> Session:
    """Convert the document; raise ValueError with the reason if it is invalid."""
    if not isinstance(document, dict) or type(document.get("schema")) is not int:
        raise ValueError("not made by lift3d")
    if document["schema"] != _SCHEMA:
        raise ValueError(f"made by another version of lift3d (schema {str(document['schema'])[:20]})")
    paths = [document.get(name) for name in ("scene", "cache", "render", "depth", "mesh")]
    are_paths = [isinstance(path, str) and path and "\0" not in path for path in paths]
    if not are_paths[0] or not all(is_path or path is None for is_path, path in zip(are_paths, paths, strict=True)):
        raise ValueError("damaged")
    models = document.get("models", [])
    if not isinstance(models, list) or not all(isinstance(name, str) for name in models):
        raise ValueError("damaged")
    found = [None if path is None else Path(os.path.abspath(folder / path)) for path in paths]
    return Session(*found, tuple(models), document.get("has_failed") is True)


def _relative(path: Path, folder: Path) -> str:
    """Return `path` relative to `folder` if it is inside, so that the two can be moved together; else absolute."""
    absolute = Path(os.path.abspath(path))
    base = Path(os.path.abspath(folder))
    return (absolute.relative_to(base) if absolute.is_relative_to(base) else absolute).as_posix()
