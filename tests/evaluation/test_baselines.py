"""What the corrector is compared with: each does what its name says, and the oracle is beaten by no blend."""

from __future__ import annotations

import pytest
import torch
from plane_world import look_at, rig, source_views

from lift3d_cli.evaluation.baselines import BestBlend, NearestView
from lift3d_cli.geometry.grids import FeatureGrid
from lift3d_cli.lifting.correction.corrector import InconsistencyCorrector
from lift3d_cli.lifting.correction.prediction import FeaturePrediction, projection, random_directions
from lift3d_cli.lifting.renderer import Renderer
from lift3d_cli.lifting.source_features import SourceFeatures
from lift3d_cli.models.base import FeatureMap

RANGE, GRID = (2.0, 8.0), FeatureGrid.from_stride(96, 72, 8)
TARGET = look_at((0.1, 0.1, -4.0))
CAMERAS = rig(5)


@pytest.fixture(scope="module")
def maps() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(7, GRID.height, GRID.width, generator=generator) for _ in CAMERAS]


def rendered(maps, corrector=None) -> torch.Tensor:
    described = [corrector.describe(torch.rand(3, 72, 96), GRID) for _ in maps] if corrector else ()
    features = SourceFeatures(maps, [GRID] * len(maps), GRID, 8.0, corrector, described)
    return Renderer().render(TARGET, source_views(CAMERAS), RANGE, {"m": features}).features["m"]


def error(features: torch.Tensor, truth: torch.Tensor) -> float:
    return float((features - truth).square().mean())


def test_oracle_finds_the_one_photo_that_is_right():
    truth = torch.full((3, GRID.height, GRID.width), 2.0)
    maps = [truth if i == 2 else torch.full_like(truth, float(i)) for i in (0, 9, 2, 8, 7)]
    assert error(rendered(maps, BestBlend(FeatureMap(truth, GRID))), truth) < 0.05


def test_oracle_mixes_photos_where_a_mixture_is_right():
    truth = torch.zeros(2, GRID.height, GRID.width)
    side = [torch.tensor([x, 1.0]) for x in (-1.0, 1.0, -1.0, 1.0, 1.0)]
    maps = [value[:, None, None].expand(-1, GRID.height, GRID.width) for value in side]
    got = rendered(maps, BestBlend(FeatureMap(truth, GRID)))
    torch.testing.assert_close(got, torch.tensor([0.0, 1.0])[:, None, None].expand_as(got), atol=0.02, rtol=0)


def test_oracle_is_no_worse_than_the_blend_and_the_nearest_photo(maps):
    truth = torch.randn(7, GRID.height, GRID.width, generator=torch.Generator().manual_seed(5))
    oracle = error(rendered(maps, BestBlend(FeatureMap(truth, GRID))), truth)
    assert oracle < error(rendered(maps), truth)
    assert oracle < error(rendered(maps, NearestView()), truth)


def test_crossed_oracle_gains_where_views_are_right_and_not_by_chance(maps):
    truth = torch.randn(7, GRID.height, GRID.width, generator=torch.Generator().manual_seed(5))
    oracle, crossed = (error(rendered(maps, BestBlend(FeatureMap(truth, GRID), x)), truth) for x in (False, True))
    assert oracle < 0.9 * error(rendered(maps), truth)
    assert crossed > 0.97 * error(rendered(maps), truth)  # all of it was chance
    steady = torch.arange(7.0)[:, None, None].expand_as(truth)  # the same wherever the ray meets it
    one_is_right = [steady if i == 2 else other for i, other in enumerate(maps)]
    assert error(rendered(one_is_right, BestBlend(FeatureMap(steady, GRID), True)), steady) < 0.2


def test_nearest_view_is_that_of_the_least_angle():
    maps = [torch.full((1, GRID.height, GRID.width), float(i)) for i in range(5)]
    target = CAMERAS[3]
    features = SourceFeatures(maps, [GRID] * 5, GRID, 8.0, NearestView(), [torch.zeros(1, 9, 12)] * 5)
    got = Renderer().render(target, source_views(CAMERAS), RANGE, {"m": features}).features["m"]
    assert ((got - 3).abs() < 1e-6).float().mean() > 0.95


def test_prediction_is_read_back_to_the_features_own_channels_and_scale():
    corrector = InconsistencyCorrector().requires_grad_(False)
    prediction = FeaturePrediction(corrector).requires_grad_(False)
    maps = [100 + 5 * torch.randn(50, GRID.height, GRID.width) for _ in CAMERAS]
    got = rendered(maps, prediction)
    assert got.shape == (50, GRID.height, GRID.width)
    assert 95 < got.mean() < 105  # an untrained head says nothing: about the mean


def test_projected_features_come_back_as_far_as_the_directions_go():
    maps = torch.randn(2, 50, 6, 6)
    mixing, mean, scale = projection(maps)
    assert mixing.shape == (32, 50)
    values = (maps[0, :, 0, 0] - mean) @ mixing.T / scale
    back = mean + (values * scale) @ torch.linalg.pinv(mixing).T
    torch.testing.assert_close((back - mean) @ mixing.T, (maps[0, :, 0, 0] - mean) @ mixing.T, atol=1e-4, rtol=1e-4)
    assert torch.equal(random_directions(50), mixing)


def test_prediction_keeps_no_copy_of_the_corrector_in_its_weights():
    assert all(name.startswith("head.") for name in FeaturePrediction(InconsistencyCorrector()).state_dict())
