"""Run a network on a large map tile by tile, where all of it at once would take too much memory."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def tiled(run: Callable[[slice, slice], Tensor], height: int, width: int, tile: int) -> Tensor:
    """Join the results of overlapping tiles, blended linearly across the quarter of a tile or more that they share.

    Args:
        run: maps rows and columns of cells to a result [B, C, n * rows, n * columns], of any whole n.
        height: number of rows of cells.
        width: number of columns.
        tile: largest side of a tile, in cells; a map that is no larger is one tile.
    """
    if max(height, width) <= tile:
        return run(slice(0, height), slice(0, width))
    total = weights = None
    for rows in _spans(height, tile):
        for columns in _spans(width, tile):
            part = run(rows, columns)
            times = part.shape[2] // (rows.stop - rows.start)
            if total is None:
                total = part.new_zeros(*part.shape[:2], times * height, times * width)
                weights = part.new_zeros(times * height, times * width)
            weight = torch.outer(*(_ramp(n, times * tile // 4).to(part) for n in part.shape[2:]))
            at = tuple(slice(times * span.start, times * span.stop) for span in (rows, columns))
            total[:, :, at[0], at[1]] += weight * part
            weights[at] += weight
    return total / weights


def _spans(size: int, tile: int) -> list[slice]:
    """Spread tiles evenly over `size` cells, so that neighbours share a quarter of a tile at least."""
    tile = min(tile, size)
    number = 1 + math.ceil((size - tile) / (tile - tile // 4))
    starts = [round(i * (size - tile) / max(number - 1, 1)) for i in range(number)]
    return [slice(start, start + tile) for start in starts]


def _ramp(size: int, length: int) -> Tensor:
    """Return weights [size] that rise over `length` from both ends."""
    place = torch.arange(size) + 0.5
    return torch.minimum(place, size - place).clamp(max=max(length, 1))
