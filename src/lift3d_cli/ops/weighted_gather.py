"""The weighted gather: every rendered value is a sum of bilinear samples of source maps, times scalar weights.

out(r) = sum over views i and samples k of  omega[i, r, k] * map_i(uv[i, r, k])
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.geometry.grids import sample_map


def weighted_gather_ref(
    maps: Tensor,  # [V, C, h, w]
    uv: Tensor,  # [V, R, S, 2] pixels of the maps, first pixel centre (0.5, 0.5)
    omega: Tensor,  # [V, R, S]
) -> Tensor:  # [R, C]
    """Compute the reference result with all samples in memory. Points outside of a map take its border's value."""
    return torch.einsum("vcrs,vrs->rc", sample_map(maps, uv), omega.to(maps.dtype))


class WeightedGather:
    """The weighted gather for many batches of rays from the same maps, without [V, R, S, C] in memory.

    The maps become a channels-last table, of which each sample reads four rows. On a GPU it is a Triton kernel, on maps
    in their own precision; else `torch.nn.functional.embedding_bag`, on maps in float32. Sums are float32.

    Args:
        maps: [V, C, h, w].
    """

    def __init__(self, maps: Tensor) -> None:
        self._kernel = load_kernel(maps.device)
        self._channels, dtype = maps.shape[1], torch.float32
        if self._kernel is not None:
            dtype = maps.dtype if maps.dtype in (torch.float16, torch.bfloat16) else dtype
            if maps.shape[1] % 4:  # cells with a multiple of four channels can be read as whole vectors
                maps = F.pad(maps, (0, 0, 0, 0, 0, -maps.shape[1] % 4))
        maps = maps.to(dtype, memory_format=torch.channels_last)
        self._size = maps.shape[2:]
        self._table = maps.permute(0, 2, 3, 1).flatten(0, 2)
        self.maps = maps[:, : self._channels]

    def __call__(
        self,
        uv: Tensor,  # [V, R, S, 2] pixels of the maps
        omega: Tensor,  # [V, R, S]; 0 where uv is NaN
    ) -> Tensor:  # [R, C] float32
        """Gather one batch of rays."""
        if self._kernel is not None:
            return self._kernel(self._table, uv, omega, *self._size)[:, : self._channels]
        rows, weights = _taps(uv, omega, *self._size)
        return F.embedding_bag(rows, self._table, per_sample_weights=weights, mode="sum")

    def moved(
        self,
        values: Tensor,  # [R, C]
        rows: Tensor,  # [V, R, T] cells of the maps, view i's from map i, numbered across all maps
        weights: Tensor,  # [V, R, T]
    ) -> Tensor:  # [R, C]
        """Move each ray's value towards cells of the maps: v + sum over j of weights_j (cell_j - v)."""
        if self._kernel is not None:
            height, width = self._size
            cells = self(torch.stack([rows % width, rows // width % height], -1) + 0.5, weights)
        else:
            per_ray = [x.transpose(0, 1).flatten(1) for x in (rows, weights.float())]
            cells = F.embedding_bag(per_ray[0], self._table, per_sample_weights=per_ray[1], mode="sum")
        return (1 - weights.sum((0, 2)))[:, None] * values + cells


def weighted_gather(maps: Tensor, uv: Tensor, omega: Tensor) -> Tensor:
    """Apply `WeightedGather` to one batch of rays."""
    return WeightedGather(maps)(uv, omega)


def _taps(uv: Tensor, omega: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:  # both [R, 4 * V * S]
    """Return the rows of the table that each ray reads, and their weights.

    Dropping samples without weight here costs as much as it saves.
    """
    num_views, num_rays, num_samples = omega.shape
    counts = {"device": uv.device, "dtype": torch.int32 if num_views * height * width < 2**31 else torch.int64}
    # A NaN point is behind its view and has no weight; any valid position will do, such as 0.
    point = torch.nan_to_num(uv.float().permute(3, 1, 0, 2).reshape(2, num_rays, -1)).sub_(0.5)
    u, v = point[0].clamp_(0, width - 1), point[1].clamp_(0, height - 1)
    # The cell above and to the left; it always has neighbours to the right and below.
    x, y = u.to(**counts).clamp_(max=max(width - 2, 0)), v.to(**counts).clamp_(max=max(height - 2, 0))
    right, below = u.sub_(x), v.sub_(y)
    first = (torch.arange(num_views, **counts) * (height * width)).repeat_interleave(num_samples)
    cell = y.mul_(width).add_(x).add_(first)
    weights = _shares(right, below, omega.transpose(0, 1).reshape(num_rays, -1))
    to_right, to_below = min(width - 1, 1), min(height - 1, 1) * width
    steps = torch.tensor([0, to_right, to_below, to_below + to_right], **counts)
    return (cell[:, None] + steps[:, None]).flatten(1), weights.flatten(1)


def _shares(right: Tensor, below: Tensor, omega: Tensor) -> Tensor:  # [R, N] to [R, 4, N]
    """Return a sample's weights for the cell, those to the right and below, and the diagonal one."""
    across = torch.stack([1 - right, right], 1).mul_(omega[:, None])
    down = torch.stack([1 - below, below], 1)
    return (down[:, :, None] * across[:, None]).flatten(1, 2)


@functools.cache
def load_kernel(device: torch.device) -> Callable[..., Tensor] | None:
    """Return the Triton kernel if this is a CUDA device and it runs there; otherwise warn, and return None."""
    if device.type != "cuda":
        return None
    try:
        from lift3d_cli.ops.weighted_gather_triton import gather

        one = torch.ones(1, 1, 1, 1, device=device)
        gather(one[0, 0], one.expand(1, 1, 1, 2), one[0], 1, 1).item()  # synchronises, to see the device's errors too
    except Exception as e:  # no Triton, no C compiler for it, a GPU that is too old: there are many ways to fail
        reason = next(iter(str(e).splitlines()), type(e).__name__)
        warnings.warn(
            f"the Triton kernel does not run on {device}, so torch gathers, more slowly: {reason}. hint: "
            "pip install triton; it needs a C compiler and a GPU of compute capability 7.0 or more",
            RuntimeWarning,
            stacklevel=3,
        )
        return None
    return gather
