"""Pictures of noise, and what a decoder gets beside features: a view and a context."""

from __future__ import annotations

import torch
from torch import Tensor

from lift3d_cli import FeatureMap, RenderedView
from lift3d_cli.models.base import DecodeContext, DecodeOptions


def noise(height: int, width: int, seed: int = 5) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def as_view(image: Tensor) -> RenderedView:
    return RenderedView(image, torch.ones(image.shape[1:]))


def stylizing(frames: list[FeatureMap], style: Tensor | None = None) -> DecodeContext:
    return DecodeContext("stylize", DecodeOptions(style=style), frames, photo=lambda name: None)
