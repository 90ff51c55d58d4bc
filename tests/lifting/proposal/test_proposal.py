"""Stage I finds textured surfaces by comparing the photos."""

from __future__ import annotations

import plane_world
import pytest
import torch
from plane_world import look_at, rig, source_views

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.lifting.proposal.protocol import DepthDistribution
from lift3d_cli.lifting.proposal.training_free import PlaneSweepProposal
from lift3d_cli.lifting.sources import SourceViews

PLENTY = 2**30
PLANES = 32


def sweep(target: Camera, sources: SourceViews, near: float, far: float, memory: int = PLENTY) -> DepthDistribution:
    return PlaneSweepProposal(num_planes=PLANES)(target, sources, (near, far), memory)


def mode(d: DepthDistribution) -> torch.Tensor:
    """[h, w] the most probable plane, in bins from near; fractions are possible."""
    return d.probability.argmax(0).float()


def bin_of(depth: torch.Tensor | float, near: float, far: float) -> torch.Tensor:
    return (1 / torch.as_tensor(depth) - 1 / near) / (1 / far - 1 / near) * (PLANES - 1)


@pytest.mark.parametrize("distance", [3.2, 4.0, 5.5])
def test_wall_that_faces_the_target_is_found_within_a_bin(sources, distance):
    target = look_at((0.1, 0.0, -distance), (0.1, 0.0, 0.0))
    found = mode(sweep(target, sources, 2.0, 9.0))[4:-4, 4:-4]
    off = (found - bin_of(distance, 2.0, 9.0)).abs()
    assert (off <= 1).float().mean() > 0.95


def test_slanted_wall_is_found_within_a_bin(sources):
    target = look_at((1.2, 0.3, -4.0), (-0.1, 0.0, 0.0))
    depth = torch.from_numpy(plane_world.photograph(target)[1]).float()[1::2, 1::2]
    off = (mode(sweep(target, sources, 2.0, 9.0)) - bin_of(depth, 2.0, 9.0)).abs()[4:-4, 4:-4]
    assert (off <= 1).float().mean() > 0.9


def test_card_stands_out_in_front_of_the_wall():
    sources = source_views(rig(6), plane_world.WALL_AND_CARD)
    target = look_at((0.1, 0.0, -4.0), (0.1, 0.0, 0.0))
    depth = torch.from_numpy(plane_world.photograph(target, plane_world.WALL_AND_CARD)[1])[1::2, 1::2]
    found = mode(sweep(target, sources, 2.0, 9.0))
    on_card = depth < 3.5
    assert abs(float(found[on_card].median()) - float(bin_of(2.8, 2.0, 9.0))) <= 1
    assert abs(float(found[~on_card].median()) - float(bin_of(4.0, 2.0, 9.0))) <= 1


def test_probabilities_of_a_ray_sum_to_one(sources):
    d = sweep(look_at((0.0, 0.0, -4.0), width=95, height=71), sources, 2.0, 9.0)
    assert d.probability.shape[0] == PLANES
    torch.testing.assert_close(d.probability.sum(0), torch.ones(d.probability.shape[1:]), atol=1e-4, rtol=0)
    assert (d.probability >= 0).all()
    # The cells cover the target: the last begins before its border and ends on it or beyond.
    for cells, scale, size in zip(d.probability.shape[:0:-1], d.scale, (95, 71), strict=True):
        assert size <= cells / scale < size + 1 / scale


def test_little_memory_changes_nothing(sources):
    target = look_at((0.3, 0.0, -4.0))
    want, got = (sweep(target, sources, 2.0, 9.0, memory) for memory in (PLENTY, 60_000))
    torch.testing.assert_close(got.probability, want.probability, atol=1e-5, rtol=1e-4)


def test_order_of_the_views_does_not_matter(sources):
    order = [3, 5, 1, 0, 2, 4]
    shuffled = SourceViews([sources.cameras[i] for i in order], sources.images[order], sources.valid[order])
    target = look_at((0.3, 0.0, -4.0))
    want, got = (sweep(target, s, 2.0, 9.0) for s in (sources, shuffled))
    torch.testing.assert_close(got.probability, want.probability, atol=1e-3, rtol=1e-2)


def test_masked_pixels_say_nothing(sources):
    # One photo is garbage in its left half. With that half masked, it spoils nothing.
    images, valid = sources.images.clone(), sources.valid.clone()
    images[2, :, :, :48] = torch.rand(3, 72, 48, generator=torch.Generator().manual_seed(0))
    valid[2, :, :, :48] = 0
    target = look_at((0.0, 0.0, -4.0))
    found = mode(sweep(target, SourceViews(sources.cameras, images, valid), 2.0, 9.0))[4:-4, 4:-4]
    assert ((found - bin_of(4.0, 2.0, 9.0)).abs() <= 1).float().mean() > 0.95


def test_one_view_alone_says_nothing_about_depth(sources):
    alone = SourceViews(sources.cameras[:1], sources.images[:1], sources.valid[:1])
    d = sweep(look_at((0.0, 0.0, -4.0)), alone, 2.0, 9.0)
    torch.testing.assert_close(d.probability, torch.full_like(d.probability, 1 / PLANES), atol=1e-4, rtol=0)
