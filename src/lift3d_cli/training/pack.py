"""Copy scenes into a compact form that loads at once: `python -m lift3d_cli.training.pack OUT SCENE...`.

Each copy is an ordinary scene: a `transforms.json` with JPEG photos, undistorted and shrunk, and the surface points,
which would take minutes to triangulate on a machine with a GPU and few cores.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lift3d_cli.pipeline.held_out import split
from lift3d_cli.pipeline.workspace import Workspace, shrunk_size
from lift3d_cli.scene.fields import OPENCV_FROM_OPENGL
from lift3d_cli.scene.load import load_scene
from lift3d_cli.scene.photos import resize_photo
from lift3d_cli.training.command import say

# More points change neither the depth range nor the choice of sources.
_MAX_POINTS = 4000


def pack_scene(folder: Path, out: Path, max_size: int, quality: int, max_photos: int = 0, left_out: int = 0) -> int:
    """Write a scene's copy to the folder `out`; return its bytes.

    Args:
        folder: folder of the scene.
        out: gets `transforms.json`, `images/*.jpg` and so on.
        max_size: longer side of the photos, in pixels.
        quality: JPEG quality.
        max_photos: 0 for all; else half of them spread over the scene, half adjacent ones from its middle.
        left_out: points are triangulated without every n-th photo, from the first, as `lift3d eval` leaves them out; 0
                uses all photos.

    Raises:
        SceneError: if the scene cannot be read.
    """
    photos = Workspace(load_scene(folder), None)
    views = photos.scene.views
    points = photos.points(split(photos.scene, left_out)[1] if left_out else None)
    (out / "images").mkdir(parents=True, exist_ok=True)
    frames = []
    for index in chosen_photos(len(views), max_photos):
        view, name = views[index], f"{index:04d}"
        width, height = shrunk_size(view.camera, max_size)
        photo, camera = resize_photo(photos.photo(index), width, height), view.camera.resized(width, height)
        Image.fromarray(photo.image).save(out / "images" / f"{name}.jpg", quality=quality)
        c2w = camera.c2w
        c2w[:3, :3] = c2w[:3, :3] @ OPENCV_FROM_OPENGL
        lens = {"fl_x": camera.K[0, 0], "fl_y": camera.K[1, 1], "cx": camera.K[0, 2], "cy": camera.K[1, 2]}
        frame = {"file_path": f"images/{name}.jpg", "w": width, "h": height, **lens, "transform_matrix": c2w.tolist()}
        # A transparent background becomes white, as the renderer sees it.
        if not photo.valid.all():
            (out / "masks").mkdir(exist_ok=True)
            Image.fromarray(photo.valid).save(out / "masks" / f"{name}.png")
            frame["mask_path"] = f"masks/{name}.png"
        frames.append(frame)
    kept = points[:: max(1, -(-len(points) // _MAX_POINTS))]
    (out / "points.ply").write_bytes(_ply(kept))
    (out / "transforms.json").write_text(json.dumps({"ply_file_path": "points.ply", "frames": frames}))
    return sum(path.stat().st_size for path in out.rglob("*") if path.is_file())


def chosen_photos(number: int, most: int) -> Sequence[int]:
    """Choose which photos to keep: adjacent ones, so that sources are near, and others, to cover the scene."""
    if not most or number <= most:
        return range(number)
    half = most // 2
    spread = {round(i * (number - 1) / (half - 1)) for i in range(half)}
    first = (number - half) // 2
    return sorted(spread | set(range(first, first + half)))


def _ply(points: np.ndarray) -> bytes:
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n"
    out = io.BytesIO((header + "".join(f"property double {axis}\n" for axis in "xyz") + "end_header\n").encode())
    out.seek(0, io.SEEK_END)
    out.write(points.astype("<f8").tobytes())
    return out.getvalue()


def main() -> None:
    """Parse the command line and pack the scenes."""
    parser = argparse.ArgumentParser(prog="python -m lift3d_cli.training.pack", description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("scenes", type=Path, nargs="+")
    for name, default in {"max-size": 640, "quality": 82, "max-photos": 0, "left-out": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    settings = parser.parse_args()
    for folder in settings.scenes:
        out = settings.out / folder.name
        if not (out / "transforms.json").exists():
            size = pack_scene(folder, out, settings.max_size, settings.quality, settings.max_photos, settings.left_out)
            say({"scene": folder.name, "bytes": size})


if __name__ == "__main__":
    main()
