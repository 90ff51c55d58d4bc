"""Importance sampling: S depths that each stand for the same probability."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lift3d_cli.lifting.proposal.protocol import DepthDistribution
from lift3d_cli.lifting.proposal.sampling import sample_depths

NEAR, FAR = 2.0, 8.0


def distribution(probability: list[float]) -> DepthDistribution:
    """The same distribution for all rays of a target of 10x10 pixels."""
    p = torch.tensor(probability, dtype=torch.float32)
    return DepthDistribution((p / p.sum()).reshape(-1, 1, 1), NEAR, FAR, (0.1, 0.1))


def positions(t: torch.Tensor) -> torch.Tensor:
    """Where depths lie between near (0) and far (1), evenly in 1/z."""
    return (1 / t - 1 / NEAR) / (1 / FAR - 1 / NEAR)


def sample(probability: list[float], num_samples: int = 8) -> torch.Tensor:  # [S] positions
    return positions(sample_depths(distribution(probability), torch.tensor([[3.0, 4.0]]), num_samples))[0]


@pytest.mark.parametrize("plane", range(6))
def test_all_probability_on_one_plane_puts_all_samples_in_its_bin(plane):
    got = sample([float(i == plane) for i in range(6)])
    assert (got >= (plane - 0.5) / 5 - 1e-5).all()
    assert (got <= (plane + 0.5) / 5 + 1e-5).all()
    # And spread over it, but for the half bins at the ends, of which the outer half is not there.
    assert len(got.unique()) == (8 if 0 < plane < 5 else 5)


def test_uniform_distribution_gives_samples_evenly_in_inverse_depth():
    # Bins of 1/3 around 0, 1/3, 2/3 and 1, clipped to [0, 1]; the quantiles are 1/16, 3/16, ...
    want = torch.tensor([(4 * (2 * i + 1) / 16 - 0.5) / 3 for i in range(8)]).clamp(0, 1)
    torch.testing.assert_close(sample([1.0] * 4), want, atol=1e-5, rtol=0)


def test_two_planes_share_the_samples_as_they_share_the_probability():
    got = sample([0, 3, 0, 0, 1, 0])
    assert ((got > 0.5 / 5) & (got < 1.5 / 5)).sum() == 6
    assert ((got > 3.5 / 5) & (got < 4.5 / 5)).sum() == 2


def test_one_sample_is_the_median():
    torch.testing.assert_close(sample([0, 0, 1, 0, 0], 1), torch.tensor([0.5]), atol=1e-5, rtol=0)
    torch.testing.assert_close(sample([1, 1, 1, 1, 1], 1), torch.tensor([0.5]), atol=1e-5, rtol=0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1e-8, 0.01, 0.5, 1.0, 30.0]), min_size=2, max_size=40), st.integers(1, 32))
def test_samples_ascend_between_near_and_far_at_equal_steps_of_probability(weights, num_samples):
    weights[len(weights) // 2] += 1.0
    t = sample_depths(distribution(weights), torch.tensor([[3.0, 4.0]]), num_samples)[0]
    assert (t.diff() >= -1e-5).all()
    assert t.min() >= NEAR * (1 - 1e-5)
    assert t.max() <= FAR * (1 + 1e-5)
    # Up to each sample lies the probability of its quantile; in the half bins at the ends it may lie at the end.
    p = torch.tensor(weights, dtype=torch.float64)
    cdf = torch.cat([torch.zeros(1, dtype=torch.float64), (p / p.sum()).cumsum(0)])
    at = (positions(t.double()) * (len(weights) - 1) + 0.5).clamp(0, len(weights))
    low = at.long().clamp(max=len(weights) - 1)
    upto = cdf[low] + (at - low) * (cdf[low + 1] - cdf[low])
    want = (torch.arange(num_samples) + 0.5) / num_samples
    clipped = (positions(t) < 1e-4) | (positions(t) > 1 - 1e-4)
    assert ((upto - want).abs()[~clipped] < 1e-3).all()


def test_each_ray_takes_the_distribution_of_its_own_pixels():
    probability = torch.zeros(5, 2, 3)
    for cell in range(6):
        probability[cell % 5, cell // 3, cell % 3] = 1
    uv = torch.tensor([[2.0, 2.0], [6.0, 2.0], [10.0, 2.0], [2.0, 6.0], [6.0, 6.0]])  # cells of 4 pixels
    t = sample_depths(DepthDistribution(probability, NEAR, FAR, (0.25, 0.25)), uv, 5)
    torch.testing.assert_close((positions(t).mean(1) * 4).round(), torch.arange(5.0))


def test_same_ray_gets_the_same_samples_whatever_is_beside_it():
    generator = torch.Generator().manual_seed(0)
    d = DepthDistribution(torch.rand(16, 6, 7, generator=generator), NEAR, FAR, (0.5, 0.5))
    uv = torch.rand(40, 2, generator=generator) * 12
    assert torch.equal(sample_depths(d, uv, 8)[7:19], sample_depths(d, uv[7:19], 8))
