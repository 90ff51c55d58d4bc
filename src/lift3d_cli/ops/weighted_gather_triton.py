"""The weighted gather as Triton kernels, for CUDA, without [V, R, S, C] in memory.

`weighted_gather.py` imports this file at the first maps on a GPU. Maps may be float16, bfloat16 or float32; sums are
float32. Samples without weight or with a NaN point, and taps without a share, are not read.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

# Rays times channels per program: 8 for each of 128 threads, which is 16 bytes of a float16 map.
_BLOCK = 1024
# More channels are split among programs, so that concurrent ones share a part of the table.
_BLOCK_CHANNELS = (512, 256, 128, 64)
# Compiler options. Without them, some versions warn that their default will change.
_OPTIONS = {"enable_fp_fusion": True}


def gather(
    table: Tensor,  # [V * h * w, C] float16, bfloat16 or float32
    uv: Tensor,  # [V, R, S, 2] pixels of the maps, first pixel centre (0.5, 0.5)
    omega: Tensor,  # [V, R, S]
    height: int,
    width: int,
) -> Tensor:  # [R, C] float32
    """Gather, see `WeightedGather`. Differentiable once, by all three tensors."""
    return _Gather.apply(table, uv.float(), omega.float(), height, width)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, table: Tensor, uv: Tensor, omega: Tensor, height: int, width: int) -> Tensor:
        tensors = [x.contiguous() for x in (table, uv, omega)]
        ctx.save_for_backward(*tensors)
        ctx.sizes = (*omega.shape, height, width)
        out = table.new_empty(omega.shape[1], table.shape[1], dtype=torch.float32)
        _run(_gather_kernel, tensors, [out], ctx.sizes)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        table, uv, omega = ctx.saved_tensors
        of_table, of_uv, of_omega, *_ = ctx.needs_input_grad
        grad = grad.contiguous()
        table_grad = uv_grad = omega_grad = None
        if of_table:
            table_grad = torch.zeros_like(table, dtype=torch.float32)
            _run(_table_gradient_kernel, (grad, uv, omega), [table_grad], ctx.sizes)
            table_grad = table_grad.to(table.dtype)
        if of_uv or of_omega:
            uv_grad, omega_grad = torch.zeros_like(uv), torch.zeros_like(omega)
            _run(_sample_gradient_kernel, (table, uv, omega, grad), [uv_grad, omega_grad], ctx.sizes)
        return table_grad, uv_grad, omega_grad, None, None


def _run(kernel, inputs, outputs, sizes: tuple[int, ...]) -> None:
    """Run programs for all rays, and all channels or views."""
    num_views, num_rays, channels = *sizes[:2], inputs[0].shape[1]
    block = _block(channels)
    across = num_views if kernel is _sample_gradient_kernel else triton.cdiv(channels, block[1])
    grid = (triton.cdiv(num_rays, block[0]), across)
    if all(grid):
        with torch.cuda.device_of(inputs[0]):
            kernel[grid](*inputs, *outputs, *sizes, channels, *block, **_OPTIONS)


def _block(channels: int) -> tuple[int, int]:
    """Return the rays and channels per program, with as many channels as leave the fewest threads idle."""
    block = min(_BLOCK_CHANNELS, key=lambda size: triton.cdiv(channels, size) * size)
    block = min(block, triton.next_power_of_2(channels))
    return _BLOCK // max(block, 4), block


@triton.jit
def _gather_kernel(
    table, uv, omega, out, num_views, num_rays, num_samples, height, width,
    CHANNELS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    ray = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    is_ray, is_channel = ray < num_rays, channel[None, :] < CHANNELS
    total = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    for view in range(num_views):
        for k in range(num_samples):
            at = (view * num_rays + ray) * num_samples + k
            row, w00, w01, w10, w11 = _sample(uv, omega, at, view, is_ray, height, width)
            cell = table + row * CHANNELS
            total += _tap(cell, w00, channel, is_channel)
            total += _tap(cell + CHANNELS, w01, channel, is_channel)
            total += _tap(cell + width * CHANNELS, w10, channel, is_channel)
            total += _tap(cell + (width + 1) * CHANNELS, w11, channel, is_channel)
    tl.store(out + ray[:, None] * CHANNELS + channel[None, :], total, mask=is_ray[:, None] & is_channel)


@triton.jit
def _sample(uv, omega, at, view, is_ray, height, width):
    """Return the row of the cell above and left of a sample, and the weights of the four cells around it."""
    weight = tl.load(omega + at, mask=is_ray, other=0.0)
    u, v, is_point = _point(uv, at, is_ray & (weight != 0))
    row, right, below = _place(u, v, view, height, width)
    w00, w01, w10, w11 = _shares(tl.where(is_point, weight, 0.0), right, below)
    return row, w00, w01, w10, w11


@triton.jit
def _point(uv, at, mask):
    """Return positions in cells, counted from the first cell's centre, and where they are valid."""
    u = tl.load(uv + 2 * at, mask=mask, other=0.0) - 0.5
    v = tl.load(uv + 2 * at + 1, mask=mask, other=0.0) - 0.5
    is_point = mask & (u == u) & (v == v)
    return tl.where(is_point, u, 0.0), tl.where(is_point, v, 0.0), is_point


