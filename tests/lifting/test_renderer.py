"""The renderer: at which quality pictures are rendered, and that nothing makes it NaN."""

from __future__ import annotations

import plane_world
import pytest
import torch
from plane_world import as_tensor, look_at, photograph, rig, source_views
from rendering import FAST, RANGE, KnownDepth, all_finite, assert_same, features, psnr

from lift3d_cli.lifting.proposal.training_free import PlaneSweepProposal
from lift3d_cli.lifting.renderer import Renderer
from lift3d_cli.lifting.sources import SourceViews

# ---- quality ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("planes", "least"), [(plane_world.WALL, 28), (plane_world.WALL_AND_CARD, 23)])
def test_held_out_photo_is_rendered_far_better_than_the_nearest_photo(planes, least):
    cameras = rig(8)
    truth, depth = photograph(cameras[3], planes)
    sources = source_views(cameras[:3] + cameras[4:], planes)
    frame = Renderer(PlaneSweepProposal(num_planes=32)).render(cameras[3], sources, RANGE)
    got = psnr(frame.image, as_tensor(truth))
    assert got > least
    assert got > max(psnr(image, as_tensor(truth)) for image in sources.images) + 8
    assert float((frame.depth - torch.from_numpy(depth)).abs().median()) < 0.1
    assert frame.coverage.mean() > 0.95


def test_known_depth_gives_the_photo_almost_exactly(sources):
    target = look_at((0.1, 0.05, -4.0), (0.1, 0.05, 0.0))
    frame = Renderer(KnownDepth(4.0)).render(target, sources, RANGE)
    assert psnr(frame.image, as_tensor(photograph(target)[0])) > 35
    torch.testing.assert_close(frame.depth, torch.full((72, 96), 4.0), atol=1e-3, rtol=0)


# ---- hard cases stay finite ------------------------------------------------------------------------------------------

TARGETS = {
    "among the photos": look_at((0.2, 0.1, -4.0)),
    "far to the side": look_at((6.0, 0.0, -4.0), (0.0, 0.0, 0.0)),
    "behind the photos": look_at((0.1, 0.0, -12.0)),
    "close to the wall": look_at((0.1, 0.0, -0.6)),
    "behind the wall": look_at((0.1, 0.0, 4.0)),
    "looking away": look_at((0.1, 0.0, -4.0), (0.1, 0.0, -9.0)),
    "odd size": look_at((0.2, 0.1, -4.0), width=37, height=1),
    "one pixel": look_at((0.2, 0.1, -4.0), width=1, height=1),
}


@pytest.mark.parametrize("depth_range", [RANGE, (RANGE[0] / 3, RANGE[1] * 3), (3.999, 4.001), (1e-3, 1e4)])
@pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))
def test_every_target_and_depth_range_gives_finite_pictures(sources, target, depth_range):
    frame = FAST.render(target, sources, depth_range, features(sources))
    assert all_finite(frame)
    assert frame.image.shape == (3, target.height, target.width)
    assert frame.depth.shape == frame.coverage.shape == (target.height, target.width)
    assert frame.image.min() >= 0
    assert frame.image.max() <= 1
    assert frame.depth.min() > 0
    near, far = depth_range
    assert frame.depth.min() >= near * 0.999
    assert frame.depth.max() <= far * 1.001


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_photos_are_enough(sources, count):
    few = SourceViews(sources.cameras[:count], sources.images[:count], sources.valid[:count])
    frame = FAST.render(look_at((0.0, 0.0, -4.0)), few, RANGE, features(few))
    assert all_finite(frame)
    assert frame.coverage.mean() > 0.5


def test_range_that_is_too_wide_by_3_still_renders_well():
    cameras = rig(8)
    sources = source_views(cameras[:3] + cameras[4:])
    renderer = Renderer(PlaneSweepProposal(num_planes=64))
    frame = renderer.render(cameras[3], sources, (RANGE[0] / 3, RANGE[1] * 3))
    assert psnr(frame.image, as_tensor(photograph(cameras[3])[0])) > 25


def test_fully_masked_photo_changes_nothing(sources):
    target = look_at((0.3, 0.1, -4.0))
    images, valid = sources.images.clone(), sources.valid.clone()
    images[2], valid[2] = torch.rand(3, 72, 96), 0
    keep = [0, 1, 3, 4, 5]
    without = SourceViews([sources.cameras[i] for i in keep], sources.images[keep], sources.valid[keep])
    got = FAST.render(target, SourceViews(sources.cameras, images, valid), RANGE)
    assert_same(got, FAST.render(target, without, RANGE), atol=2e-3)


def test_nothing_seen_means_no_coverage(sources):
    frame = FAST.render(TARGETS["looking away"], sources, RANGE, features(sources))
    assert not frame.coverage.any()


def test_coverage_is_between_0_and_1_and_falls_where_no_photo_looks(sources):
    frame = FAST.render(look_at((1.5, 0.0, -4.0), (2.2, 0.0, 0.0)), sources, RANGE)
    assert frame.coverage.min() == 0
    assert 0.99 < frame.coverage.max() <= 1 + 1e-5
    assert frame.coverage[:, :20].mean() > 0.9
    assert frame.coverage[:, -20:].mean() < 0.1
