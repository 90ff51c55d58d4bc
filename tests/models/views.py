"""Pictures of noise, what a decoder gets beside features (a view, a context), and where a cell looks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lift3d_cli import FeatureMap, RenderedView
from lift3d_cli.models.base import DecodeContext, DecodeOptions


def noise(height: int, width: int, seed: int = 5) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def as_view(image: Tensor) -> RenderedView:
    return RenderedView(image, torch.ones(image.shape[1:]))


def assert_cell_is_centred(encode: Callable[[Tensor], Tensor], size: int, spot: slice, cell: int) -> None:
    """That a spot over a cell's centre, of a grey picture, reaches left and right, up and down, alike."""
    flat = torch.full((1, 3, size, size), 0.6)
    lit = flat.clone()
    lit[..., spot, spot] = 1
    change = (encode(lit) - encode(flat)).abs().sum(1)[0]
    change = change / change.max()
    torch.testing.assert_close(change, change.flip(0), atol=1e-4, rtol=0)
    torch.testing.assert_close(change, change.flip(1), atol=1e-4, rtol=0)
    assert divmod(change.argmax().item(), change.shape[1]) == (cell, cell)


def stylizing(frames: list[FeatureMap], style: Tensor | None = None) -> DecodeContext:
    return DecodeContext("stylize", DecodeOptions(style=style), frames, photo=lambda name: None)
