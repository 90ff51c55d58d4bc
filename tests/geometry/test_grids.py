"""The half-pixel rule: where cells lie, what is sampled there, what counts as on the image."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lift3d_cli.geometry.grids import FeatureGrid, inside, pixel_centers, sample_map


def test_pixel_centers_are_at_halves_row_by_row():
    assert pixel_centers(3, 2).tolist() == [[0.5, 0.5], [1.5, 0.5], [2.5, 0.5], [0.5, 1.5], [1.5, 1.5], [2.5, 1.5]]


@pytest.mark.parametrize(
    ("uv", "want"),
    [
        ((0.5, 0.5), 1.0),  # the centre of the first pixel is its value
        ((1.5, 0.5), 3.0),
        ((1.0, 0.5), 2.0),  # the border between two pixels is their mean
        ((1.0, 1.0), 4.0),  # and the corner of four, theirs
        ((0.75, 0.5), 1.5),
        ((0.5, 1.25), 3.25),  # 0.25 * 1 + 0.75 * 4
        ((0.0, 0.0), 1.0),  # the outer half of a border pixel is its value
        ((2.0, 2.0), 8.0),
        ((-9.0, 0.5), 1.0),  # and so is all beyond
        ((99.0, 1.5), 8.0),
    ],
)
def test_sample_of_a_2x2_map_known_by_hand(uv, want):
    maps = torch.tensor([[[[1.0, 3.0], [4.0, 8.0]]]])
    assert float(sample_map(maps, torch.tensor([[uv]]))) == pytest.approx(want)


def test_sampling_at_the_pixel_centers_is_the_map_itself():
    maps = torch.rand(2, 3, 5, 7)
    got = sample_map(maps, pixel_centers(7, 5).expand(2, -1, -1))
    torch.testing.assert_close(got, maps.reshape(2, 3, 35), atol=1e-5, rtol=0)


def test_ramp_is_sampled_to_its_own_coordinate():
    u = pixel_centers(9, 6).T.reshape(2, 6, 9)
    uv = torch.rand(1, 4, 5, 2) * torch.tensor([8.0, 5.0]) + 0.5
    got = sample_map(u[None], uv)
    assert got.shape == (1, 2, 4, 5)
    torch.testing.assert_close(got.movedim(1, -1), uv, atol=1e-5, rtol=1e-5)


def test_each_map_is_sampled_at_its_own_points():
    maps = torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4).clone()
    maps[1, 0, 0, 0] = 9.0
    uv = torch.tensor([[[0.5, 0.5]], [[0.5, 0.5]]])
    assert sample_map(maps, uv).flatten().tolist() == [1.0, 9.0]


def test_nan_point_gives_a_finite_sample():
    out = sample_map(torch.rand(1, 2, 3, 4), torch.tensor([[[torch.nan, torch.nan], [torch.inf, 1.0]]]))
    assert torch.isfinite(out).all()


def test_half_precision_map_keeps_its_dtype():
    assert sample_map(torch.rand(1, 2, 3, 4).bfloat16(), torch.rand(1, 5, 2)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("uv", "want"),
    [
        ((0, 0), True),
        ((10, 6), True),
        ((5, 3), True),
        ((-0.01, 3), False),
        ((5, 6.01), False),
        ((10.01, 3), False),
        ((5, -1), False),
        ((torch.nan, torch.nan), False),
        ((torch.inf, 3), False),
    ],
)
def test_inside_is_from_corner_to_corner(uv, want):
    assert bool(inside(torch.tensor(uv, dtype=torch.float32), 10, 6)) is want


@pytest.mark.parametrize(
    ("size", "stride", "cells"), [((96, 72), 8, (12, 9)), ((97, 71), 8, (13, 9)), ((3, 5), 8, (1, 1))]
)
def test_grid_of_a_stride_covers_the_padded_image(size, stride, cells):
    grid = FeatureGrid.from_stride(*size, stride)
    assert (grid.width, grid.height) == cells
    assert grid.scale == (1 / stride, 1 / stride)
    assert grid.offset == (0.0, 0.0)


def test_cell_centers_are_in_the_middle_of_their_stride():
    assert FeatureGrid.from_stride(16, 8, 8).cell_centers().tolist() == [[4.0, 4.0], [12.0, 4.0]]


def test_offset_moves_the_cells():
    # A cell's centre u satisfies u * scale + offset = index + 0.5.
    grid = FeatureGrid(2, 1, (0.25, 0.5), (0.5, -0.25))
    assert grid.cell_centers().tolist() == [[0.0, 1.5], [4.0, 1.5]]


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.tuples(st.floats(0.05, 4), st.floats(0.05, 4)),
    st.tuples(st.floats(-2, 2), st.floats(-2, 2)),
    st.floats(0.1, 8),
    st.floats(0.1, 8),
)
def test_resizing_the_image_takes_the_cell_centers_along(width, height, scale, offset, x, y):
    grid = FeatureGrid(width, height, scale, offset)
    want = grid.cell_centers() * torch.tensor([x, y])
    torch.testing.assert_close(grid.rescaled(x, y).cell_centers(), want, rtol=1e-4, atol=1e-3)


def test_map_sampled_at_its_cell_centers_is_itself():
    grid = FeatureGrid(5, 4, (0.23, 0.31), (0.4, -0.7))
    data = torch.rand(1, 3, 4, 5)
    uv = grid.cell_centers() * torch.tensor(grid.scale) + torch.tensor(grid.offset)
    torch.testing.assert_close(sample_map(data, uv[None]).reshape(1, 3, 4, 5), data, atol=1e-5, rtol=0)
