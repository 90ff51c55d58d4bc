"""Depth files that the tests write, in every format, and scenes that name them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scene_files import frame, write_transforms

from lift3d_cli.scene.depth_formats import depth_suffix
from lift3d_cli.scene.load import load_scene

# Every value another one, so that a flip, a turn or a swap of axes shows.
VALUES = np.arange(1, 97, dtype=np.float32).reshape(8, 12)
SHARED = {"fl_x": 20.0, "fl_y": 21.0, "cx": 6.5, "cy": 3.5, "w": 12, "h": 8}


def write_depth(path: Path, values: np.ndarray = VALUES) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = depth_suffix(path)
    height, width = values.shape
    if suffix == ".npy":
        np.save(path, values)
    elif suffix == ".npz":
        np.savez(path, conf=values * 0, depth=values)
    elif suffix == ".png":
        Image.fromarray(values.astype(np.uint16)).save(path)
    elif suffix in (".tif", ".tiff"):
        Image.fromarray(values.astype(np.float32)).save(path)
    elif suffix == ".pfm":
        path.write_bytes(f"Pf\n{width} {height}\n-1.0\n".encode() + values[::-1].astype("<f4").tobytes())
    elif suffix.endswith(".bin"):
        path.write_bytes(f"{width}&{height}&1&".encode() + values.astype("<f4").tobytes())
    else:
        exr = pytest.importorskip("OpenEXR")
        header = {"compression": exr.ZIP_COMPRESSION, "type": exr.scanlineimage}
        exr.File(header, {"Z": values.astype(np.float32)}).write(str(path))
    return path


def scene_with(root: Path, depth: str | None, photo="images/a.png", **more):
    write_transforms(root, [frame(photo, **({"depth_file_path": depth} if depth else {}), **more)], **SHARED)
    return load_scene(root)


def write_square(path: Path, offset=(0.0, 0.0, 0.0)) -> Path:
    """A square of side 2 at z = 0, as two triangles, or as one polygon in OBJ."""
    corners = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) + offset
    if path.suffix == ".obj":
        rows = ["mtllib missing.mtl", *("v " + " ".join(map(repr, map(float, c))) for c in corners), "f 1 2 3 4"]
    else:
        rows = ["ply", "format ascii 1.0", "element vertex 4", *(f"property double {axis}" for axis in "xyz")]
        rows += ["element face 2", "property list uchar int vertex_indices", "end_header"]
        rows += [*(" ".join(map(repr, map(float, c))) for c in corners), "3 0 1 2", "3 0 2 3"]
    path.write_text("\n".join(rows) + "\n")
    return path
