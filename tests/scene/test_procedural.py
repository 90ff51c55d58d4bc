"""Procedural scenes: exact depth, stated conventions, views that agree, and the same scene for the same seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.geometry.rigs import look_at
from lift3d_cli.scene.load import load_scene
from lift3d_cli.scene.procedural import ProceduralScene, Quality, StreamSpec, TextureLibrary, stream, vary_photos
from lift3d_cli.scene.procedural.__main__ import main
from lift3d_cli.scene.procedural.atlas import TextureAtlas
from lift3d_cli.scene.procedural.builder import Material, SceneBuilder, plain, random_rotation
from lift3d_cli.scene.procedural.layouts import RIGS, Stage
from lift3d_cli.scene.procedural.library import _PATTERNS
from lift3d_cli.scene.procedural.lighting import Light
from lift3d_cli.scene.procedural.scene import tone_map
from lift3d_cli.scene.procedural.solids import BOX, ELLIPSOID, FRUSTUM, unit_intervals, unit_normals
from lift3d_cli.scene.procedural.tabletop_cameras import tabletop_cameras

K = np.array([[100.0, 0, 70], [0, 100.0, 50], [0, 0, 1]])
NO_STAGE = Stage(np.zeros(3), np.array([[-9.0] * 3, [9.0] * 3]), (0.0, np.pi), indoors=False)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def library() -> TextureLibrary:
    return TextureLibrary(12, 64, torch.Generator().manual_seed(0))


def sunlight(direction=(0.0, 0.0, 1.0), key=1.0, sky=0.0) -> Light:
    vector = torch.tensor(direction) / torch.tensor(direction).norm()
    return Light(vector, torch.full((3,), key), torch.full((3,), sky), torch.zeros(3), 0.01, torch.zeros(3), 0.0)


def camera_at(position, target, size=(140, 100), up=(0.0, 0.0, 1.0)) -> Camera:
    return Camera(K, look_at(np.array(position, float), np.array(target, float), np.array(up)), *size)


def scene_of(builder: SceneBuilder, library: TextureLibrary, light: Light | None = None) -> ProceduralScene:
    builder.add(BOX, (0, 0, 0), (20, 20, 20), plain(0.5, 0.5, 0.5), hollow=True)
    return ProceduralScene(builder.build("cpu"), library, light or sunlight(), NO_STAGE)


def test_known_sphere_is_where_the_camera_model_puts_it(library):
    builder = SceneBuilder()
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
    builder = SceneBuilder()
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
    builder = SceneBuilder()
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
    builder = SceneBuilder()
    builder.add(BOX, (0, 0, 0), (1, 1, 1), Material(tile=2.0))
    scene = scene_of(builder, stock, sunlight(key=0.0, sky=1.0))
    for side in ((0, -1), (0, 1), (1, 0), (-1, 0)):
        image, _ = scene.render(camera_at([4 * side[0], 4 * side[1], 0], [0, 0, 0]))
        assert image[:, 40, 60].argmax() == 0
        assert image[:, 40, 80].argmax() == 1
        assert image[:, 60, 60].argmax() == 2


def test_shadow_falls_away_from_the_light(library):
    builder = SceneBuilder()
    builder.add(BOX, (0, 0, -0.1), (5, 5, 0.1), plain(0.7, 0.7, 0.7))
    builder.add(BOX, (0, 0, 1.0), (0.5, 0.5, 0.1), plain(0.7, 0.7, 0.7))
    camera = camera_at([0, -6, 3], [0, 0, 0])
    image, _ = scene_of(builder, library, sunlight((1.0, 0.0, 1.0))).render(camera)
    uv, _ = camera.project(np.array([[-1.0, 0, 0], [1.0, 0, 0]]))
    shaded, lit = (image[:, int(v), int(u)].mean().item() for u, v in uv)
    assert shaded < 0.05
    assert lit > 0.5


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_views_agree_where_both_see_a_matt_surface(seed):
    scene = ProceduralScene.random(seed, rig="arc")
    scene.solids = replace(scene.solids, gloss=torch.zeros_like(scene.solids.gloss))
    a, b = scene.rig(2, 160, 120, seed)
    (image_a, image_b), (depth_a, depth_b) = scene.render_batch([a, b], Quality(supersample=2))
    v, u = np.meshgrid(np.arange(120) + 0.5, np.arange(160) + 0.5, indexing="ij")
    rays = np.stack([u, v, np.ones_like(u)], -1).reshape(-1, 3) @ np.linalg.inv(a.K).T
    xyz = rays * depth_a.numpy().reshape(-1, 1) @ a.c2w[:3, :3].T + a.position
    uv, z = b.project(xyz)
    inside = (z > 0) & (uv > 1).all(1) & (uv[:, 0] < 159) & (uv[:, 1] < 119)
    grid = torch.from_numpy(uv[inside] / [160, 120] * 2 - 1).float()[None, None]
    there = torch.nn.functional.grid_sample(depth_b[None, None], grid, align_corners=False)[0, 0, 0]
    seen = (there / torch.from_numpy(z[inside]) - 1).abs() < 0.003  # also leaves out outlines
    warped = torch.nn.functional.grid_sample(image_b[None], grid, align_corners=False)[0, :, 0]
    difference = (warped - image_a.reshape(3, -1)[:, inside]).abs().mean(0)[seen]
    assert seen.sum() > 2000
    assert difference.mean() < 0.03
    assert difference.median() < 0.02
    assert difference.mean() < 0.35 * (image_a - image_b).abs().mean()


@pytest.mark.parametrize("rig", RIGS)
def test_random_scenes_have_positive_finite_depth_and_room_for_cameras(rig, library):
    for seed in range(6):
        scene = ProceduralScene.random(seed, rig=rig, textures=library)
        cameras = scene.rig(3, 48, 36, seed)
        images, depth = scene.render_batch(cameras)
        assert images.shape == (3, 3, 36, 48)
        assert depth.shape == (3, 36, 48)
        assert depth.isfinite().all()
        assert depth.min() > 0.1
        assert images.min() >= 0
        assert images.max() <= 1
        assert images.std() > 0.03


def test_same_seed_gives_the_same_picture_and_leaves_global_state_alone():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    pictures = []
    for seed in (1, 1, 2):
        scene = ProceduralScene.random(seed, rig="forward")
        pictures.append(torch.stack(scene.render(scene.rig(2, 64, 48, seed)[0])[0].unbind()))
    assert torch.equal(pictures[0], pictures[1])
    assert not torch.equal(pictures[0], pictures[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_supersampling_changes_edges_but_not_depth(library):
    scene = ProceduralScene.random(8, rig="arc", textures=library)
    camera = scene.rig(1, 64, 48)[0]
    plain_image, plain_depth = scene.render(camera, Quality(smooth_edges=False))
    fine_image, fine_depth = scene.render(camera, Quality(supersample=3, shadow_rays=2, sky_rays=4))
    assert torch.equal(plain_depth, fine_depth)
    assert 0 < (plain_image - fine_image).abs().mean() < 0.1


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


def test_stream_yields_documented_tensors_and_repeats_for_a_seed():
    spec = StreamSpec(num_views=3, width=32, height=24, num_textures=12, texture_size=32)
    photo = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(0))
    first, again = (stream(4, spec, textures=[photo]) for _ in range(2))
    for _ in range(3):
        example, same = next(first), next(again)
        shapes = {name: tuple(value.shape) for name, value in example.items()}
        assert shapes == {
            "images": (3, 3, 24, 32),
            "depth": (3, 24, 32),
            "K": (3, 3, 3),
            "w2c": (3, 4, 4),
            "depth_range": (2,),
        }
        assert all(value.dtype == torch.float32 and value.isfinite().all() for value in example.values())
        assert all(torch.equal(example[name], same[name]) for name in example)
        assert example["depth_range"][0] == example["depth"].min()


def test_photo_variation_of_zero_changes_nothing():
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.05
    generator = torch.Generator().manual_seed(1)
    assert torch.allclose(vary_photos(images, generator, 0.0), images, atol=1e-5)
    varied = vary_photos(images, generator, 1.0)
    assert 0.005 < (varied - images).abs().mean() < 0.2


def test_sky_is_above_the_horizon():
    picture = torch.zeros(3, 16, 16)
    picture[:, :8] = 1
    stock = TextureLibrary.of({"sky": picture})
    builder = SceneBuilder()
    builder.add(ELLIPSOID, (0, 0, 0), (30, 30, 30), Material(mirrored=True, emissive=True), hollow=True)
    scene = ProceduralScene(builder.build("cpu"), stock, sunlight(), NO_STAGE)
    image, _ = scene.render(camera_at([0, 0, 0], [1, 2, 0]))
    assert image[:, :30].min() > 0.8
    assert image[:, 70:].max() < 0.3


def test_example_scene_is_written_as_two_scenes_that_load(tmp_path, capsys):
    sizes = ["--width", "48", "--height", "36", "--views", "3", "--held-out", "1", "--draft"]
    assert main(["--output", str(tmp_path / "out"), "--seed", "2", *sizes]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}\n"
    scene, held_out = load_scene(tmp_path / "out"), load_scene(tmp_path / "out" / "held_out")
    assert [view.name for view in scene.views] == [f"images/00{i}.jpg" for i in range(3)]
    assert len(held_out.views) == 1
    expected = tabletop_cameras(3, 48, 36, seed=2)
    for camera, other in zip(scene.cameras, expected, strict=True):
        assert np.allclose(camera.w2c, other.w2c, atol=1e-9)
        assert np.allclose(camera.K, other.K)
    again = main(["--output", str(tmp_path / "again"), "--seed", "2", *sizes])
    assert again == 0
    for file in ("images/002.jpg", "transforms.json", "held_out/images/000.jpg"):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


def test_example_scene_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    code = main(["--output", str(tmp_path / "file"), "--width", "16", "--height", "12", "--draft"])
    assert code == 3
    assert capsys.readouterr().err == f"error: {tmp_path / 'file'}: cannot be written (Not a directory)\n"
