"""Reader of the Blender layout of synthetic scenes: `transforms_train.json` and its siblings, RGBA photos."""

from __future__ import annotations

from pathlib import Path

from lift3d_cli.errors import SceneError
from lift3d_cli.scene.assemble import SceneBuilder, find_photo, read_json
from lift3d_cli.scene.nerfstudio import (
    frame_depth_file,
    frame_intrinsics,
    frame_pose,
    frames_of,
    w2c_from_opengl_c2w,
)
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
    builder = SceneBuilder(root, source, "blender")
    for path in paths:
        data = read_json(path)
        for number, frame in enumerate(frames_of(data, path)):
            listed, pose = frame_pose(frame, f"{path}: frame {number}")
            where = f"{path}: frame {number} ({listed})"
            photo = find_photo(root, listed)
            intrinsics = frame_intrinsics({**data, **frame}, photo, where) if photo else None
            depth_file = frame_depth_file(root, {**data, **frame}, where)
            builder.add(listed, photo, intrinsics, w2c_from_opengl_c2w(pose, where), depth_file=depth_file)
    return builder.scene()
