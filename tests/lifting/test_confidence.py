"""Confidence: the formula by hand, its limits, and that it is low exactly where renders of a known world go wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from plane_world import WALL_AND_CARD, as_tensor, look_at, photograph, rig, source_views
from rendering import RANGE

from lift3d_cli.lifting.confidence import confidence, mean_square
from lift3d_cli.lifting.proposal.training_free import PlaneSweepProposal
from lift3d_cli.lifting.renderer import Renderer

RENDERER = Renderer(PlaneSweepProposal(num_planes=32))
ONE = torch.ones(1, 1)


def blended(*colors: tuple[float, float, float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean colour and mean square of a pixel that is blended from colours in equal parts."""
    images = torch.tensor(colors)[:, :, None, None]
    return images.mean(0), mean_square(images).mean(0)[0]


def test_pixel_on_which_all_agree_is_as_sure_as_it_is_covered():
    color, square = blended((0.2, 0.4, 0.6), (0.2, 0.4, 0.6))
    torch.testing.assert_close(confidence(0.75 * ONE, color, square, 0 * ONE), 0.75 * ONE)


def test_known_value():
    # Red differs by 0.2 from the other's: standard deviation 0.1 in one of three channels, 0.1 / sqrt(3) in the mean.
    color, square = blended((0.2, 0.5, 0.5), (0.4, 0.5, 0.5))
    want = 0.5 * torch.exp(torch.tensor([[-1 / 3**0.5 - 0.1 / 0.5]]))
    torch.testing.assert_close(confidence(0.5 * ONE, color, square, 0.1 * ONE), want)


def test_black_against_white_is_not_believed():
    color, square = blended((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert confidence(ONE, color, square, 0 * ONE) < 0.01


def test_rounding_never_makes_a_variance_negative():
    color = torch.full((3, 1, 1), 0.7)
    assert confidence(ONE, color, color.square().mean(0) - 1e-7, 0 * ONE) == 1


@pytest.fixture(scope="module")
def sources():
    return source_views(rig(6), WALL_AND_CARD)


def test_errors_fall_with_confidence(sources):
    target = look_at((0.25, 0.1, -4.0))
    frame = RENDERER.render(target, sources, RANGE)
    error = (frame.image - as_tensor(photograph(target, WALL_AND_CARD)[0])).square().mean(0).flatten()
    error = error[frame.confidence.flatten().argsort(descending=True)]
    quarter = len(error) // 4
    assert error[:quarter].mean() < 0.1 * error[-quarter:].mean()


def test_it_lies_between_0_and_coverage(sources):
    frame = RENDERER.render(look_at((1.5, 0.0, -4.0), (2.2, 0.0, 0.0)), sources, RANGE)
    assert frame.confidence.shape == frame.coverage.shape
    assert torch.isfinite(frame.confidence).all()
    assert (frame.confidence <= frame.coverage).all()
    assert (frame.confidence[frame.coverage == 0] == 0).all()
    assert frame.confidence.max() > 0.5


def test_photo_that_contradicts_the_others_lowers_it(sources):
    target = look_at((0.0, 0.0, -4.0))
    images = sources.images.clone()
    images[::2] = 1 - images[::2]
    before = RENDERER.render(target, sources, RANGE).confidence
    after = RENDERER.render(target, replace(sources, images=images), RANGE).confidence
    assert after.mean() < 0.5 * before.mean()


def test_unsure_depth_lowers_it(sources):
    # 0 as sharpness: every depth is as likely as any other.
    target = look_at((0.0, 0.0, -4.0))
    vague = Renderer(PlaneSweepProposal(num_planes=32, sharpness=0.0))
    black = replace(sources, images=torch.zeros_like(sources.images))  # colours that agree everywhere
    got = vague.render(target, black, RANGE)
    middle = slice(20, 50), slice(30, 60)  # which all photos see at all depths
    spread = (torch.arange(8) + 0.5).div(8).std(correction=0)
    want = got.coverage * torch.exp(-spread / 0.5)
    torch.testing.assert_close(got.confidence[middle], want[middle], atol=0.02, rtol=0)
