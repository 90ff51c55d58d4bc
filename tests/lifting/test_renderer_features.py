"""The renderer: features are lifted to where they belong, and constant ones stay constant."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from plane_world import look_at, rig, source_views
from rendering import FAST, RANGE, KnownDepth, OnlyView

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.geometry.grids import FeatureGrid
from lift3d_cli.lifting.proposal.training_free import PlaneSweepProposal
from lift3d_cli.lifting.renderer import Renderer
from lift3d_cli.lifting.source_features import SourceFeatures
from lift3d_cli.lifting.sources import SourceViews


def features_of(cameras: Sequence[Camera], value, grids: Sequence[FeatureGrid]) -> list[torch.Tensor]:
    """Maps [C, h, w] of `value(x, y)` [N, C] on the wall, at what the centre of each cell sees."""
    maps = []
    for camera, grid in zip(cameras, grids, strict=True):
        uv = np.concatenate([grid.cell_centers().double().numpy(), np.ones((grid.width * grid.height, 1))], 1)
        rays = uv @ np.linalg.inv(camera.K).T @ camera.w2c[:3, :3]
        xyz = camera.position - camera.position[2] / rays[:, 2:] * rays
        data = torch.from_numpy(value(xyz[:, 0], xyz[:, 1])).float()
        maps.append(data.T.reshape(-1, grid.height, grid.width))
    return maps


def waves(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.stack([np.sin(2 * x + y), np.cos(1.5 * y - x), np.sin(x) * np.cos(2 * y)], -1)


# ---- features land where they belong ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.25, 0.25), (1 / 7, 1 / 5), (2.5, 2.5), (0.75, 0.75)])
def test_from_a_photos_own_pose_at_the_true_depth_come_its_own_features(scale):
    cameras = [look_at((0.2, -0.1, -4.0), (0.2, -0.1, 0.0)), *rig(3)]
    grid = FeatureGrid(-int(-96 * scale[0] // 1), -int(-72 * scale[1] // 1), scale)
    maps = [torch.randn(20, grid.height, grid.width, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    renderer = Renderer(KnownDepth(4.0), OnlyView(0))
    frame = renderer.render(cameras[0], source_views(cameras), RANGE, {"m": SourceFeatures(maps, [grid] * 4, grid)})
    inside = grid.cell_centers().reshape(grid.height, grid.width, 2) < torch.tensor([96.0, 72.0])
    inside = inside.all(-1)
    torch.testing.assert_close(frame.features["m"][:, inside], maps[0][:, inside], atol=2e-3, rtol=0)


GRIDS = {
    "stride 1": FeatureGrid.from_stride(96, 72, 1),
    "stride 8": FeatureGrid.from_stride(96, 72, 8),
    "odd offset": FeatureGrid(17, 15, (1 / 6, 1 / 5), (0.3, -0.2)),
    "wide and low": FeatureGrid(9, 24, (9 / 96, 1 / 3)),
    "finer than pixels": FeatureGrid(231, 174, (2.4, 2.4), (0.3, -0.2)),
    "about pixels": FeatureGrid(68, 55, (0.7, 0.75), (0.0, 0.4)),
}


@pytest.mark.parametrize("target_grid", GRIDS.values(), ids=list(GRIDS))
def test_features_on_any_grids_land_where_they_belong(sources, target_grid):
    # Each source has another grid; what the wall shows at the target's cells must come out.
    grids = list(itertools.islice(itertools.cycle(GRIDS.values()), 6))
    maps = features_of(sources.cameras, waves, grids)
    target = look_at((0.1, 0.05, -4.0), (0.1, 0.05, 0.0))
    renderer = Renderer(KnownDepth(4.0))
    frame = renderer.render(target, sources, RANGE, {"m": SourceFeatures(maps, grids, target_grid)})
    want = features_of([target], waves, [target_grid])[0]
    got = frame.features["m"]
    assert got.shape == want.shape
    middle = (
        slice(None),
        slice(want.shape[1] // 4, -want.shape[1] // 4),
        slice(want.shape[2] // 4, -want.shape[2] // 4),
    )
    assert (got - want)[middle].abs().mean() < 0.06
    # Half a cell of misplacement would cost this much more.
    shift = FeatureGrid(
        target_grid.width, target_grid.height, target_grid.scale, tuple(o + 0.5 for o in target_grid.offset)
    )
    moved = features_of([target], waves, [shift])[0]
    if target_grid.scale[0] < 0.2:
        assert (got - moved)[middle].abs().mean() > 2 * (got - want)[middle].abs().mean()


def test_bright_spot_in_all_sources_is_lifted_to_its_place_within_a_fifth_of_a_cell(sources):
    grid = GRIDS["odd offset"]
    maps = features_of(
        sources.cameras, lambda x, y: np.exp(-((x - 0.31) ** 2 + (y + 0.17) ** 2) / 0.08)[:, None], [grid] * 6
    )
    target = look_at((0.1, 0.05, -4.0), (0.1, 0.05, 0.0))
    frame = Renderer(PlaneSweepProposal(num_planes=32)).render(
        target, sources, RANGE, {"m": SourceFeatures(maps, [grid] * 6, grid)}
    )
    spot = frame.features["m"][0].reshape(-1)
    center = (spot[:, None] * grid.cell_centers()).sum(0) / spot.sum()
    want = target.project(np.array([[0.31, -0.17, 0.0]]))[0][0]
    off_cells = (center.numpy() - want) * grid.scale
    assert np.abs(off_cells).max() < 0.2


# ---- constants -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [3, 20])
def test_constant_features_stay_constant(sources, channels):
    constant = torch.arange(channels).float() - 1
    grid = FeatureGrid.from_stride(96, 72, 8)
    maps = [constant.view(-1, 1, 1).expand(-1, 9, 12)] * 6
    target = look_at((1.5, 0.4, -4.0), (2.0, 0, 0))  # part of it is seen by nobody
    frame = FAST.render(target, sources, RANGE, {"m": SourceFeatures(maps, [grid] * 6, grid)})
    assert frame.coverage.min() == 0
    torch.testing.assert_close(frame.features["m"], constant.view(-1, 1, 1).expand(-1, 9, 12), atol=1e-4, rtol=1e-4)


def test_constant_features_and_colour_stay_constant_for_photos_of_different_sizes():
    sizes = [(96, 72), (51, 67), (80, 40), (33, 33)]
    cameras = [
        look_at((0.3 * i - 0.5, 0.1 * i, -4.0), width=w, height=h, focal=0.9 * w) for i, (w, h) in enumerate(sizes)
    ]
    images = [torch.full((3, h, w), 0.6) for w, h in sizes]
    sources = SourceViews.stack(cameras, images, [torch.ones(h, w) for w, h in sizes], "cpu")
    grids = [FeatureGrid.from_stride(w, h, 8) for w, h in sizes]
    maps = [torch.ones(20, grid.height, grid.width) for grid in grids]
    target = look_at((0.0, 0.0, -4.0))
    frame = FAST.render(target, sources, RANGE, {"m": SourceFeatures(maps, grids, FeatureGrid.from_stride(96, 72, 8))})
    torch.testing.assert_close(frame.features["m"], torch.ones(20, 9, 12), atol=1e-3, rtol=0)
    torch.testing.assert_close(frame.image, torch.full((3, 72, 96), 0.6), atol=0.01, rtol=0)
