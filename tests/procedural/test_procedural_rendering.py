"""How procedural scenes are rendered: exact depth, stated conventions, light and textures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.geometry.rigs import look_at
from lift3d_cli.procedural import ProceduralScene, TextureLibrary
from lift3d_cli.procedural.atlas import TextureAtlas
from lift3d_cli.procedural.builder import Material, SolidsBuilder, plain, random_rotation
from lift3d_cli.procedural.layouts import Arrangement
from lift3d_cli.procedural.library import _PATTERNS
from lift3d_cli.procedural.lighting import Light
from lift3d_cli.procedural.scene import tone_map
from lift3d_cli.procedural.solids import BOX, ELLIPSOID, FRUSTUM, unit_intervals, unit_normals

K = np.array([[100.0, 0, 70], [0, 100.0, 50], [0, 0, 1]])
NO_ARRANGEMENT = Arrangement(np.zeros(3), np.array([[-9.0] * 3, [9.0] * 3]), (0.0, np.pi), indoors=False)


def sunlight(direction=(0.0, 0.0, 1.0), key=1.0, sky=0.0) -> Light:
    vector = torch.tensor(direction) / torch.tensor(direction).norm()
    return Light(vector, torch.full((3,), key), torch.full((3,), sky), torch.zeros(3), 0.01, torch.zeros(3), 0.0)


def camera_at(position, target, size=(140, 100), up=(0.0, 0.0, 1.0)) -> Camera:
    return Camera(K, look_at(np.array(position, float), np.array(target, float), np.array(up)), *size)


def scene_of(builder: SolidsBuilder, library: TextureLibrary, light: Light | None = None) -> ProceduralScene:
    builder.add(BOX, (0, 0, 0), (20, 20, 20), plain(0.5, 0.5, 0.5), hollow=True)
    return ProceduralScene(builder.build("cpu"), library, light or sunlight(), NO_ARRANGEMENT)


def test_known_sphere_is_where_the_camera_model_puts_it(library):
    builder = SolidsBuilder()
    centre, radius = np.array([0.4, -0.3, 0.2]), 0.5
    builder.add(ELLIPSOID, centre, (radius,) * 3, plain(0.8, 0.1, 0.1))
    camera = camera_at([3, 1, 2], [0, 0, 0])
    _, depth = scene_of(builder, library).render(camera)
    v, u = np.meshgrid(np.arange(100) + 0.5, np.arange(140) + 0.5, indexing="ij")
    rays = np.stack([(u - 70) / 100, (v - 50) / 100, np.ones_like(u)], -1)  # unit camera-z
    in_camera = camera.w2c[:3, :3] @ centre + camera.w2c[:3, 3]
    a, b, c = (rays**2).sum(-1), rays @ in_camera, in_camera @ in_camera - radius**2
    expected = np.where(b * b > a * c, (b - np.sqrt(np.maximum(b * b - a * c, 0))) / a, np.nan)
    on_sphere = np.isfinite(expected)
    assert on_sphere.sum() > 300
    assert np.abs(depth.numpy() - expected)[on_sphere].max() < 1e-3
    assert depth.numpy()[~on_sphere].min() > 5
    centre_uv, _ = camera.project(centre[None])
    assert on_sphere[int(centre_uv[0, 1]), int(centre_uv[0, 0])]


def test_depth_is_the_camera_z_not_the_distance(library):
    builder = SolidsBuilder()
    builder.add(BOX, (0, 2, 0), (9, 0.5, 9), plain(0.5, 0.5, 0.5))
    _, depth = scene_of(builder, library).render(camera_at([0, -2, 0], [0, 0, 0]))
    assert np.abs(depth.numpy() - 3.5).max() < 1e-5


@pytest.mark.parametrize("kind", [BOX, ELLIPSOID, FRUSTUM])
def test_intervals_are_where_the_ray_is_inside(kind):
    rng = torch.Generator().manual_seed(kind)
    count = 400
    origins = torch.randn(count, 3, generator=rng) * 2
    directions = torch.randn(count, 3, generator=rng) - 0.7 * origins
    taper = torch.rand(count, generator=rng) * (torch.arange(count) % 4 > 0)  # every fourth is a pointed cone
    t_in, t_out = unit_intervals(torch.full((count,), kind), taper, origins, directions)
    t = torch.linspace(-3, 3, 1201)
    p = origins[:, None] + t[None, :, None] * directions[:, None]
    radius = ((1 + taper[:, None]) + (taper[:, None] - 1) * p[..., 2]) / 2
    round_ = (p[..., :2].norm(dim=-1) <= radius) & (p[..., 2].abs() <= 1)
    inside = {BOX: p.abs().amax(-1) <= 1, ELLIPSOID: p.norm(dim=-1) <= 1, FRUSTUM: round_}[kind]
    by_interval = (t >= t_in[:, None]) & (t <= t_out[:, None])
    at_the_ends = ((t - t_in[:, None]).abs() < 1e-4) | ((t - t_out[:, None]).abs() < 1e-4)
    assert inside.any(1).sum() > 100
    assert ((inside == by_interval) | at_the_ends).all()


@pytest.mark.parametrize("kind", [BOX, ELLIPSOID, FRUSTUM])
def test_normals_point_out_of_the_solid(kind):
    rng = torch.Generator().manual_seed(3)
    origins = torch.nn.functional.normalize(torch.randn(300, 3, generator=rng), dim=1) * 4
    directions = 0.5 * torch.randn(300, 3, generator=rng).clamp(-1, 1) - origins
    taper = torch.full((300,), 0.4)
    kinds = torch.full((300,), kind)
    t_in, t_out = unit_intervals(kinds, taper, origins, directions)
    hit = t_in < t_out - 1e-3
    normals, _ = unit_normals(kinds[hit], taper[hit], (origins + t_in[:, None] * directions)[hit])
    assert hit.sum() > 100
    assert ((normals * directions[hit]).sum(1) < 0).all()


def test_thin_rod_far_away_keeps_its_depth(library):
    builder = SolidsBuilder()
    camera = replace(camera_at([0.001, -2, 0], [0, 15, 0]), K=np.array([[2e4, 0, 70], [0, 2e4, 50], [0, 0, 1]]))
    builder.add(FRUSTUM, (0, 15, 0), (0.05, 0.05, 2.0), plain(0.8, 0.8, 0.8))
    _, depth = scene_of(builder, library).render(camera)
    assert depth[50, 70].item() == pytest.approx(16.95, abs=1e-4)


def test_pictures_on_a_face_are_upright_and_not_mirrored():
    quarters = torch.zeros(3, 8, 8)
    quarters[0, :4, :4] = 1  # red above left
    quarters[1, :4, 4:] = 1  # green above right
    quarters[2, 4:, :4] = 1  # blue below left
    stock = TextureLibrary(1, 8, torch.Generator().manual_seed(0))
    stock.atlas = TextureAtlas(quarters[None])
    builder = SolidsBuilder()
    builder.add(BOX, (0, 0, 0), (1, 1, 1), Material(tile=2.0))
    scene = scene_of(builder, stock, sunlight(key=0.0, sky=1.0))
    for side in ((0, -1), (0, 1), (1, 0), (-1, 0)):
        image, _ = scene.render(camera_at([4 * side[0], 4 * side[1], 0], [0, 0, 0]))
        assert image[:, 40, 60].argmax() == 0
        assert image[:, 40, 80].argmax() == 1
        assert image[:, 60, 60].argmax() == 2


def test_shadow_falls_away_from_the_light(library):
    builder = SolidsBuilder()
    builder.add(BOX, (0, 0, -0.1), (5, 5, 0.1), plain(0.7, 0.7, 0.7))
    builder.add(BOX, (0, 0, 1.0), (0.5, 0.5, 0.1), plain(0.7, 0.7, 0.7))
    camera = camera_at([0, -6, 3], [0, 0, 0])
    image, _ = scene_of(builder, library, sunlight((1.0, 0.0, 1.0))).render(camera)
    uv, _ = camera.project(np.array([[-1.0, 0, 0], [1.0, 0, 0]]))
    shaded, lit = (image[:, int(v), int(u)].mean().item() for u, v in uv)
    assert shaded < 0.05
    assert lit > 0.5


def test_sky_is_above_the_horizon():
    picture = torch.zeros(3, 16, 16)
    picture[:, :8] = 1
    stock = TextureLibrary.of({"sky": picture})
    builder = SolidsBuilder()
    builder.add(ELLIPSOID, (0, 0, 0), (30, 30, 30), Material(mirrored=True, emissive=True), hollow=True)
    scene = ProceduralScene(builder.build("cpu"), stock, sunlight(), NO_ARRANGEMENT)
    image, _ = scene.render(camera_at([0, 0, 0], [1, 2, 0]))
    assert image[:, :30].min() > 0.8
    assert image[:, 70:].max() < 0.3


@pytest.mark.parametrize("name", _PATTERNS)
def test_patterns_are_pictures_that_tile(name):
    for seed in range(3):
        picture = _PATTERNS[name][0](64, torch.Generator().manual_seed(seed))
        assert picture.shape == (3, 64, 64)
        assert picture.min() >= 0
        assert picture.max() <= 1
        step = (picture[:, :, 1:] - picture[:, :, :-1]).abs().mean(dim=(0, 1))
        seam = (picture[:, :, 0] - picture[:, :, -1]).abs().mean()
        assert seam <= step.max() + 0.03


def test_atlas_reads_texels_at_their_centres_and_averages_far_away():
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(3, 3, 16, 16, generator=generator)
    atlas = TextureAtlas(pictures)
    uv = torch.tensor([[(5 + 0.5) / 16, 1 - (2 + 0.5) / 16]])
    which, near = torch.tensor([1]), torch.tensor([1e-3])
    straight = torch.tensor([False])
    expected = pictures[1, :, 2, 5] ** 2.2
    assert torch.allclose(atlas.sample(which, uv, near, straight)[0], expected, atol=1e-5)
    assert torch.allclose(atlas.sample(which, uv + 3, near, straight)[0], expected, atol=1e-4)
    mean = (pictures[1] ** 2.2).mean((1, 2))
    assert torch.allclose(atlas.sample(which, uv, torch.tensor([50.0]), straight)[0], mean, atol=1e-2)
    atlas.replace(1, pictures[2])
    assert torch.allclose(atlas.sample(which, uv, near, straight)[0], pictures[2, :, 2, 5] ** 2.2, atol=1e-5)


def test_random_rotation_is_a_rotation():
    R = random_rotation(np.random.default_rng(0))
    assert np.allclose(R @ R.T, np.eye(3))
    assert np.linalg.det(R) == pytest.approx(1)


def test_tone_map_is_monotonous_and_bounded():
    out = tone_map(torch.linspace(0, 5, 100))
    assert (out.diff() >= 0).all()
    assert out[0] == 0
    assert out[-1] <= 1
