"""Procedural scenes: views that agree, the same scene for the same seed, and scenes written to disk."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lift3d_cli.procedural import ProceduralScene, Quality, StreamSpec, stream, vary_photos
from lift3d_cli.procedural.__main__ import main
from lift3d_cli.procedural.layouts import RIGS
from lift3d_cli.procedural.tabletop import tabletop
from lift3d_cli.procedural.tabletop_cameras import tabletop_cameras
from lift3d_cli.scene.depth_maps import read_depth_map
from lift3d_cli.scene.load import load_scene


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


def test_scene_is_written_with_the_exact_depth_of_its_photos(tmp_path):
    sizes = ["--width", "48", "--height", "36", "--views", "2", "--held-out", "0", "--draft", "--depth"]
    assert main(["--output", str(tmp_path), "--seed", "2", *sizes]) == 0
    scene = load_scene(tmp_path)
    for view, camera in zip(scene.views, tabletop_cameras(2, 48, 36, seed=2), strict=True):
        stored, exact = read_depth_map(view), tabletop(2).render(camera)[1].numpy()
        assert np.allclose(stored.values * stored.unit, np.where(np.isfinite(exact), exact, 0), atol=stored.unit)


def test_example_scene_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    code = main(["--output", str(tmp_path / "file"), "--width", "16", "--height", "12", "--draft"])
    assert code == 3
    assert capsys.readouterr().err == f"error: {tmp_path / 'file'}: cannot be written (Not a directory)\n"
