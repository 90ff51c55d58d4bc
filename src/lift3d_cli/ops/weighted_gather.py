"""The weighted gather: every rendered value is a sum of bilinear samples of source maps, times scalar weights.

out(r) = sum over views i and samples k of  omega[i, r, k] * map_i(uv[i, r, k])
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.geometry.grids import sample_map

# Below this many channels, sampling all views at once is faster than looking up rows of a table.
_MIN_TABLE_CHANNELS = 16


def weighted_gather_ref(
    maps: Tensor,  # [V, C, h, w]
    uv: Tensor,  # [V, R, S, 2] pixels of the maps, first pixel centre (0.5, 0.5)
    omega: Tensor,  # [V, R, S]
) -> Tensor:  # [R, C]
    """Reference: materialises all samples. Points outside of a map take its border's value."""
    return torch.einsum("vcrs,vrs->rc", sample_map(maps, uv), omega.to(maps.dtype))


class WeightedGather:
    """The same for many batches of rays from the same maps, and without ever holding [V, R, S, C] for many channels.

    `torch.nn.functional.embedding_bag` over the channels-last maps is a fused weighted gather: the four taps of each
    sample are four rows of one table, which is made once. Accumulates in float32.

    Args:
        maps: [V, C, h, w].
    """

    def __init__(self, maps: Tensor) -> None:
        self.maps = maps.float()
        self._table: Tensor | None = None
        if maps.shape[1] >= _MIN_TABLE_CHANNELS:
            self._table = self.maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])

    def __call__(
        self,
        uv: Tensor,  # [V, R, S, 2] pixels of the maps
        omega: Tensor,  # [V, R, S]
    ) -> Tensor:  # [R, C] float32
        """Gather one batch of rays."""
        if self._table is None:
            return weighted_gather_ref(self.maps, uv, omega)
        return gather_rows(self._table, uv, omega, *self.maps.shape[2:])

    def moved(
        self,
        values: Tensor,  # [R, C]
        rows: Tensor,  # [V, R, T] cells of the maps, counted through all of them
        weights: Tensor,  # [V, R, T]
    ) -> Tensor:  # [R, C]
        """Move each ray's value towards cells of the maps: v + sum over j of weights_j (cell_j - v)."""
        table = self._table
        if table is None:
            table = self.maps.permute(0, 2, 3, 1).flatten(0, 2)
        per_ray = (x.transpose(0, 1).flatten(1) for x in (rows, weights.to(table.dtype)))
        rows, weights = (x.contiguous() for x in per_ray)
        cells = F.embedding_bag(rows, table, per_sample_weights=weights, mode="sum")
        return (1 - weights.sum(1, keepdim=True)) * values + cells


def weighted_gather(maps: Tensor, uv: Tensor, omega: Tensor) -> Tensor:
    """`WeightedGather` for one batch of rays."""
    return WeightedGather(maps)(uv, omega)


def gather_rows(
    table: Tensor,  # [V * h * w, C] float32
    uv: Tensor,  # [V, R, S, 2]
    omega: Tensor,  # [V, R, S]
    height: int,
    width: int,
) -> Tensor:  # [R, C]
    num_views, num_rays = uv.shape[:2]
    # A NaN point lies behind its view and has no weight; 0 is as good a place to not read it as any.
    point = torch.nan_to_num(uv) - 0.5
    u = point[..., 0].clamp(0, width - 1)
    v = point[..., 1].clamp(0, height - 1)
    u0, v0 = u.floor(), v.floor()
    fu, fv = u - u0, v - v0
    u0, v0 = u0.long(), v0.long()
    u1, v1 = (u0 + 1).clamp(max=width - 1), (v0 + 1).clamp(max=height - 1)
    view = (torch.arange(num_views, device=uv.device) * (height * width)).view(-1, 1, 1)
    rows = torch.stack([view + y * width + x for y in (v0, v1) for x in (u0, u1)], -1)  # [V, R, S, 4]
    taps = torch.stack([a * b for a in (1 - fv, fv) for b in (1 - fu, fu)], -1) * omega[..., None]
    per_ray = rows.transpose(0, 1).reshape(num_rays, -1), taps.transpose(0, 1).reshape(num_rays, -1)
    return F.embedding_bag(per_ray[0], table, per_sample_weights=per_ray[1].to(table.dtype), mode="sum")
