"""Lifted features of frames: where in the world is what a cell shows."""

from __future__ import annotations

import pytest
import torch
from plane_world import rig

from lift3d_cli.geometry.grids import FeatureGrid
from lift3d_cli.pipeline.lifted_features import cell_points, rendered_features

CPU = torch.device("cpu")


def test_points_project_to_the_centres_of_their_cells_at_the_depth_there():
    camera = rig(3)[1]
    grid = FeatureGrid.from_stride(camera.width, camera.height, 8)
    rows, columns = camera.height // 2, camera.width // 2
    depth = 2 + torch.arange(rows * columns).reshape(rows, columns) / 1000
    depth[:4, :4] = torch.nan
    points = cell_points(grid, camera, depth)
    assert points.shape == (3, grid.height, grid.width)
    assert points[:, 0, 0].isnan().all()
    uv, z = camera.project(points.flatten(1).T.double().numpy()[1:])
    torch.testing.assert_close(torch.from_numpy(uv).float(), grid.cell_centers()[1:], atol=1e-3, rtol=0)
    expected = depth[2::4, 2::4].flatten()[1:]  # a cell has 4 x 4 of the depth
    torch.testing.assert_close(torch.from_numpy(z).float(), expected, atol=1e-4, rtol=0)


def test_frames_of_a_render_have_the_points_of_its_depth(work):
    work.encode()
    render = work.render()
    lifted = render.feature_renders()[0]
    frames = rendered_features(lifted, CPU, render)
    assert len(frames) == render.num_frames
    data, grid, _ = lifted.read_frame(1)
    expected = cell_points(grid, render.cameras[1], render.read_maps(1).depth)
    assert torch.equal(frames[1].points, expected)
    assert torch.equal(frames[1].data, data.float())
    assert rendered_features(lifted, CPU)[1].points is None
    with pytest.raises(IndexError):
        frames[len(frames)]
