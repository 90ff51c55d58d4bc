"""One model's features of the source photos, as the renderer takes them."""

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
    """A map that is read when it is needed."""

    @property
    def shape(self) -> Sequence[int]:
        """(C, h, w)."""

    def __getitem__(self, channels: slice) -> Tensor:
        """Some of the channels."""


@dataclass(frozen=True)
class SourceFeatures:
    """One model's features of the V source views, and the grid to render.

    Args:
        maps: V maps [C, h_i, w_i], or what has such a `shape` and gives channels by `[slice]`; sizes may differ.
        grids: V grids: where the cells lie in the source's image of `SourceViews`.
        target: grid of the rendered map in the target's image.
        stride: image pixels per cell, where the photos were encoded.
        corrector: of the blended features, or None.
        descriptors: V maps [D, h_i, w_i] on the same grids, by `corrector.describe`.
        channels_at_once: how many to read and lift at a time, where memory is short; 0 for all.
    """

    maps: Sequence[Tensor | StoredMap]
    grids: Sequence[FeatureGrid]
    target: FeatureGrid
    stride: float = 1.0
    corrector: Corrector | None = None
    descriptors: Sequence[Tensor] = ()
    channels_at_once: int = 0

    def blocks(self) -> list[slice]:
        """The channels that are lifted at a time."""
        channels = self.maps[0].shape[0]
        step = self.channels_at_once or channels
        return [slice(first, first + step) for first in range(0, channels, step)]

    def read(self, block: slice, device: torch.device) -> Tensor:  # [V, c, h, w]
        """Some channels of all maps, side by side."""
        return pad_maps([m[block] for m in self.maps]).to(device)
