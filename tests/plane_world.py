"""A world of textured planes with exact photos and depth, small enough to render in every test.

World axes are those of an OpenCV camera that looks along +Z: X right, Y down. The planes face it at z = const: a wall
and, where a test wants an occlusion, a card in front of it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.lifting.sources import SourceViews
from lift3d_cli.scene.fields import OPENCV_FROM_OPENGL

WIDTH, HEIGHT, FOCAL = 96, 72, 90.0
DISTANCE = 4.0


@dataclass(frozen=True)
class Plane:
    """A square at height `z` around the world's z axis; `half` is half its side."""

    z: float = 0.0
    half: float = np.inf
    seed: int = 0

    def color(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """[..., 3] in [0, 1]: waves of 0.3 to 2 units, which are 7 pixels at least, so that nothing aliases."""
        rng = np.random.default_rng(self.seed)
        out = np.zeros((*x.shape, 3))
        for _ in range(12):
            angle, length, phase = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 2.0), rng.uniform(0, 2 * np.pi, 3)
            wave = 2 * np.pi / length * (np.cos(angle) * x + np.sin(angle) * y)
            out += np.sin(wave[..., None] + phase)
        return 0.5 + 0.48 * np.tanh(out / 2.5)


WALL = (Plane(),)
WALL_AND_CARD = (Plane(), Plane(z=-1.2, half=0.55, seed=1))


