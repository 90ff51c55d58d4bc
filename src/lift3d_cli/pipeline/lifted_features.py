"""Lifted features of a render's frames, with the place in the world of each cell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lift3d_cli.cache.renders import FeatureRender, Render
from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.geometry.grids import FeatureGrid
from lift3d_cli.models.base import FeatureMap


class RenderedFeatures(Sequence[FeatureMap]):
    """One model's lifted features of all frames, read on access.

    Args:
        features: of one model.
        device: where to have them.
        colors: the render that they are of, for the points of the cells; None not to have them.
    """

    def __init__(self, features: FeatureRender, device: torch.device, colors: Render | None = None) -> None:
        self._features = features
        self._device = device
        self._colors = colors

    def __len__(self) -> int:
        return self._features.num_frames

    def __getitem__(self, index: int) -> FeatureMap:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return on_device(self.stored(index), self._device)

    def stored(self, index: int) -> FeatureMap:
        """Read a frame's features as they are stored, memory-mapped."""
        data, grid, _ = self._features.read_frame(index)
        if self._colors is None:
            return FeatureMap(data, grid)
        depth = self._colors.read_maps(index).depth
        return FeatureMap(data, grid, cell_points(grid, self._colors.cameras[index], depth))


def on_device(features: FeatureMap, device: torch.device) -> FeatureMap:
    """Return features as float32 on a device."""
    points = None if features.points is None else features.points.to(device)
    return FeatureMap(features.data.to(device).float(), features.grid, points)


def cell_points(grid: FeatureGrid, camera: Camera, depth: Tensor) -> Tensor:
    """Find the world points of what cells show.

    Args:
        grid: the cells, in pixels of the camera's image.
        camera: the camera.
        depth: [h, w] z-depth over the whole image, of any size; NaN where it is unknown.

    Returns:
        [3, grid.height, grid.width] float32, NaN where the depth is unknown.
    """
    uv = grid.cell_centers()
    rows, columns = depth.shape
    place = (uv / torch.tensor([camera.width, camera.height]) * torch.tensor([columns, rows])).long()
    z = depth.cpu()[place[:, 1].clamp(0, rows - 1), place[:, 0].clamp(0, columns - 1)]
    points = camera.unproject(uv.double().numpy(), z.double().numpy())
    return torch.from_numpy(points.T.astype(np.float32)).reshape(3, grid.height, grid.width)
