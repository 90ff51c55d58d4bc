"""Writes tiny scenes in every format, renders photos of a known plane, and finds real scenes where there are some."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import cv2
import imageio.v3 as iio
import numpy as np
import pytest

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.scene.distortion import CAMERA_MODELS, distort
from lift3d_cli.scene.fields import OPENCV_FROM_OPENGL
from lift3d_cli.scene.load import load_scene
from lift3d_cli.scene.scene import Distortion, Scene

# Real photos are not part of the repository, as their licences differ: a folder of scenes may lie beside it.
REAL_SCENES = Path(os.environ.get("LIFT3D_TEST_SCENES", Path(__file__).parents[3] / "shared" / "scenes"))


def real_scene(name: str) -> Scene:
    if not (REAL_SCENES / name).is_dir():
        pytest.skip(f"no real scene {name} in {REAL_SCENES} (set LIFT3D_TEST_SCENES)")
    return load_scene(REAL_SCENES / name)


def look_at(position, target=(0.0, 0.0, 0.0), up=(0.0, -1.0, 0.0)) -> np.ndarray:
    """w2c [4, 4] with OpenCV axes; `up` is the world direction that points up in the image."""
    position, target = np.asarray(position, float), np.asarray(target, float)
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    w2c = np.eye(4)
    w2c[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    w2c[:3, 3] = -w2c[:3, :3] @ position
    return w2c


def opengl_c2w(w2c: np.ndarray) -> list:
    c2w = np.linalg.inv(w2c)
    c2w[:3, :3] = c2w[:3, :3] @ OPENCV_FROM_OPENGL
    return c2w.tolist()


def quaternion(R: np.ndarray) -> tuple:
    """COLMAP's (w, x, y, z) of a rotation: the eigenvector of Bar-Itzhack's matrix."""
    K = np.diag([R[0, 0] - R[1, 1] - R[2, 2], R[1, 1] - R[0, 0] - R[2, 2], R[2, 2] - R[0, 0] - R[1, 1], np.trace(R)])
    K[1, 0], K[2, 0], K[2, 1] = R[0, 1] + R[1, 0], R[0, 2] + R[2, 0], R[1, 2] + R[2, 1]
    K[3, :3] = R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]
    x, y, z, w = np.linalg.eigh(K)[1][:, 3]  # reads the lower triangle
    return w, x, y, z


def write_photo(path: Path, width=12, height=8, channels=3, value=100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (height, width) if channels == 1 else (height, width, channels)
    iio.imwrite(path, np.full(shape, value, np.uint8))
    return path


def frame(file_path: str, w2c: np.ndarray | None = None, **more) -> dict:
    return {"file_path": file_path, "transform_matrix": opengl_c2w(np.eye(4) if w2c is None else w2c), **more}


def write_transforms(root: Path, frames: list, name="transforms.json", photos=True, size=(12, 8), **shared) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for entry in frames if photos else []:
        listed = Path(entry["file_path"])
        write_photo(root / (listed if listed.suffix else listed.with_suffix(".png")), *size)
    (root / name).write_text(json.dumps({**shared, "frames": frames}))
    return root


# ---- COLMAP ---------------------------------------------------------------------------------------------------------

MODEL_NUMBERS = {
    "SIMPLE_PINHOLE": 0, "PINHOLE": 1, "SIMPLE_RADIAL": 2, "RADIAL": 3, "OPENCV": 4, "OPENCV_FISHEYE": 5,
    "FULL_OPENCV": 6, "FOV": 7, "SIMPLE_RADIAL_FISHEYE": 8, "RADIAL_FISHEYE": 9, "THIN_PRISM_FISHEYE": 10,
    "RAD_TAN_THIN_PRISM_FISHEYE": 11, "SIMPLE_DIVISION": 12, "DIVISION": 13, "SIMPLE_FISHEYE": 14, "FISHEYE": 15,
    "EUCM": 16, "EQUIRECTANGULAR": 17,
}  # fmt: skip


def colmap_params(model: str, **values) -> list[float]:
    defaults = {"f": 20.0, "fx": 20.0, "fy": 21.0, "cx": 6.0, "cy": 4.0}
    return [values.get(name, defaults.get(name, 0.0)) for name in CAMERA_MODELS[model]]


def write_colmap(
    root: Path,
    images: list[tuple[str, tuple, tuple, list]],  # name, quaternion wxyz, tvec, keypoints (u, v, point id)
    model="PINHOLE",
    params: list[float] | None = None,
    points: list[tuple[int, tuple, float, int]] = (),  # id, xyz, error, track length
    binary=True,
    folder="sparse/0",
    photos="images",
    size=(12, 8),
    calibrated=(12, 8),
) -> Path:
    """Write one camera with id 7, calibrated for another size than the photos' or the same, for all images."""
    params = colmap_params(model) if params is None else params
    out = root / folder
    out.mkdir(parents=True, exist_ok=True)
    for name, *_ in images if photos else []:
        write_photo(root / photos / name, *size)
    if binary:
        _write_colmap_binary(out, images, model, params, points, calibrated)
    else:
        _write_colmap_text(out, images, model, params, points, calibrated)
    return root