def look_at(position: Sequence[float], target: Sequence[float] = (0.0, 0.0, 0.0), **lens: float) -> Camera:
    """A camera at `position`, unrolled, that looks at `target`; `lens` may have width, height, focal."""
    position, target = np.asarray(position, float), np.asarray(target, float)
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross((0.0, 1.0, 0.0), forward)
    right /= np.linalg.norm(right)
    w2c = np.eye(4)
    w2c[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    w2c[:3, 3] = -w2c[:3, :3] @ position
    width, height, focal = (lens.get(n, d) for n, d in (("width", WIDTH), ("height", HEIGHT), ("focal", FOCAL)))
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return Camera(K, w2c, int(width), int(height))


def rig(count: int = 8) -> list[Camera]:
    """Cameras on a grid of two rows in front of the planes, 0.45 units apart, that look almost the same way."""
    spots = [(0.45 * (i // 2 - (count - 1) // 4), 0.45 * (i % 2) - 0.2) for i in range(count)]
    return [look_at((x, y, -DISTANCE - 0.05 * (i % 3)), (0.5 * x, 0.5 * y, 0)) for i, (x, y) in enumerate(spots)]


def photograph(camera: Camera, planes: Sequence[Plane] = WALL) -> tuple[np.ndarray, np.ndarray]:
    """Image [H, W, 3] uint8, each pixel the mean of 2x2 rays, and z-depth [H, W] at the pixel centres."""
    colors = [_cast(camera, planes, x, y)[0] for x in (0.25, 0.75) for y in (0.25, 0.75)]
    return np.round(255 * np.mean(colors, axis=0)).astype(np.uint8), _cast(camera, planes, 0.5, 0.5)[1]


def _cast(camera: Camera, planes: Sequence[Plane], at_x: float, at_y: float) -> tuple[np.ndarray, np.ndarray]:
    u, v = np.meshgrid(np.arange(camera.width) + at_x, np.arange(camera.height) + at_y)
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(camera.K).T @ camera.w2c[:3, :3]  # unit camera-z
    color, depth = np.ones((*u.shape, 3)), np.full(u.shape, np.inf)
    for plane in planes:
        t = (plane.z - camera.position[2]) / rays[..., 2]
        x, y = (camera.position[axis] + t * rays[..., axis] for axis in (0, 1))
        hit = (t > 0) & (t < depth) & (np.abs(x) <= plane.half) & (np.abs(y) <= plane.half)
        depth = np.where(hit, t, depth)
        color = np.where(hit[..., None], plane.color(x, y), color)
    return color, depth


def as_tensor(image: np.ndarray) -> torch.Tensor:
    """[H, W, 3] uint8 to [3, H, W] in [0, 1]."""
    return torch.from_numpy(image).permute(2, 0, 1).float() / 255


def source_views(cameras: Sequence[Camera], planes: Sequence[Plane] = WALL) -> SourceViews:
    """Photos of the planes, all pixels valid."""
    images = [as_tensor(photograph(camera, planes)[0]) for camera in cameras]
    return SourceViews.stack(cameras, images, [torch.ones(c.height, c.width) for c in cameras], "cpu")


def write_scene(
    root: Path,
    cameras: Sequence[Camera],
    planes: Sequence[Plane] = WALL,
    masks: dict[int, np.ndarray] | None = None,
    has_points: bool = True,
) -> Path:
    """Write photos 00.png, 01.png, ... and a transforms.json.

    Args:
        root: a new folder.
        cameras: one per photo.
        planes: the world.
        masks: uint8 images by number of the photo.
        has_points: write a file of surface points too; without it they are triangulated, which takes a while.
    """
    (root / "images").mkdir(parents=True)
    frames = []
    for i, camera in enumerate(cameras):
        write_image(root / "images" / f"{i:02d}.png", photograph(camera, planes)[0])
        c2w = camera.c2w
        c2w[:3, :3] = c2w[:3, :3] @ OPENCV_FROM_OPENGL
        frame = {"file_path": f"images/{i:02d}.png", "transform_matrix": c2w.tolist()}
        frame |= {"w": camera.width, "h": camera.height, "fl_x": camera.K[0, 0], "fl_y": camera.K[1, 1]}
        frame |= {"cx": camera.K[0, 2], "cy": camera.K[1, 2]}
        if i in (masks or {}):
            write_image(root / "masks" / f"{i:02d}.png", masks[i])
            frame["mask_path"] = f"masks/{i:02d}.png"
        frames.append(frame)
    shared = {"ply_file_path": "points.ply"} if has_points else {}
    (root / "transforms.json").write_text(json.dumps({**shared, "frames": frames}, indent=1))
    if has_points:
        spots = np.random.default_rng(0).uniform(-1, 1, (len(planes), 200, 2))
        points = [
            np.c_[at * min(plane.half, 2.5), np.full(200, plane.z)] for at, plane in zip(spots, planes, strict=True)
        ]
        write_points(root / "points.ply", np.concatenate(points))
    return root


def write_points(path: Path, xyz: np.ndarray) -> None:
    """[N, 3] points as an ASCII PLY."""
    head = ["ply", "format ascii 1.0", f"element vertex {len(xyz)}", *(f"property float {axis}" for axis in "xyz")]
    path.write_text("\n".join([*head, "end_header", *(" ".join(map(str, point)) for point in xyz), ""]))


def write_image(path: Path, image: np.ndarray) -> None:
    """[H, W, 3] RGB or [H, W], uint8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)


def read_image(path: Path) -> np.ndarray:
    """[H, W, 3] uint8 RGB."""
    return cv2.imread(str(path))[..., ::-1].copy()


def copy_of(folder: Path, to: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(folder, to)
    return to


# A model in a file, as a user would write it: two scales of blurred colour, and decoders that need nothing else.
MODEL_SOURCE = """\
import torch
from torch.nn import functional as F

from lift3d_cli import FeatureMap, Model, ModelSpec


class Patches(Model):
    spec = ModelSpec(name="patches", channels=6, stride=4, tasks=("recolor", "negative"), version="1", license="MIT")

    def encode(self, image):
        grid = self.grid(image.shape[2], image.shape[1])
        pad = (0, grid.width * 4 - image.shape[2], 0, grid.height * 4 - image.shape[1])
        mean = F.avg_pool2d(F.pad(image[None], pad, mode="replicate"), 4)[0]
        wide = F.avg_pool2d(mean[None], 3, 1, 1, count_include_pad=False)[0]
        return FeatureMap(torch.cat([mean, wide]), grid)

    def decode(self, features, view, task):
        color = features.at_pixels(view.image.shape[2], view.image.shape[1])[:3].clamp(0, 1)
        return color if task == "recolor" else 1 - color
"""
