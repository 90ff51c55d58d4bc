"""View consistency: equal surfaces are compared, hidden ones are not, and differences come out as they are."""

from __future__ import annotations

import pytest
import torch
from plane_world import WALL, WALL_AND_CARD, as_tensor, look_at, photograph

from lift3d_cli.config import EvalConfig
from lift3d_cli.evaluation.consistency import METHODS, _Frame, compare, correspondences, measure_consistency
from lift3d_cli.scene.load import load_scene

LEFT, RIGHT = look_at((-0.3, 0.0, -4.0)), look_at((0.3, 0.1, -4.0))


def frame(camera, planes, **decoded) -> _Frame:
    image, depth = photograph(camera, planes)
    methods = {method: decoded.get("image", as_tensor(image)) for method in METHODS}
    return _Frame(camera, torch.from_numpy(depth).float(), torch.ones(camera.height, camera.width), methods)


def test_photos_of_one_wall_agree_where_both_show_it():
    row = compare(frame(LEFT, WALL), frame(RIGHT, WALL))["lifted"]
    assert row["rmse"] < 0.03  # bilinear sampling
    assert 0.7 < row["shared"] <= 1


def test_difference_of_two_plain_colours_is_measured_exactly():
    dark, light = torch.full((3, 72, 96), 0.25), torch.full((3, 72, 96), 0.75)
    row = compare(frame(LEFT, WALL, image=dark), frame(RIGHT, WALL, image=light))["lifted"]
    assert row["rmse"] == pytest.approx(0.5, abs=1e-4)
    assert row["chroma"] == pytest.approx(0, abs=0.1)  # greys of other lightness have no other colour


def test_what_stands_behind_a_card_in_the_other_view_is_not_compared():
    a, b = frame(LEFT, WALL_AND_CARD), frame(RIGHT, WALL_AND_CARD)
    uv, shared = correspondences(a.camera, a.depth, b.camera, b.depth)
    z = EpipolarDepth(a, b)
    hidden = (z - sampled(b.depth, uv)) > 0.5
    assert hidden.any()
    assert not (shared & hidden).any()


def EpipolarDepth(a: _Frame, b: _Frame) -> torch.Tensor:  # [H * W] z-depth in b of what a shows
    from lift3d_cli.geometry.epipolar import EpipolarLines
    from lift3d_cli.geometry.grids import pixel_centers

    rays = pixel_centers(a.camera.width, a.camera.height)
    return EpipolarLines.between(a.camera, [b.camera]).project(rays, a.depth.reshape(-1, 1))[1][0, :, 0]


def sampled(depth: torch.Tensor, uv: torch.Tensor) -> torch.Tensor:
    from lift3d_cli.geometry.grids import sample_map

    return sample_map(depth[None, None], uv[None])[0, 0]


def test_frames_that_share_nothing_are_left_out(wall_scene):
    away = look_at((0.0, 0.0, -4.0), (0.0, 0.0, -9.0))
    a, b = frame(LEFT, WALL), frame(away, WALL)
    assert compare(a, b)["lifted"]["shared"] == 0


def test_scene_is_measured_for_all_methods_and_pairs(wall_scene, model_ref):
    config = EvalConfig(every=4, height=0, views=4, model=model_ref, variant="training-free")
    got = measure_consistency(load_scene(wall_scene), config)
    assert set(got) == {"near", "far"}
    for pair in got.values():
        assert set(pair) == set(METHODS)
        assert all(0 < row["rmse"] < 0.2 and 0.3 < row["shared"] <= 1 for row in pair.values())
