"""Lifted features of a render's frames, with the place in the world of each cell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lift3d_cli.cache.renders import FeatureRender, Render
from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.geometry.grids import FeatureGrid
from lift3d_cli.models.base import FeatureMap, OnAccess


def rendered_features(
    features: FeatureRender, device: torch.device, colors: Render | None = None
) -> Sequence[FeatureMap]:
    """Return one model's lifted features of all frames, float32 on a device, read on access; see `stored_features`."""
    return OnAccess(features.num_frames, lambda index: on_device(stored_features(features, index, colors), device))


def stored_features(features: FeatureRender, index: int, colors: Render | None = None) -> FeatureMap:
    """Read a frame's features as they are stored, memory-mapped.

    Args:
        features: of one model.
        index: index of the frame.
        colors: the render that they are of, for the points of the cells; None not to have them.
    """
    data, grid, _ = features.read_frame(index)
    if colors is None:
        return FeatureMap(data, grid)
    return FeatureMap(data, grid, cell_points(grid, colors.cameras[index], colors.read_maps(index).depth))


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
