"""Epipolar lines say what projecting world points through the cameras says, wherever and however large the world is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from plane_world import look_at, rig

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.geometry.epipolar import EpipolarLines, homogeneous, ray_angles
from lift3d_cli.geometry.grids import inside, pixel_centers

DEPTHS = (0.5, 2.0, 4.0, 9.0, 60.0)


def moved(camera: Camera, rotation: np.ndarray, shift: np.ndarray, scale: float = 1.0) -> Camera:
    """The camera in a world where each point x is now at scale * rotation x + shift: it takes the same photo."""
    w2c = np.eye(4)
    w2c[:3, :3] = camera.w2c[:3, :3] @ rotation.T
    w2c[:3, 3] = scale * camera.w2c[:3, 3] - w2c[:3, :3] @ shift
    return Camera(camera.K, w2c, camera.width, camera.height)


def turn(seed: int) -> np.ndarray:
    """A random rotation [3, 3]."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q *= np.sign(np.diag(r))
    return q * np.linalg.det(q)


def points_on_rays(target: Camera, uv: np.ndarray, t: np.ndarray) -> np.ndarray:  # [R, S, 3] world, float64
    rays = np.concatenate([uv, np.ones((len(uv), 1))], 1) @ np.linalg.inv(target.K).T
    return (rays[:, None] * t[..., None]) @ target.c2w[:3, :3].T + target.position


@pytest.fixture
def cameras() -> tuple[Camera, list[Camera]]:
    """A target, and sources beside it, behind it, ahead of it and turned away."""
    target = look_at((0.2, 0.1, -4.0))
    others = [look_at((0.3, 0.2, -8.0), width=50, height=80), look_at((0.0, 0.3, -2.0), focal=40.0)]
    return target, [*rig(4), *others, look_at((0.1, 0.0, -3.9), (0.1, 0.0, -9.0)), look_at((-5.0, 0.0, -1.0))]


