"""Tiles: of a local network, the whole; blended where they overlap; no larger than asked."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from lift3d_cli.models.builtin.tiles import tiled


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (9, 5), (30, 17), (5, 64)], ids=str)
@pytest.mark.parametrize("times", [1, 3])
def test_of_a_network_that_sees_one_cell_tiles_are_the_whole(size, times):
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    seen = []

    def run(rows: slice, columns: slice) -> torch.Tensor:
        part = x[:, :, rows, columns]
        seen.append(part.shape[2:])
        return F.interpolate(part, scale_factor=times, mode="nearest").square()

    torch.testing.assert_close(tiled(run, *size, 8), F.interpolate(x, scale_factor=times, mode="nearest").square())
    assert all(max(shape) <= 8 for shape in seen)


def test_neighbours_are_blended_linearly_across_a_quarter_of_a_tile():
    numbers = iter(range(10))
    row = tiled(lambda r, c: torch.full((1, 1, 1, c.stop - c.start), float(next(numbers))), 1, 14, 8)[0, 0, 0]
    torch.testing.assert_close(row, torch.tensor([0] * 6 + [0.25, 0.75] + [1] * 6))
    numbers = iter(range(10))
    row = tiled(lambda r, c: torch.full((1, 1, 1, c.stop - c.start), float(next(numbers))), 1, 100, 16)[0, 0, 0]
    assert row.diff().abs().max() < 0.3  # no seam
