"""Which photos a target is rendered from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import plane_world
import pytest
import torch
from plane_world import look_at
from rendering import RANGE
from torch.nn import functional as F

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.lifting import sources as sources_module
from lift3d_cli.lifting.sources import SourceViews, pad_maps, select_sources


@pytest.fixture(params=["points", "no points"])
def points(request) -> np.ndarray | None:
    """Points on the wall, or none."""
    if request.param == "no points":
        return None
    return np.random.default_rng(0).uniform((-3, -3, -0.1), (3, 3, 0.1), (3000, 3))


@pytest.fixture
def cameras() -> list[Camera]:
    """Cameras on an irregular arc, so that no two are equally good."""
    x = [-1.7, -1.1, -0.62, -0.2, 0.13, 0.5, 0.97, 1.6]
    return [look_at((x, 0.3 * np.sin(5 * x), -4 + 0.2 * np.cos(3 * x))) for x in x]


TARGET = look_at((0.1, 0.05, -4.0))


def test_order_of_the_candidates_does_not_matter(cameras, points):
    want = [cameras[i].position.tolist() for i in select_sources(TARGET, cameras, 5, RANGE, points)]
    for seed in range(3):
        shuffled = [cameras[i] for i in np.random.default_rng(seed).permutation(8)]
        got = [shuffled[i].position.tolist() for i in select_sources(TARGET, shuffled, 5, RANGE, points)]
        assert got == want


def test_photo_at_the_targets_own_pose_comes_first(cameras, points):
    for i, camera in enumerate(cameras):
        assert select_sources(camera, cameras, 3, RANGE, points)[0] == i


def test_one_view_is_the_nearest(cameras, points):
    assert select_sources(TARGET, cameras, 1, RANGE, points) == [4]


def test_view_that_looks_away_is_left_out_where_others_see_enough_and_comes_last_elsewhere(cameras, points):
    away = look_at((0.1, 0.05, -4.1), (0.1, 0.05, -9.0))
    assert sorted(select_sources(TARGET, [away, *cameras], 9, RANGE, points)) == list(range(1, 9))
    assert select_sources(TARGET, [away, *cameras[:2]], 9, RANGE, points)[-1] == 0


def test_views_so_far_to_the_side_that_they_only_contradict_are_left_out(cameras, points):
    far = [look_at((x, 0.0, 0.2), (0.0, 0.0, 0.0)) for x in (-4.0, 4.0)]  # along the wall
    assert not set(select_sources(TARGET, [*cameras[:4], *far], 6, RANGE, points)) & {4, 5}


def test_photo_of_a_part_that_no_other_shows_is_chosen(points):
    # Five near the target that see its left half only, and one farther away that sees its right half.
    left = [look_at((-0.2 + 0.02 * i, 0, -4), (-2.2, 0, 0)) for i in range(5)]
    right = look_at((1.5, 0.4, -4), (1.8, 0, 0))
    assert 5 in select_sources(TARGET, [*left, right], 2, RANGE, points)


def test_views_are_chosen_once_each_and_at_most_all(cameras, points):
    assert sorted(select_sources(TARGET, cameras, 8, RANGE, points)) == list(range(8))
    assert sorted(select_sources(TARGET, cameras[:3], 8, RANGE, points)) == [0, 1, 2]
    assert select_sources(TARGET, cameras[:1], 8, RANGE, points) == [0]


def test_fewer_views_are_the_first_of_more(cameras, points):
    assert select_sources(TARGET, cameras, 3, RANGE, points) == select_sources(TARGET, cameras, 6, RANGE, points)[:3]


@pytest.mark.parametrize("scale", [0.01, 1.0, 250.0])
def test_choice_stays_when_the_world_is_moved_and_scaled(cameras, points, scale):
    turn = look_at((1.0, 2.0, -0.5), (0.3, -4.0, 2.0)).w2c[:3, :3]
    shift = np.array([50.0, -3.0, 8.0]) * scale

    def moved(camera: Camera) -> Camera:
        w2c = np.eye(4)
        w2c[:3, :3] = camera.w2c[:3, :3] @ turn.T
        w2c[:3, 3] = scale * camera.w2c[:3, 3] - w2c[:3, :3] @ shift
        return Camera(camera.K, w2c, camera.width, camera.height)

    there = None if points is None else scale * points @ turn.T + shift
    scaled = (RANGE[0] * scale, RANGE[1] * scale)
    got = select_sources(moved(TARGET), [moved(camera) for camera in cameras], 5, scaled, there)
    assert got == select_sources(TARGET, cameras, 5, RANGE, points)


@pytest.mark.parametrize("points", [None, np.zeros((0, 3)), np.full((5, 3), 1e9), np.full((500, 3), -1e9)])
def test_points_that_say_nothing_do_no_harm(cameras, points):
    assert select_sources(TARGET, cameras, 4, RANGE, points) == select_sources(TARGET, cameras, 4, RANGE, None)


def test_many_candidates_are_chosen_from_as_by_looking_at_all_of_them_every_time(points):
    rng = np.random.default_rng(3)
    spots = rng.normal(0, (2, 0.7, 1), (200, 3)) - (0, 0, 4)
    cameras = [look_at(spot, (0.4 * spot[0], 0, 0), focal=rng.uniform(60, 150)) for spot in spots]
    seen = sources_module._target_points(TARGET, RANGE, points)
    worth = np.array([sources_module._worth(TARGET, sources_module._Cameras.stack([c]), seen)[0] for c in cameras])
    total, want = np.zeros(len(seen)), []
    for _ in range(6):
        gain = (np.sqrt(total + worth) - np.sqrt(total)).sum(1)
        gain[want] = -1
        want.append(int(gain.argmax()))
        total += worth[want[-1]]
    assert select_sources(TARGET, cameras, 6, RANGE, points) == want


def test_worth_is_by_angle_and_fineness_where_the_source_sees_the_point():
    source = look_at((3.0, 0, -4), (0.0, 0, 0), focal=45.0)  # twice as coarse, 5 away
    inside, outside = np.array([0.0, 0, 0]), np.array([0.0, 50.0, 0])
    worth = sources_module._worth(
        look_at((0.0, 0, -4)), sources_module._Cameras.stack([source]), np.stack([inside, outside])
    )
    angle = np.arctan2(3, 4)
    np.testing.assert_allclose(worth, [[np.exp(-angle / 0.35) * (45 / 5) / (90 / 4), 0]], rtol=1e-9)


def test_target_that_no_photo_sees_still_gets_the_nearest_ones():
    target = look_at((0.0, 0.0, 5.0), (0.0, 0.0, 9.0))
    cameras = [look_at((x, 0, -4), (x, 0, -9)) for x in (6.0, 1.0, 3.0)]
    assert select_sources(target, cameras, 2, RANGE, None) == [1, 2]


def test_padding_keeps_each_map_at_the_top_left():
    maps = [torch.rand(2, 3, 5), torch.rand(2, 4, 2)]
    out = pad_maps(maps)
    assert out.shape == (2, 2, 4, 5)
    assert torch.equal(out[0, :, :3], maps[0])
    assert torch.equal(out[1, :, :, :2], maps[1])


@pytest.mark.parametrize("channels", [3, 40])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_padding_repeats_the_border_in_float32_at_least(channels, dtype):
    maps = [torch.rand(channels, 3, 5).to(dtype), torch.rand(channels, 4, 2).to(dtype)]
    out = pad_maps(maps)
    assert out.dtype == torch.promote_types(dtype, torch.float32)
    want = [F.pad(m.to(out.dtype), (0, 5 - m.shape[2], 0, 4 - m.shape[1]), mode="replicate") for m in maps]
    assert torch.equal(out, torch.stack(want))
    # Of many channels, a gather takes the maps as they are.
    assert out.is_contiguous(memory_format=torch.channels_last if channels > 16 else torch.contiguous_format)


def test_padding_is_not_valid():
    cameras = [look_at((0, 0, -4)), look_at((1, 0, -4), width=50, height=90)]
    images = [plane_world.as_tensor(plane_world.photograph(camera)[0]) for camera in cameras]
    sources = SourceViews.stack(cameras, images, [torch.ones(c.height, c.width, dtype=bool) for c in cameras], "cpu")
    assert sources.images.shape == (2, 3, 90, 96)
    assert sources.valid.shape == (2, 1, 90, 96)
    assert sources.valid[0, 0, :72].all()
    assert not sources.valid[0, 0, 72:].any()
    assert sources.valid[1, 0, :, :50].all()
    assert not sources.valid[1, 0, :, 50:].any()


def test_sharpening_keeps_flat_colour_and_shows_nothing_of_unusable_pixels():
    images = torch.full((1, 3, 12, 16), 0.4)
    valid = torch.ones(1, 1, 12, 16)
    valid[..., 10:] = 0
    garbage = images.clone()
    garbage[..., 10:] = 1
    flat = SourceViews((), images, valid).sharpened
    torch.testing.assert_close(flat, images)
    torch.testing.assert_close(SourceViews((), garbage, valid).sharpened[..., :10], flat[..., :10])
    edge = images.clone()
    edge[..., :5] = 0.2
    sharpened = SourceViews((), edge, valid).sharpened
    assert (sharpened[..., 4] < edge[..., 4]).all()
    assert (sharpened[..., 5] > edge[..., 5]).all()


def test_the_best_views_are_the_first_ones_that_have_a_valid_pixel(sources):
    masked = replace(sources, valid=sources.valid.clone(), surfaces=torch.rand(6, 3, 4, 5))
    masked.valid[[0, 2]] = 0
    best = masked.best(3)
    assert best.cameras == [sources.cameras[i] for i in (1, 3, 4)]
    for name in ("images", "valid", "surfaces"):
        assert torch.equal(getattr(best, name), getattr(masked, name)[[1, 3, 4]])
    assert best.features is None
    assert sources.best(6) is sources