@triton.jit
def _place(u, v, view, height, width):
    """Return the row of the cell above and left of a position, clamped to the map, and the fractions beyond it."""
    u = tl.minimum(tl.maximum(u, 0.0), (width - 1) * 1.0)
    v = tl.minimum(tl.maximum(v, 0.0), (height - 1) * 1.0)
    x, y = u.to(tl.int64), v.to(tl.int64)
    return (view * height + y) * width + x, u - x.to(tl.float32), v - y.to(tl.float32)


@triton.jit
def _shares(weight, right, below):
    """Return the weights of the cell, its right, lower and diagonal neighbours; 0 beyond the last column or row."""
    lower = weight * below
    upper = weight - lower
    return upper - upper * right, upper * right, lower - lower * right, lower * right


@triton.jit
def _tap(cell, share, channel, is_channel):
    return share[:, None] * _read(cell, channel, (share != 0)[:, None] & is_channel)


@triton.jit
def _read(cell, channel, mask):
    return tl.load(cell[:, None] + channel[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _table_gradient_kernel(
    grad, uv, omega, table_grad, num_views, num_rays, num_samples, height, width,
    CHANNELS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    ray = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    is_ray, is_channel = ray < num_rays, channel[None, :] < CHANNELS
    of_ray = _read(grad + ray * CHANNELS, channel, is_ray[:, None] & is_channel)
    for view in range(num_views):
        for k in range(num_samples):
            at = (view * num_rays + ray) * num_samples + k
            row, w00, w01, w10, w11 = _sample(uv, omega, at, view, is_ray, height, width)
            cell = table_grad + row * CHANNELS
            _add(cell, w00, of_ray, channel, is_channel)
            _add(cell + CHANNELS, w01, of_ray, channel, is_channel)
            _add(cell + width * CHANNELS, w10, of_ray, channel, is_channel)
            _add(cell + (width + 1) * CHANNELS, w11, of_ray, channel, is_channel)


@triton.jit
def _add(cell, share, of_ray, channel, is_channel):
    mask = (share != 0)[:, None] & is_channel
    tl.atomic_add(cell[:, None] + channel[None, :], share[:, None] * of_ray, mask=mask, sem="relaxed")


@triton.jit
def _sample_gradient_kernel(
    table, uv, omega, grad, uv_grad, omega_grad, num_views, num_rays, num_samples, height, width,
    CHANNELS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    ray = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    view = tl.program_id(1)
    is_ray = ray < num_rays
    for k in range(num_samples):
        at = (view * num_rays + ray) * num_samples + k
        weight = tl.load(omega + at, mask=is_ray, other=0.0)
        u, v, is_point = _point(uv, at, is_ray)  # a weight of 0 has a gradient too
        row, right, below = _place(u, v, view, height, width)
        has_right = is_point & (tl.maximum(u, 0.0) < width - 1)
        has_below = is_point & (tl.maximum(v, 0.0) < height - 1)
        # The product of each of the four cells with the gradient, over all channels.
        s00, s01, s10, s11 = 0.0 * u, 0.0 * u, 0.0 * u, 0.0 * u
        for start in range(0, CHANNELS, BLOCK_C):
            channel = start + tl.arange(0, BLOCK_C)
            is_channel = channel[None, :] < CHANNELS
            of_ray = _read(grad + ray * CHANNELS, channel, is_ray[:, None] & is_channel)
            cell = table + row * CHANNELS
            s00 += _dot(cell, of_ray, channel, is_channel, is_point)
            s01 += _dot(cell + CHANNELS, of_ray, channel, is_channel, has_right)
            s10 += _dot(cell + width * CHANNELS, of_ray, channel, is_channel, has_below)
            s11 += _dot(cell + (width + 1) * CHANNELS, of_ray, channel, is_channel, has_right & has_below)
        upper, lower = s00 + right * (s01 - s00), s10 + right * (s11 - s10)
        tl.store(omega_grad + at, upper + below * (lower - upper), mask=is_point)
        slope = weight * ((1 - below) * (s01 - s00) + below * (s11 - s10))
        tl.store(uv_grad + 2 * at, slope, mask=has_right & (u > 0))
        tl.store(uv_grad + 2 * at + 1, weight * (lower - upper), mask=has_below & (v > 0))


@triton.jit
def _dot(cell, of_ray, channel, is_channel, is_cell):
    return tl.sum(_read(cell, channel, is_cell[:, None] & is_channel) * of_ray, 1)
