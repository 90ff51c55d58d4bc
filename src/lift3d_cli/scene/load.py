"""`load_scene`: detect the format of a folder of posed photos, and read it."""

from __future__ import annotations

import os
from pathlib import Path

from lift3d_cli.errors import SceneError
from lift3d_cli.scene.blender import SPLIT_FILES, load_blender
from lift3d_cli.scene.colmap import MODEL_FOLDERS, find_colmap_model, load_colmap
from lift3d_cli.scene.depth_files import with_depth_beside
from lift3d_cli.scene.llff import POSES_FILE, load_llff
from lift3d_cli.scene.nerfstudio import load_nerfstudio
from lift3d_cli.scene.scene import Scene

TRANSFORMS_FILE = "transforms.json"


def load_scene(path: str | Path) -> Scene:
    """Read a scene: a folder, or a transforms file in it; with the depth of its photos, where that lies beside them.

    If a folder holds several formats, the first of this order is read: `transforms.json` (made on purpose), COLMAP (has
    the lens distortion and points), LLFF, Blender.

    Raises:
        SceneError: if there is no scene, or it is broken.
    """
    return with_depth_beside(_load_photos(Path(path)))


def _load_photos(path: Path) -> Scene:
    if os.path.isfile(path):
        if path.suffix.lower() != ".json":
            raise SceneError(f"{path}: is not a scene. hint: give a folder or a transforms.json")
        return load_nerfstudio(path)
    if not os.path.isdir(path):
        raise SceneError(f"{path}: does not exist. hint: give a folder with posed photos")
    if (path / TRANSFORMS_FILE).is_file():
        return load_nerfstudio(path / TRANSFORMS_FILE)
    if find_colmap_model(path) is not None:
        return load_colmap(path)
    if (path / POSES_FILE).is_file():
        return load_llff(path)
    if any((path / name).is_file() for name in SPLIT_FILES):
        return load_blender(path)
    content = "is empty" if not any(path.iterdir()) else "is not a scene"
    raise SceneError(
        f"{path}: {content}. hint: looked for {TRANSFORMS_FILE} (nerfstudio, instant-ngp), "
        f"{' or '.join(MODEL_FOLDERS)} (COLMAP), {POSES_FILE} (LLFF), {SPLIT_FILES[0]} (Blender)"
    )
