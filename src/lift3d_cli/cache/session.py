"""How a command finds the scene and the render of the one before: a small file in the current folder.

Needs no torch.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from lift3d_cli.errors import CacheError, SceneError
from lift3d_cli.machine.atomic import replace_file

FILE_NAME = ".lift3d.json"
_SCHEMA = 1
_MAX_BYTES = 64 * 1024


@dataclass(frozen=True)
class Session:
    """What the last command in this folder worked on. Paths are absolute; they may have gone since.

    Args:
        scene: the scene's folder.
        cache: what its `--cache` said, or None.
        render: the folder of its render, or None.
        depth: what its `--depth` said, or None.
        mesh: what its `--mesh` said, or None.
    """

    scene: Path
    cache: Path | None = None
    render: Path | None = None
    depth: Path | None = None
    mesh: Path | None = None

    def require_scene(self) -> Path:
        """The scene.

        Raises:
            SceneError: if it is no longer there.
        """
        if not self.scene.exists():
            raise SceneError(f"{self.scene}: the scene of the last command is gone. hint: name the scene")
        return self.scene

    def require_render(self) -> Path:
        """The render.

        Raises:
            CacheError: if there is none, or it is no longer there.
        """
        if self.render is None:
            raise CacheError(f"{self.scene}: nothing is rendered yet. hint: lift3d render")
        if not self.render.exists():
            raise CacheError(f"{self.render}: the render of the last command is gone. hint: lift3d render")
        return self.render


def remember(
    scene: Path,
    cache: Path | None = None,
    render: Path | None = None,
    folder: Path | None = None,
    *,
    depth: Path | None = None,
    mesh: Path | None = None,
) -> str | None:
    """Note what the next command in `folder` (the current one) shall work on; all of it is replaced.

    Returns:
        A warning for the user if the note cannot be written; that is no reason to fail.
    """
    folder = Path.cwd() if folder is None else folder
    paths = {"scene": scene, "cache": cache, "render": render, "depth": depth, "mesh": mesh}
    stored = {name: None if path is None else _relative(Path(path), folder) for name, path in paths.items()}
    text = json.dumps({"schema": _SCHEMA, **stored}, indent=2) + "\n"
    try:
        replace_file(folder / FILE_NAME, text.encode())
    except OSError as error:
        reason = error.strerror or error
        return f"{folder / FILE_NAME} cannot be written ({reason}): name the scene in the next command"
    return None


def recall(folder: Path | None = None) -> Session | None:
    """What `remember` noted in `folder` (the current one); None if it never did.

    Raises:
        CacheError: if the note is damaged or of another version.
    """
    folder = Path.cwd() if folder is None else folder
    path = folder / FILE_NAME
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES)
        return _parse(json.loads(text), folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CacheError(f"{path}: cannot be read ({error.strerror}). hint: name the scene") from error
    except (ValueError, RecursionError) as error:
        reason = error.args[0] if type(error) is ValueError else "damaged"
        raise CacheError(f"{path}: {reason}. hint: name the scene, or delete this file") from error


def forget_render(folder: Path | None = None) -> str | None:
    """Note that the render is gone; returns a warning as `remember` does."""
    session = recall(folder)
    if session is None or session.render is None:
        return None
    return remember(session.scene, session.cache, None, folder, depth=session.depth, mesh=session.mesh)


def _parse(document: object, folder: Path) -> Session:
    """Raises ValueError with the reason."""
    if not isinstance(document, dict) or type(document.get("schema")) is not int:
        raise ValueError("not made by lift3d")
    if document["schema"] != _SCHEMA:
        raise ValueError(f"made by another version of lift3d (schema {str(document['schema'])[:20]})")
    paths = [document.get(name) for name in ("scene", "cache", "render", "depth", "mesh")]
    are_paths = [isinstance(path, str) and path and "\0" not in path for path in paths]
    if not are_paths[0] or not all(is_path or path is None for is_path, path in zip(are_paths, paths, strict=True)):
        raise ValueError("damaged")
    return Session(*(None if path is None else Path(os.path.abspath(folder / path)) for path in paths))


def _relative(path: Path, folder: Path) -> str:
    """`path` as seen from `folder` if it is in it, so that the two can move together; else absolute."""
    absolute = Path(os.path.abspath(path))
    base = Path(os.path.abspath(folder))
    return (absolute.relative_to(base) if absolute.is_relative_to(base) else absolute).as_posix()
