"""Maps at a picture's resolution: edges go to the picture's, and nothing else changes."""

from __future__ import annotations

import torch

from lift3d_cli import FeatureGrid, FeatureMap
from lift3d_cli.models.base import Segmentation
from lift3d_cli.models.edges import at_picture, class_scores, guided_filter, refined

WIDTH, HEIGHT, STRIDE, EDGE = 96, 64, 16, 42  # the edge is inside a cell


def halves() -> tuple[torch.Tensor, torch.Tensor]:
    """A picture, dark left of the edge and bright right of it, with noise; and which pixels are right."""
    right = torch.arange(WIDTH).expand(HEIGHT, -1) >= EDGE
    noise = 0.02 * torch.randn(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    return (0.2 + 0.5 * right + noise).clamp(0, 1), right


def cells(right: torch.Tensor) -> FeatureMap:
    share = right.float().reshape(HEIGHT // STRIDE, STRIDE, WIDTH // STRIDE, STRIDE).mean((1, 3))
    return FeatureMap(share[None], FeatureGrid.from_stride(WIDTH, HEIGHT, STRIDE))


def test_edge_inside_a_cell_goes_to_the_edge_of_the_picture():
    image, right = halves()
    coarse = cells(right)
    sharp = at_picture(coarse, image)[0]
    assert torch.equal(sharp > 0.5, right)
    step = sharp[:, EDGE] - sharp[:, EDGE - 1]
    assert step.mean() > 0.4  # of 1; interpolation alone spreads it over a cell
    assert (coarse.at_pixels(WIDTH, HEIGHT)[0, :, EDGE] - coarse.at_pixels(WIDTH, HEIGHT)[0, :, EDGE - 1]).max() < 0.1


def test_what_is_linear_in_the_colour_stays_and_a_flat_picture_moves_nothing():
    image = torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    linear = 0.3 * image[:1] - 0.5 * image[2:] + 0.1
    torch.testing.assert_close(guided_filter(linear, image, 5), linear, atol=0.02, rtol=0)
    ramp = torch.arange(WIDTH).float().expand(1, HEIGHT, -1)
    flat = guided_filter(ramp, torch.full_like(image, 0.4), 3)
    torch.testing.assert_close(flat[..., 8:-8], ramp[..., 8:-8])


def test_cells_as_fine_as_the_picture_are_left_alone():
    image = halves()[0]
    fine = FeatureMap(torch.rand(2, HEIGHT, WIDTH), FeatureGrid.from_stride(WIDTH, HEIGHT, 1))
    torch.testing.assert_close(at_picture(fine, image), fine.data)


def test_scores_add_up_to_one_and_follow_the_picture():
    image, right = halves()
    logit = 6 * cells(right).data - 3
    scores = class_scores(FeatureMap(torch.cat([-logit, logit]), cells(right).grid), image)
    assert scores.min() >= 0
    torch.testing.assert_close(scores.sum(0), torch.ones(HEIGHT, WIDTH))
    assert torch.equal(scores.argmax(0).bool(), right)


def test_refined_mask_reaches_an_edge_that_it_missed():
    image, right = halves()
    missed = (torch.arange(WIDTH).expand(HEIGHT, -1) >= EDGE + 1).float()
    was = Segmentation(torch.stack([1 - missed, missed]), ("left", "right"))
    got = refined(was, image)
    assert got.names == was.names
    assert ((got.scores.argmax(0) > 0) != right).sum() < 0.1 * ((missed > 0) != right).sum()
    torch.testing.assert_close(got.scores.sum(0), torch.ones(HEIGHT, WIDTH))
