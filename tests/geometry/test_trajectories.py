"""Camera paths: rigid, aimed, inside what the photos cover, and moving with the scene."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from lift3d_cli.errors import SceneError
from lift3d_cli.geometry import rigs, trajectories
from lift3d_cli.geometry.cameras import Camera

K = np.array([[300.0, 0, 160], [0, 300.0, 120], [0, 0, 1]])
UP = np.array([0.0, 0.0, 1.0])


def camera_at(position, target, up=UP) -> Camera:
    position, target = np.asarray(position, float), np.asarray(target, float)
    return Camera(K, rigs.look_at(position, target, up), 320, 240)


def arc(degrees: float, count: int, seed: int = 0) -> list[Camera]:
    """Photos on an arc of radius 4 and height 1.5 around the origin, aimed and placed a little off."""
    rng = np.random.default_rng(seed)
    angles = np.radians(np.linspace(-degrees / 2, degrees / 2, count, endpoint=degrees < 360))
    positions = np.stack([4 * np.cos(angles), 4 * np.sin(angles), np.full(count, 1.5)], 1)
    positions += rng.normal(0, 0.05, positions.shape)
    return [camera_at(p, rng.normal(0, 0.05, 3)) for p in positions]


def grid(seed: int = 0) -> list[Camera]:
    """Forward-facing photos: a 4 x 3 grid, axes parallel up to two degrees, content 10 away."""
    rng = np.random.default_rng(seed)
    places = [np.array([0.0, x, z]) + rng.normal(0, 0.05, 3) for x in (-1.5, -0.5, 0.5, 1.5) for z in (-0.5, 0, 0.5)]
    return [camera_at(p, p + np.array([10, *rng.normal(0, 0.35, 2)])) for p in places]


def walk() -> list[Camera]:
    """Photos along a bending corridor, each looking ahead."""
    s = np.linspace(0, 1, 12)
    positions = np.stack([8 * s, 2 * np.sin(3 * s), 0.2 * np.sin(7 * s)], 1)
    return [camera_at(p, p + np.array([np.cos(a), np.sin(a), 0])) for p, a in zip(positions, 2 * s, strict=True)]


PATHS = {
    "orbit": lambda cameras: trajectories.orbit(cameras, 17, 200, 150, 10.0),
    "spiral": lambda cameras: trajectories.spiral(cameras, 17, 200, 150),
    "interpolate": lambda cameras: trajectories.interpolate(cameras, 17, 200, 150),
}
RIGS = {"arc": lambda: arc(100, 9), "circle": lambda: arc(360, 12), "grid": grid, "walk": walk}


def moved(camera: Camera, rotation: np.ndarray, shift: np.ndarray, scale: float) -> Camera:
    """The camera after the world was turned, scaled and shifted: x -> scale * rotation x + shift."""
    axes = camera.w2c[:3, :3] @ rotation.T
    return Camera(
        camera.K, rigs.w2c_from_axes(axes, scale * rotation @ camera.position + shift), camera.width, camera.height
    )


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize("rig", RIGS)
def test_poses_are_rigid_and_share_size_and_lens(kind, rig):
    path = PATHS[kind](RIGS[rig]())
    assert len(path) == 17
    for camera in path:
        R = camera.w2c[:3, :3]
        assert np.abs(R @ R.T - np.eye(3)).max() < 1e-12
        assert np.linalg.det(R) == pytest.approx(1)
        assert (camera.width, camera.height) == (200, 150)
        assert np.allclose(camera.K, [[187.5, 0, 100], [0, 187.5, 75], [0, 0, 1]])


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize("rig", RIGS)
def test_path_moves_with_the_scene(kind, rig):
    cameras = RIGS[rig]()
    rotation = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
    rotation *= np.linalg.det(rotation)
    shift, scale = np.array([30.0, -7, 12]), 0.01
    build = PATHS[kind]
    if kind == "orbit":  # its focus depth is a length, so it scales too
        expected = [moved(c, rotation, shift, scale) for c in trajectories.orbit(cameras, 17, 200, 150, 10.0)]
        actual = trajectories.orbit([moved(c, rotation, shift, scale) for c in cameras], 17, 200, 150, 10.0 * scale)
    else:
        expected = [moved(c, rotation, shift, scale) for c in build(cameras)]
        actual = build([moved(c, rotation, shift, scale) for c in cameras])
    for a, e in zip(actual, expected, strict=True):
        assert np.allclose(a.position, e.position, atol=1e-7)
        assert np.allclose(a.w2c[:3, :3], e.w2c[:3, :3], atol=1e-6)


def test_orbit_stays_within_the_arc_that_the_photos_cover():
    cameras = arc(100, 9)
    path = trajectories.orbit(cameras, 30, 200, 150)
    azimuths = np.degrees([np.arctan2(c.position[1], c.position[0]) for c in path])
    assert azimuths.min() > -53
    assert azimuths.max() < 53
    assert np.ptp(azimuths) > 95
    radii = [np.linalg.norm(c.position) for c in path]
    assert np.allclose(radii, np.hypot(4, 1.5), atol=0.1)


def test_orbit_goes_all_the_way_round_when_the_photos_do():
    path = trajectories.orbit(arc(360, 12), 36, 200, 150)
    azimuths = np.unwrap([np.arctan2(c.position[1], c.position[0]) for c in path])
    steps = np.degrees(np.diff(azimuths))
    assert np.allclose(steps, 10, atol=1)
    assert np.degrees(np.ptp(azimuths)) == pytest.approx(350, abs=1)


@pytest.mark.parametrize("degrees", [60, 150, 360])
def test_orbit_sees_the_common_point_in_the_middle(degrees):
    point = rigs.look_at_point(arc(degrees, 10))
    assert np.linalg.norm(point) < 0.1
    for camera in trajectories.orbit(arc(degrees, 10), 8, 200, 150):
        uv, z = camera.project(point[None])
        assert np.allclose(uv, [[100, 75]], atol=1e-6)
        assert z[0] > 0


def test_stray_photos_do_not_pull_the_common_point():
    strays = [camera_at([5, 5, 1], [50, 5, 1]), camera_at([-4, 0, 2], [-4, 30, 2])]
    assert np.linalg.norm(rigs.look_at_point([*arc(150, 12), *strays])) < 0.2


def test_parallel_photos_have_no_common_point():
    assert rigs.look_at_point(grid()) is None
    assert rigs.look_at_point(grid()[:1]) is None


def test_up_is_level_photos_up_even_when_all_look_down():
    steep = [camera_at([3 * np.cos(a), 3 * np.sin(a), 3], [0, 0, 0]) for a in np.linspace(-0.8, 0.8, 7)]
    assert np.degrees(np.arccos(rigs.up_direction(steep) @ UP)) < 1.5
    rolled = camera_at([3, 0.5, 3], [0, 0, 0], up=np.array([0.0, 1, 0]))
    assert np.degrees(np.arccos(rigs.up_direction([*steep, rolled]) @ UP)) < 3


def test_spiral_stays_near_the_photos_and_looks_at_the_focus():
    cameras = grid()
    positions = np.stack([c.position for c in cameras])
    path = np.stack([c.position for c in trajectories.spiral(cameras, 60, 200, 150, focus_depth=10)])
    slack = 0.1 * np.ptp(positions, axis=0).max()
    assert (path > positions.min(0) - slack).all()
    assert (path < positions.max(0) + slack).all()
    assert np.ptp(path, axis=0)[1] > 2
    closest = np.stack([c.forward for c in trajectories.spiral(cameras, 60, 200, 150, focus_depth=10)])
    targets = path + closest * (10 / closest[:, :1])
    assert np.ptp(targets, axis=0).max() < 0.5


def test_spiral_of_one_photo_is_a_slight_movement():
    photo = camera_at([0, 0, 0], [1, 0, 0])
    path = trajectories.spiral([photo], 10, 200, 150, focus_depth=5)
    distances = [np.linalg.norm(c.position) for c in path]
    assert 0 < max(distances) < 0.2


def test_interpolate_passes_through_the_photos_in_their_order():
    cameras = walk()
    path = trajectories.interpolate(cameras, 400, 320, 240)
    places = np.stack([c.position for c in path])
    visited = [np.linalg.norm(places - c.position, axis=1) for c in cameras]
    assert max(d.min() for d in visited) < 0.03
    assert np.all(np.diff([d.argmin() for d in visited]) > 0)
    assert np.allclose(path[0].w2c, cameras[0].w2c, atol=1e-9)
    assert np.allclose(path[-1].w2c, cameras[-1].w2c, atol=1e-9)


def test_interpolate_keeps_a_constant_speed():
    path = trajectories.interpolate(walk(), 100, 320, 240)
    unit = np.std([c.position for c in walk()], axis=0)
    steps = [
        np.hypot(np.linalg.norm(a.position - b.position) / np.linalg.norm(unit), np.linalg.norm(a.w2c - b.w2c) / 8**0.5)
        for a, b in zip(path[1:], path[:-1], strict=True)
    ]
    assert max(steps) < 2 * min(steps)


def test_shuffled_photos_get_a_short_route_and_a_walk_keeps_its_order():
    cameras = walk()
    assert trajectories.route(cameras) == list(range(12))
    order = np.random.default_rng(3).permutation(12)
    found = [int(order[i]) for i in trajectories.route([cameras[i] for i in order])]
    assert found in (list(range(12)), list(range(11, -1, -1)))


def test_interpolate_handles_repeated_and_single_poses():
    photo = camera_at([1, 2, 3], [0, 0, 0])
    for cameras in ([photo], [photo, photo]):
        path = trajectories.interpolate(cameras, 5, 320, 240)
        assert all(np.allclose(c.w2c, photo.w2c) for c in path)


def test_views_are_the_photos_own_cameras():
    cameras = arc(100, 9)
    assert trajectories.views(cameras, every=4) == [cameras[0], cameras[4], cameras[8]]
    small = trajectories.views(cameras, width=160, height=120)[0]
    assert np.allclose(small.K, cameras[0].resized(160, 120).K)
    wide = trajectories.views(cameras, width=320, height=100)[0]
    assert np.allclose(wide.K[:2, 2], [160, 50])
    assert wide.K[0, 0] == wide.K[1, 1] == 300


def test_picture_of_another_aspect_is_a_crop_of_the_photos():
    lens = rigs.median_lens(arc(100, 9), 320, 100)
    assert lens[0, 0] == pytest.approx(300)
    lens = rigs.median_lens(arc(100, 9), 100, 240)
    assert lens[1, 1] == pytest.approx(300)


def test_photos_that_look_outward_cannot_be_orbited():
    outward = [camera_at([np.cos(a), np.sin(a), 0], [3 * np.cos(a), 3 * np.sin(a), 0]) for a in np.arange(8) * 0.785]
    with pytest.raises(SceneError, match="hint: choose a path that interpolates the photos"):
        trajectories.orbit(outward, 10, 200, 150)


@pytest.mark.parametrize("kind", PATHS)
def test_no_photos_is_an_error(kind):
    with pytest.raises(SceneError, match="at least one photo"):
        PATHS[kind]([])
    with pytest.raises(SceneError, match="of 0 poses is empty"):
        getattr(trajectories, kind)(arc(100, 5), 0, 200, 150)


def test_paths_start_without_torch():
    code = (
        "import sys; import lift3d_cli.geometry.trajectories, lift3d_cli.scene.paths; assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