@pytest.fixture
def rays() -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels [R, 2] and depths [R, S]."""
    uv = pixel_centers(96, 72)[::97]
    return uv, torch.tensor(DEPTHS).expand(len(uv), -1)


def test_projection_equals_that_of_world_points(cameras, rays):
    target, sources = cameras
    uv, t = rays
    got, z = EpipolarLines.between(target, sources).project(uv, t)
    assert got.shape == (len(sources), len(uv), len(DEPTHS), 2)
    assert z.shape == got.shape[:-1]
    xyz = points_on_rays(target, uv.double().numpy(), t.double().numpy())
    for i, source in enumerate(sources):
        want, want_z = source.project(xyz.reshape(-1, 3))
        np.testing.assert_allclose(z[i].reshape(-1), want_z, rtol=1e-4, atol=1e-5)
        clear = np.abs(want_z) > 1e-2  # at z = 0 the two may round to different sides
        np.testing.assert_allclose(got[i].reshape(-1, 2)[clear], want[clear], rtol=1e-4, atol=2e-3)


def test_point_behind_a_source_has_no_pixel_and_is_not_inside(cameras, rays):
    target, sources = cameras
    uv, z = EpipolarLines.between(target, sources).project(*rays)
    behind = z <= 0
    assert behind.any(2).any(1).sum() >= 2  # this test has such sources
    assert torch.isnan(uv[behind]).all()
    assert not torch.isnan(uv[~behind]).any()
    assert not inside(uv, 96, 72)[behind].any()


def test_pixels_of_a_ray_lie_on_its_epipolar_line(cameras, rays):
    # x'^T F x = 0 with F = K'^-T [t]x R K^-1 (Hartley & Zisserman 2004, eq. 9.12), all in float64.
    target, sources = cameras
    uv, t = rays
    got, z = EpipolarLines.between(target, sources).project(uv, t)
    x = homogeneous(uv).double().numpy()
    for i, source in enumerate(sources):
        motion = source.w2c @ target.c2w
        a, b, c = motion[:3, 3]
        cross = np.array([[0, -c, b], [c, 0, -a], [-b, a, 0]])
        F = np.linalg.inv(source.K).T @ cross @ motion[:3, :3] @ np.linalg.inv(target.K)
        lines = x @ F.T
        lines /= np.linalg.norm(lines[:, :2], axis=1, keepdims=True)  # then the product is a distance in pixels
        seen = (z[i] > 0.1).numpy()
        distance = np.einsum("rsk,rk->rs", homogeneous(got[i]).double().numpy(), lines)[seen]
        far_out = np.abs(got[i].numpy()).max(-1)[seen]
        assert (np.abs(distance) < 1e-3 + 1e-5 * far_out).all()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_pixels_stay_when_the_world_is_moved_and_scaled(cameras, rays, scale):
    target, sources = cameras
    uv, t = rays
    rotation, shift = turn(3), np.array([30.0, -7.0, 100.0]) * scale
    there = [moved(camera, rotation, shift, scale) for camera in (target, *sources)]
    want, want_z = EpipolarLines.between(target, sources).project(uv, t)
    got, z = EpipolarLines.between(there[0], there[1:]).project(uv, t * scale)
    clear = want_z.abs() > 1e-2
    torch.testing.assert_close(got[clear], want[clear], rtol=1e-4, atol=2e-3, equal_nan=True)
    torch.testing.assert_close(z[clear], want_z[clear] * scale, rtol=1e-4, atol=1e-5 * scale)


def test_a_million_units_from_the_origin_pixels_are_still_exact(cameras, rays):
    # float32 world coordinates would be 0.06 units wrong there, which is more than a pixel.
    target, sources = cameras
    shift = np.array([1e6, -1e6, 1e6])
    there = [moved(camera, np.eye(3), shift) for camera in (target, *sources)]
    want, z = EpipolarLines.between(target, sources).project(*rays)
    got, _ = EpipolarLines.between(there[0], there[1:]).project(*rays)
    clear = z > 0.1
    torch.testing.assert_close(got[clear], want[clear], rtol=1e-5, atol=2e-3)


def test_source_at_the_targets_pose_sees_every_depth_in_the_same_pixel():
    target = look_at((0.2, 0.1, -4.0))
    uv = pixel_centers(96, 72)
    got, z = EpipolarLines.between(target, [target]).project(uv, torch.tensor(DEPTHS).expand(len(uv), -1))
    torch.testing.assert_close(got[0], uv[:, None].expand(-1, len(DEPTHS), -1), atol=1e-3, rtol=0)
    torch.testing.assert_close(z[0], torch.tensor(DEPTHS).expand(len(uv), -1))


def test_sideways_step_shifts_pixels_by_focal_times_baseline_over_depth():
    K = np.array([[100.0, 0, 50], [0, 100, 40], [0, 0, 1]])
    w2c = np.eye(4)
    w2c[0, 3] = -0.5  # the source stands 0.5 to the right: what it sees moves left
    lines = EpipolarLines.between(Camera(K, np.eye(4), 100, 80), [Camera(K, w2c, 100, 80)])
    got, _ = lines.project(torch.tensor([[50.0, 40.0]]), torch.tensor([[1.0, 5.0]]))
    torch.testing.assert_close(got, torch.tensor([[[[0.0, 40.0], [40.0, 40.0]]]]))


def test_ray_angles_equal_the_arccos_of_the_lines_of_sight(cameras, rays):
    target, sources = cameras
    uv, t = rays
    got = ray_angles(EpipolarLines.between(target, sources), uv, t)
    xyz = points_on_rays(target, uv.double().numpy(), t.double().numpy())
    for i, source in enumerate(sources):
        a, b = target.position - xyz, source.position - xyz
        cosine = (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
        np.testing.assert_allclose(got[i], np.arccos(np.clip(cosine, -1, 1)), atol=2e-5)


def test_ray_angles_known_by_hand():
    def at(x: float, z: float) -> Camera:
        w2c = np.eye(4)
        w2c[0, 3], w2c[2, 3] = -x, -z
        return Camera(np.array([[100.0, 0, 50], [0, 100, 50], [0, 0, 1]]), w2c, 100, 100)

    # A point 2 ahead of the target, seen from beside the target, from beside the point, from behind the point.
    lines = EpipolarLines.between(at(0, 0), [at(2, 0), at(5, 2), at(0, 7), at(0, 0), at(0, -3)])
    got = ray_angles(lines, torch.tensor([[50.0, 50.0]]), torch.tensor([[2.0]]))
    torch.testing.assert_close(got[:, 0, 0], torch.tensor([np.pi / 4, np.pi / 2, np.pi, 0, 0], dtype=torch.float32))


def test_ray_angles_keep_the_smallest_angles():
    # arccos in float32 cannot tell angles below 3e-4 from 0.
    target, source = look_at((0.0, 0.0, -4.0), (0, 0, 0)), look_at((4e-5, 0.0, -4.0), (4e-5, 0, 0))
    got = ray_angles(EpipolarLines.between(target, [source]), torch.tensor([[48.0, 36.0]]), torch.tensor([[4.0]]))
    assert float(got) == pytest.approx(1e-5, rel=1e-2)
