"""Where no photo saw anything, the surroundings go on; what was seen stays to the last bit."""

from __future__ import annotations

import pytest
import torch

from lift3d_cli.lifting.fill import fill_unseen

SIZES = [(1, 1), (1, 9), (13, 1), (2, 2), (7, 5), (16, 16), (33, 47)]


def half_seen(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(height * 100 + width)
    data = torch.rand(4, height, width, generator=generator) + 1
    coverage = torch.rand(height, width, generator=generator)
    coverage[torch.rand(height, width, generator=generator) < 0.6] = 0
    coverage[0, 0] = 0.125
    return data, coverage


@pytest.mark.parametrize("size", SIZES)
def test_seen_cells_stay_as_they_are(size):
    data, coverage = half_seen(*size)
    seen = coverage > 0
    assert torch.equal(fill_unseen(data, coverage)[:, seen], data[:, seen])


@pytest.mark.parametrize("size", SIZES)
def test_filled_values_lie_within_those_that_were_seen(size):
    data, coverage = half_seen(*size)
    out = fill_unseen(torch.where(coverage > 0, data, 1e6), coverage)
    seen = data[:, coverage > 0]
    assert out.shape == data.shape
    assert (out.amin((1, 2)) >= seen.amin(1) - 1e-4).all()
    assert (out.amax((1, 2)) <= seen.amax(1) + 1e-4).all()


def test_hole_takes_the_colour_around_it_and_not_one_from_far_away():
    data = torch.zeros(1, 40, 60)
    data[:, :, 30:] = 1
    coverage = torch.ones(40, 60)
    coverage[10:14, 8:12] = coverage[20:25, 45:50] = 0
    out = fill_unseen(data.where(coverage > 0, torch.tensor(7.0)), coverage)
    torch.testing.assert_close(out, data, atol=1e-4, rtol=0)


def test_unseen_side_goes_on_with_the_colour_of_the_border():
    data = torch.linspace(0, 1, 21).expand(1, 15, 21).clone()
    coverage = torch.ones(15, 21)
    coverage[:, 13:] = 0
    out = fill_unseen(data * coverage, coverage)
    assert (out[:, :, 13] - 0.6).abs().max() < 0.05
    assert (out[:, :, 13:].diff(dim=2) < 1e-5).all()  # and fades to the mean of all that was seen
    assert out.min() >= 0
    assert out[:, :, 13:].min() > 0.25


@pytest.mark.parametrize("size", SIZES)
def test_nothing_seen_leaves_finite_values(size):
    assert torch.isfinite(fill_unseen(torch.zeros(3, *size), torch.zeros(size))).all()


def test_all_seen_is_returned_as_it_is():
    data = torch.rand(2, 5, 6)
    assert torch.equal(fill_unseen(data, torch.full((5, 6), 0.1)), data)


def test_more_coverage_counts_more():
    # One hole between two cells: 0 with coverage 0.9, and 1 with 0.1.
    out = fill_unseen(torch.tensor([[[0.0, 5.0], [1.0, 5.0]]]), torch.tensor([[0.9, 0.0], [0.1, 0.0]]))
    torch.testing.assert_close(out[0, :, 1], torch.full((2,), 0.1))
