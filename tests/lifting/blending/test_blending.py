"""Stage II weighs the source views by what they see, from where, and whether they agree."""

from __future__ import annotations

from dataclasses import replace

import plane_world
import torch
from plane_world import look_at, rig, source_views

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.geometry.epipolar import EpipolarLines
from lift3d_cli.geometry.grids import pixel_centers
from lift3d_cli.lifting.blending.protocol import BlendingWeights
from lift3d_cli.lifting.blending.training_free import AngleAgreementBlending, normalized
from lift3d_cli.lifting.sources import SourceViews

TARGET = look_at((0.0, 0.0, -4.0))
RAYS = pixel_centers(96, 72)[::13]


def blend(sources: SourceViews, target: Camera = TARGET, depths=(3.5, 4.0, 5.0)) -> BlendingWeights:
    lines = EpipolarLines.between(target, sources.cameras)
    return AngleAgreementBlending()(sources, lines, RAYS, torch.tensor(depths).expand(len(RAYS), -1), None)


def wall_depths(target: Camera) -> list[float]:
    """The depth of the wall, for a target that faces it."""
    return [-float(target.position[2])]


def test_weights_sum_to_the_share_of_samples_that_are_seen(sources):
    weights = blend(sources, look_at((1.9, 0.0, -4.0), (2.4, 0.0, 0.0)))  # its right side, nobody sees
    omega = weights.omega
    assert (omega >= 0).all()
    assert (weights.coverage <= 1 + 1e-5).all()
    seen = (omega.sum(0) > 0).float().mean(1)  # [R]
    torch.testing.assert_close(weights.coverage, seen, atol=1e-5, rtol=0)
    assert seen.min() == 0
    assert seen.max() == 1


def test_order_of_the_views_does_not_matter(sources):
    order = [4, 2, 0, 5, 1, 3]
    shuffled = SourceViews([sources.cameras[i] for i in order], sources.images[order], sources.valid[order])
    want, got = blend(sources), blend(shuffled)
    torch.testing.assert_close(got.omega, want.omega[order], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(got.uv, want.uv[order], equal_nan=True)


def test_masked_pixels_have_no_weight(sources):
    valid = sources.valid.clone()
    valid[2, :, :, 40:60] = 0
    masked = blend(replace(sources, valid=valid))
    on_mask = (masked.uv[2, ..., 0] > 40) & (masked.uv[2, ..., 0] < 60)
    assert on_mask.any()
    assert not masked.omega[2][on_mask].any()
    clear = (masked.uv[2, ..., 0] < 39) & (blend(sources).omega[2] > 0)
    assert masked.omega[2][clear].min() > 0


def test_off_the_image_and_behind_the_camera_there_is_no_weight(sources):
    behind = look_at((0.0, 0.0, 1.0), (0.0, 0.0, 9.0))
    more = source_views([*sources.cameras, behind])
    weights = blend(more)
    assert weights.uv[6].isnan().all()
    assert not weights.omega[6].any()
    assert torch.isfinite(weights.omega).all()
    uv = weights.uv[:6]
    off = (uv < 0).any(-1) | (uv > torch.tensor([96, 72])).any(-1)
    assert off.any()
    assert not weights.omega[:6][off].any()


def test_view_that_disagrees_with_all_others_gets_less(sources):
    images = sources.images.clone()
    images[1] = 1 - images[1]
    depths = wall_depths(TARGET)
    want, got = blend(sources, depths=depths).omega[1].sum(), blend(replace(sources, images=images), depths=depths)
    assert got.omega[1].sum() < 0.7 * want


def test_view_that_looks_the_targets_way_gets_most_where_all_agree():
    cameras = [look_at((x, 0.0, -4.0), (0.0, 0.0, 0.0)) for x in (2.0, 1.0, 0.3, -0.6)]
    gray = [torch.full((3, 72, 96), 0.5)] * 4
    weights = blend(SourceViews.stack(cameras, gray, [torch.ones(72, 96)] * 4, "cpu"), depths=wall_depths(TARGET))
    share = weights.omega[:, len(RAYS) // 2 - 3 : len(RAYS) // 2 + 3].sum((1, 2))
    assert share.argsort(descending=True).tolist() == [2, 3, 1, 0]


def test_photo_at_the_targets_pose_takes_nearly_all():
    sources = source_views([*rig(4), TARGET])
    weights = blend(sources, depths=wall_depths(TARGET))
    assert weights.omega[4].sum() > 0.8 * weights.coverage.sum()


def test_hidden_surface_is_taken_from_the_views_that_see_it():
    # The wall right of the card: the card hides it from the left view, two others see it.
    target = look_at((1.0, 0.0, -4.0), (1.0, 0.0, 0.0))
    cameras = [look_at((x, 0.0, -4.0), (1.0, 0.0, 0.0)) for x in (-1.6, 1.2, 1.6)]
    sources = source_views(cameras, plane_world.WALL_AND_CARD)
    point = torch.tensor([[target.K[0, 2] + target.K[0, 0] * (0.85 - 1.0) / 4, target.K[1, 2]]]).float()
    lines = EpipolarLines.between(target, cameras)
    weights = AngleAgreementBlending()(sources, lines, point, torch.tensor([[4.0]]), None)
    uv = weights.uv[0, 0, 0]
    depth = plane_world.photograph(cameras[0], plane_world.WALL_AND_CARD)[1][int(uv[1]), int(uv[0])]
    assert depth < 3.6  # the left view really sees the card there
    assert weights.omega[0].sum() < 0.1


def test_normalized_weights_sum_to_one_or_are_all_zero():
    weight = torch.tensor([[[3.0, 0.0, 1e-6]], [[1.0, 0.0, 1e-6]]])
    torch.testing.assert_close(normalized(weight), torch.tensor([[[0.75, 0.0, 0.5]], [[0.25, 0.0, 0.5]]]))
