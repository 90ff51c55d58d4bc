"""A world that is turned, moved and scaled gives the same pictures, whatever format says so."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import plane_world
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scene_files import llff_row, opengl_c2w, quaternion, write_colmap

from lift3d_cli.config import RenderConfig
from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.pipeline.lift import SceneLifter
from lift3d_cli.pipeline.renderers import make_renderer
from lift3d_cli.pipeline.workspace import Workspace
from lift3d_cli.scene.load import load_scene

CAMERAS = plane_world.rig(5)
TARGET = plane_world.look_at((0.1, 0.05, -4.0), width=48, height=36, focal=45.0)
POINTS = np.stack(np.meshgrid(np.linspace(-2, 2, 9), np.linspace(-2, 2, 9), [0.0]), -1).reshape(-1, 3)
WIDTH, HEIGHT, FOCAL = plane_world.WIDTH, plane_world.HEIGHT, plane_world.FOCAL


@dataclass(frozen=True)
class World:
    """x' = scale * turn @ x + move."""

    turn: np.ndarray
    move: np.ndarray
    scale: float

    def point(self, xyz: np.ndarray) -> np.ndarray:
        return self.scale * xyz @ self.turn.T + self.move

    def camera(self, camera: Camera) -> Camera:
        w2c = np.eye(4)
        w2c[:3, :3] = camera.w2c[:3, :3] @ self.turn.T
        w2c[:3, 3] = -w2c[:3, :3] @ self.point(camera.position)
        return Camera(camera.K, w2c, camera.width, camera.height)


AS_IT_IS = World(np.eye(3), np.zeros(3), 1.0)


def photos(root: Path, suffix: str = "") -> list[str]:
    (root / "images").mkdir(parents=True)
    for i, camera in enumerate(CAMERAS):
        plane_world.write_image(root / f"images/{i}.png", plane_world.photograph(camera, plane_world.WALL_AND_CARD)[0])
    return [f"images/{i}{suffix}" for i in range(len(CAMERAS))]


def fox_like(root: Path, world: World) -> None:
    lens = {"w": WIDTH, "h": HEIGHT, "fl_x": FOCAL, "fl_y": FOCAL, "cx": WIDTH / 2, "cy": HEIGHT / 2, "k1": 0.01}
    poses = [opengl_c2w(world.camera(camera).w2c) for camera in CAMERAS]
    frames = [{"file_path": f, "transform_matrix": m} for f, m in zip(photos(root, ".png"), poses, strict=True)]
    (root / "transforms.json").write_text(json.dumps({**lens, "frames": frames}))


def blender(root: Path, world: World) -> None:
    poses = [opengl_c2w(world.camera(camera).w2c) for camera in CAMERAS]
    frames = [{"file_path": f"./{f}", "transform_matrix": m} for f, m in zip(photos(root), poses, strict=True)]
    angle = 2 * np.arctan(WIDTH / 2 / FOCAL)
    (root / "transforms_train.json").write_text(json.dumps({"camera_angle_x": angle, "frames": frames}))


def llff(root: Path, world: World) -> None:
    photos(root)
    bounds = {"near": 2.5 * world.scale, "far": 5.0 * world.scale}
    rows = [llff_row(world.camera(camera).w2c, HEIGHT, WIDTH, FOCAL, **bounds) for camera in CAMERAS]
    np.save(root / "poses_bounds.npy", np.array(rows))


def colmap(root: Path, world: World, binary: bool = True) -> None:
    cameras = [world.camera(camera) for camera in CAMERAS]
    names = [Path(name).name for name in photos(root, ".png")]
    images = [(n, quaternion(c.w2c[:3, :3]), tuple(c.w2c[:3, 3]), []) for n, c in zip(names, cameras, strict=True)]
    points = [(i + 1, tuple(xyz), 0.5, 3) for i, xyz in enumerate(world.point(POINTS))]
    params = [FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2]
    write_colmap(root, images, "PINHOLE", params, points, binary, photos=None, calibrated=(WIDTH, HEIGHT))


def colmap_text(root: Path, world: World) -> None:
    colmap(root, world, binary=False)


def picture(root: Path, world: World) -> torch.Tensor:
    workspace = Workspace(load_scene(root), None)
    config = RenderConfig(planes=8, samples=2, precision="fp32")
    lifter = SceneLifter(workspace, workspace.points(), make_renderer(config), 3, torch.device("cpu"))
    target = world.camera(TARGET)
    with torch.inference_mode():
        return lifter.lift(lifter.plan(target, lifter.choose(target))).frame.image


@pytest.mark.parametrize("write", [fox_like, blender, llff, colmap, colmap_text])
def test_a_moved_and_scaled_world_gives_the_same_picture(write, tmp_path_factory):
    write(plain := tmp_path_factory.mktemp("plain") / "scene", AS_IT_IS)
    expected = picture(plain, AS_IT_IS)

    @settings(max_examples=1, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @example(seed=0, exponent=-6.0, distance=0.0)
    @example(seed=1, exponent=0.0, distance=1e6)
    @given(st.integers(0, 2**32 - 1), st.floats(-6, 6), st.floats(0, 1e6))
    def check(seed: int, exponent: float, distance: float) -> None:
        rng = np.random.default_rng(seed)
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        turn *= np.linalg.det(turn)
        scale = 10.0**exponent
        world = World(turn, distance * scale * rng.uniform(-1, 1, 3), scale)
        write(root := tmp_path_factory.mktemp("moved") / "scene", world)
        difference = (picture(root, world) - expected).abs()
        assert difference.mean() < 1e-3
        assert difference.max() < 0.05

    check()
