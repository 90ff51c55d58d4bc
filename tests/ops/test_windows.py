"""Means and extremes over windows are those of PyTorch's pooling."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from lift3d_cli.ops.windows import window_max, window_mean


@pytest.mark.parametrize("window", [1, 3, 5, 7, 9, 11, 31])
@pytest.mark.parametrize("shape", [(2, 3, 40, 33), (1, 1, 4, 2), (1, 2, 1, 5)])
def test_as_pooling(window, shape):
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(window))
    padded = F.pad(maps, (window // 2,) * 4, mode="replicate")
    assert torch.allclose(window_mean(maps, window), F.avg_pool2d(padded, window, stride=1), atol=1e-5)
    assert torch.equal(window_max(maps, window), F.max_pool2d(padded, window, stride=1))


def test_along_other_numbers_of_axes():
    maps = torch.randn(2, 6, 7, 8, generator=torch.Generator().manual_seed(0))
    padded = F.pad(maps[None], (1,) * 6, mode="replicate")[0]
    assert torch.allclose(window_mean(maps, 3, num_axes=3), F.avg_pool3d(padded, 3, stride=1), atol=1e-6)
    assert torch.allclose(window_mean(maps, 3, num_axes=1)[..., 1:-1], maps.unfold(-1, 3, 1).mean(-1), atol=1e-6)
    assert torch.equal(window_mean(maps[0, 0], 5), window_mean(maps, 5)[0, 0])
