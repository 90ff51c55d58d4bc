"""The half-pixel rule and all sampling of maps: the only file that calls `F.grid_sample`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class FeatureGrid:
    """The positions of a feature map's cells in its image.

    A point `uv` in image pixels is at `uv * scale + offset` in the map's own pixels; in both, the top-left corner of
    the first pixel is (0, 0) and its centre (0.5, 0.5).

    Args:
        width, height: size of the map in cells.
        scale: (x, y) cells per image pixel, 1/stride for most networks.
        offset: (x, y) in cells: 0 where the map begins exactly at the image's corner.
    """

    width: int
    height: int
    scale: tuple[float, float]
    offset: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def from_stride(cls, width: int, height: int, stride: int) -> FeatureGrid:
        """Return the grid of a network that pads a `width` x `height` image at right and bottom to whole strides."""
        return cls(math.ceil(width / stride), math.ceil(height / stride), (1 / stride, 1 / stride))

    def rescaled(self, x: float, y: float) -> FeatureGrid:
        """Return the same cells after resizing the image to `x`, `y` times as many pixels."""
        return FeatureGrid(self.width, self.height, (self.scale[0] / x, self.scale[1] / y), self.offset)

    def cell_centers(self) -> Tensor:
        """Return the cell centres in image pixels: [height * width, 2], row by row, float32."""
        return (pixel_centers(self.width, self.height) - torch.tensor(self.offset)) / torch.tensor(self.scale)


def pixel_centers(width: int, height: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the centres of an image's pixels: [height * width, 2], row by row, float32."""
    u, v = (torch.arange(n, device=device) + 0.5 for n in (width, height))
    return torch.stack(torch.meshgrid(u, v, indexing="xy"), -1).reshape(-1, 2)


def sample_map(
    maps: Tensor,  # [*B, V, C, h, w]
    uv: Tensor,  # [*B, V, *P, 2] pixels of the map, first pixel centre (0.5, 0.5)
    mode: str = "bilinear",
) -> Tensor:  # [*B, V, C, *P]
    """Sample each map at its own points, bilinearly or the "nearest" pixel; outside of the image, the border's value.

    The caller must find out which points are outside: see `inside`. A NaN point gets some finite value of the map.
    """
    *batch, channels, height, width = maps.shape
    size = torch.tensor([width, height], dtype=uv.dtype, device=uv.device)
    # A NaN point, behind its camera, would give a NaN sample, and NaN times a weight of 0 is still NaN.
    grid = (2 * torch.nan_to_num(uv) / size - 1).reshape(math.prod(batch), 1, -1, 2).to(maps.dtype)
    maps = maps.flatten(0, -4)
    out = F.grid_sample(maps, grid, mode=mode, padding_mode="border", align_corners=False)
    return out.reshape(*batch, channels, *uv.shape[len(batch) : -1])


def sample_volume(
    volume: Tensor,  # [*B, C, D, h, w]
    uv: Tensor,  # [*B, R, 2] pixels of the target
    position: Tensor,  # [*B, R, S] along D, -1 before the first plane's bin to 1 behind the last one's
    scale: tuple[float, float],  # cells per pixel
) -> Tensor:  # [*B, R, S, C]
    """Sample a volume over an image trilinearly at S positions of each ray; outside, the border's value."""
    *batch, channels, _, height, width = volume.shape
    size = torch.tensor([width, height], device=uv.device)
    across = uv * torch.tensor(scale, device=uv.device) / size * 2 - 1
    grid = torch.cat([across[..., None, :].expand(*position.shape, 2), position[..., None]], -1)
    volume, grid = volume.reshape(-1, *volume.shape[-4:]), grid.reshape(-1, 1, *grid.shape[-3:])
    out = F.grid_sample(volume, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return out[:, :, 0].permute(0, 2, 3, 1).reshape(*batch, *position.shape[-2:], channels)


def inside(uv: Tensor, width: int, height: int) -> Tensor:
    """Return True where `uv` [..., 2], in pixels, is on an image of this size; False for NaN."""
    return (uv[..., 0] >= 0) & (uv[..., 0] <= width) & (uv[..., 1] >= 0) & (uv[..., 1] <= height)