def _write_colmap_binary(out, images, model, params, points, size) -> None:
    number = MODEL_NUMBERS.get(model, 99)
    (out / "cameras.bin").write_bytes(struct.pack(f"<QiiQQ{len(params)}d", 1, 7, number, *size, *params))
    data = struct.pack("<Q", len(images))
    for i, (name, q, t, keypoints) in enumerate(images):
        data += struct.pack("<i7di", i + 1, *q, *t, 7) + name.encode() + b"\0" + struct.pack("<Q", len(keypoints))
        data += b"".join(struct.pack("<ddq", *keypoint) for keypoint in keypoints)
    (out / "images.bin").write_bytes(data)
    data = struct.pack("<Q", len(points))
    for point_id, xyz, error, length in points:
        data += struct.pack("<Q3d3BdQ", point_id, *xyz, 1, 2, 3, error, length) + struct.pack("<ii", 1, 0) * length
    (out / "points3D.bin").write_bytes(data)


def _write_colmap_text(out, images, model, params, points, size) -> None:
    (out / "cameras.txt").write_text(f"# comment\n7 {model} {size[0]} {size[1]} {' '.join(map(str, params))}\n")
    lines = ["# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME", "#   POINTS2D[] as (X, Y, POINT3D_ID)"]
    for i, (name, q, t, keypoints) in enumerate(images):
        lines.append(" ".join(map(str, [i + 1, *q, *t, 7, name])))
        lines.append(" ".join(str(value) for keypoint in keypoints for value in keypoint))
    (out / "images.txt").write_text("\n".join(lines) + "\n")
    lines = [" ".join(map(str, [i, *xyz, 1, 2, 3, e, *([1, 0] * length)])) for i, xyz, e, length in points]
    (out / "points3D.txt").write_text("\n".join(lines) + "\n")


# ---- LLFF -----------------------------------------------------------------------------------------------------------


def llff_row(w2c: np.ndarray, height=8, width=12, focal=20.0, near=1.0, far=9.0) -> np.ndarray:
    c2w = np.linalg.inv(w2c)
    right, down, forward, position = c2w[:3].T
    matrix = np.stack([down, right, -forward, position, [height, width, focal]], axis=1)
    return np.concatenate([matrix.ravel(), [near, far]])


def write_llff(root: Path, rows: list, photos=2, folder="images", size=(12, 8)) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    np.save(root / "poses_bounds.npy", np.array(rows))
    for i in range(photos):
        write_photo(root / folder / f"{i:03d}.png", *size)
    return root


# ---- photos of a plane ----------------------------------------------------------------------------------------------


# Principal point off the centre and fx != fy, so that swapped or shifted axes show.
LENS_K = np.array([[110.0, 0, 66.3], [0, 104.0, 47.8], [0, 0, 1]])


def lens_camera(width=128, height=96, w2c=None) -> Camera:
    return Camera(LENS_K, np.eye(4) if w2c is None else w2c, width, height)


def smooth_texture(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[..., 3] uint8 colours on the plane, smooth at the scale of the test photos' pixels."""
    colour = [np.sin(5 * x + 1) * np.cos(4 * y), np.sin(3 * x - 6 * y), np.cos(7 * x + 2 * y)]
    return np.round(127.5 + 110 * np.stack(colour, axis=-1)).astype(np.uint8)


_NOISE = np.random.default_rng(0).integers(0, 256, (96, 96), dtype=np.uint8)


def blob_texture(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[..., 3] uint8 random blobs of 1/16 unit, with corners that SIFT finds; the plane is 6 units wide."""
    u, v = ((x + 3) * 16).astype(np.float32), ((y + 3) * 16).astype(np.float32)
    gray = cv2.remap(_NOISE, u, v, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    return np.repeat(gray[..., None], 3, axis=-1)


def plane_photo(camera: Camera, texture, distortion: Distortion | None = None) -> np.ndarray:
    """Photograph the world's plane z = 0 through a lens: each pixel's colour is the texture at its centre's ray."""
    u, v = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    x, y = (u - camera.K[0, 2]) / camera.K[0, 0], (v - camera.K[1, 2]) / camera.K[1, 1]
    if distortion is not None:
        x, y = invert_distortion(distortion, x, y)
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ camera.c2w[:3, :3].T
    t = -camera.position[2] / rays[..., 2]
    return texture(camera.position[0] + t * rays[..., 0], camera.position[1] + t * rays[..., 1])


def invert_distortion(distortion: Distortion, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Undo a mild lens by fixed-point iteration, to 1e-9 on the plane z = 1."""
    px, py = x.copy(), y.copy()
    for _ in range(100):
        bx, by = distort(distortion, px, py)
        px, py = px + x - bx, py + y - by
    assert max(np.abs(bx - x).max(), np.abs(by - y).max()) < 1e-9
    return px, py
