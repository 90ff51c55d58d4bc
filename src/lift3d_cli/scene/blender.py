"""Reader of the Blender layout of synthetic scenes: `transforms_train.json` and its siblings, RGBA photos."""

from __future__ import annotations

from pathlib import Path

from lift3d_cli.errors import SceneError
from lift3d_cli.scene.nerfstudio import load_transforms
from lift3d_cli.scene.scene import Scene

SPLIT_FILES = ("transforms_train.json", "transforms_val.json", "transforms_test.json")


def load_blender(root: Path) -> Scene:
    """Read all existing splits; the photos of all of them are views.

    Raises:
        SceneError: if a file or frame is broken, or no photo exists.
    """
    paths = [root / name for name in SPLIT_FILES if (root / name).is_file()]
    if not paths:
        raise SceneError(f"{root}: is no Blender scene. hint: looked for {', '.join(SPLIT_FILES)}")
    source = paths[0] if len(paths) == 1 else root / "transforms_*.json"
    return load_transforms(root, paths, source, "blender")
