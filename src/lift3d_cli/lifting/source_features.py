"""One model's features of the source views, as the renderer takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lift3d_cli.geometry.grids import FeatureGrid
from lift3d_cli.lifting.correction.corrector import Corrector
from lift3d_cli.lifting.sources import pad_maps


class StoredMap(Protocol):
    """A feature map that is read from disk on demand."""

    @property
    def shape(self) -> Sequence[int]:
        """(C, h, w)."""

    def __getitem__(self, channels: slice) -> Tensor:
        """Read some of the channels."""


@dataclass(frozen=True)
class SourceFeatures:
    """One model's features of the V source views, and the grid to render them on.

    Args:
        maps: V maps [C, h_i, w_i], tensors or `StoredMap`s; sizes may differ.
        grids: V grids of the maps' cells, in pixels of the images of `SourceViews`.
        target: grid of the rendered map in the target's image.
        stride: image pixels per cell, in the images that were encoded.
        corrector: corrects the blended features; or None.
        descriptors: V maps [D, h_i, w_i] on the same grids, by `corrector.describe`.
        channels_at_once: how many channels to lift at a time, where memory is short; 0 for all.
    """

    maps: Sequence[Tensor | StoredMap]
    grids: Sequence[FeatureGrid]
    target: FeatureGrid
    stride: float = 1.0
    corrector: Corrector | None = None
    descriptors: Sequence[Tensor] = ()
    channels_at_once: int = 0

    def blocks(self) -> list[slice]:
        """Return the blocks of channels to lift one at a time."""
        channels = self.maps[0].shape[0]
        step = self.channels_at_once or channels
        return [slice(first, first + step) for first in range(0, channels, step)]

    def read(self, block: slice, device: torch.device) -> Tensor:  # [V, c, h, w]
        """Read some channels of all maps, stacked."""
        return pad_maps([m[block] for m in self.maps]).to(device)
