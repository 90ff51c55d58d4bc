"""3-D convolutions with few channels over many voxels, fast on a GPU and with the same results elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Number of parts that the sum over voxels in a weight's gradient is split into; they run in parallel.
_PARTS = 1024
# The fewest voxels that this is used for; below, cuDNN's own is fast, and launches dominate.
_MANY_VOXELS = 2**18


class Conv3d(nn.Conv3d):
    """A convolution that on a GPU pads channels with zeros to multiples of eight, as its matrix units need."""

    def forward(self, x: Tensor) -> Tensor:
        """See `nn.Conv3d`."""
        return self.in_eights(x) if x.is_cuda else super().forward(x)

    def in_eights(self, x: Tensor) -> Tensor:
        """Run the padded convolution, on any device."""
        more_in, more_out = -x.shape[1] % 8, -self.out_channels % 8
        if more_in:
            x = F.pad(x, (0,) * 7 + (more_in,)).contiguous(memory_format=torch.channels_last_3d)
        weight = F.pad(self.weight, (0,) * 7 + (more_in, 0, more_out))
        bias = F.pad(self.bias, (0, more_out))
        is_large = x.shape[0] * x[0, 0].numel() >= _MANY_VOXELS
        convolved = _FewChannels.apply if is_large and self.stride == (1, 1, 1) and torch.is_grad_enabled() else _conv3d
        return convolved(x, weight, bias, self.stride, self.padding)[:, : self.out_channels]


def _conv3d(x: Tensor, weight: Tensor, bias: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    return F.conv3d(x, weight, bias, stride, padding)


class _FewChannels(torch.autograd.Function):
    """A convolution of stride 1 whose weight gradient is a sum of matrix products, one per tap of the kernel.

    cuDNN's own, with few channels over millions of voxels, took a quarter of a training step on an H100: 18 ms each.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
        # Autocast does not apply in here.
        if torch.is_autocast_enabled(x.device.type):
            x, weight, bias = (v.to(torch.get_autocast_dtype(x.device.type)) for v in (x, weight, bias))
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        with torch.autocast(x.device.type, enabled=False):
            return F.conv3d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last_3d)
        of_input = None
        if ctx.needs_input_grad[0]:
            of_input, _, _ = torch.ops.aten.convolution_backward(
                grad, x, weight, None, (1, 1, 1), ctx.padding, (1, 1, 1), False, (0, 0, 0), 1, (True, False, False)
            )
        return of_input, _weight_gradient(x, grad, weight.shape, ctx.padding), grad.sum((0, 2, 3, 4)), None, None


def _weight_gradient(x: Tensor, grad: Tensor, shape: torch.Size, padding: Sequence[int]) -> Tensor:
    """Return the gradient [O, I, 3, 3, 3] of a convolution's weights, from its input and its output's gradient."""
    # With equal padding of both and voxels in one row, a tap's voxel is a fixed number of voxels away from the
    # output's.
    around = [p for n in reversed(padding) for p in (n, n)]
    x, grad = (F.pad(v, around).movedim(1, -1).contiguous() for v in (x, grad))
    _, _, height, width, _ = x.shape
    taps = itertools.product(*(range(-p, k - p) for k, p in zip(shape[2:], padding, strict=True)))
    offsets = [(d * height + h) * width + w for d, h, w in taps]
    x, grad = x.flatten(0, -2), grad.flatten(0, -2)
    furthest, missing = max(offsets), -len(grad) % _PARTS
    x, grad = F.pad(x, (0, 0, furthest, furthest + missing)), F.pad(grad, (0, 0, 0, missing))
    parts = grad.view(_PARTS, -1, shape[0]).mT

    def product(offset: int) -> Tensor:  # [O, I]
        partner = x[furthest + offset :][: len(grad)]
        return torch.bmm(parts, partner.view(_PARTS, -1, shape[1])).sum(0, dtype=torch.float32)

    return torch.stack([product(offset) for offset in offsets], -1).reshape(shape).to(x.dtype)
