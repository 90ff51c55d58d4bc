"""The convolution of few channels is PyTorch's own, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lift3d_cli.ops import conv3d
from lift3d_cli.ops.conv3d import Conv3d


@pytest.fixture(autouse=True)
def _as_of_many_voxels(monkeypatch):
    monkeypatch.setattr(conv3d, "_MANY_VOXELS", 0)


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(13, 8, 1), (8, 9, 1), (8, 16, 2), (3, 5, 2)])
@pytest.mark.parametrize("size", [(4, 6, 5), (1, 1, 1), (9, 16, 11)])
def test_in_whole_eights_is_the_same_and_so_are_its_gradients(inputs, outputs, stride, size):
    torch.manual_seed(0)
    conv, x = Conv3d(inputs, outputs, 3, stride, padding=1), torch.randn(2, inputs, *size, requires_grad=True)
    want, got = nn.Conv3d.forward(conv, x), conv.in_eights(x)
    torch.testing.assert_close(got, want)
    grad = torch.randn(want.shape)
    wanted = (x, conv.weight, conv.bias)
    torch.testing.assert_close(
        torch.autograd.grad(got, wanted, grad), torch.autograd.grad(want, wanted, grad), atol=1e-4, rtol=1e-4
    )


def test_in_bfloat16_its_gradients_are_near():
    torch.manual_seed(0)
    conv, x = Conv3d(13, 8, 3, padding=1), torch.randn(2, 13, 9, 16, 11)
    grad = torch.randn(2, 8, 9, 16, 11)
    want = torch.autograd.grad(nn.Conv3d.forward(conv, x), conv.parameters(), grad)
    with torch.autocast("cpu", torch.bfloat16):
        out = conv.in_eights(x)
    assert out.dtype == torch.bfloat16
    for a, b in zip(torch.autograd.grad(out.float(), conv.parameters(), grad), want, strict=True):
        assert (a - b).abs().max() < 0.02 * b.abs().max()


def test_input_without_gradient_needs_none():
    conv, x = Conv3d(3, 5, 3, padding=1), torch.randn(1, 3, 4, 4, 4)
    conv.in_eights(x).sum().backward()
    assert x.grad is None
    assert conv.weight.grad is not None
