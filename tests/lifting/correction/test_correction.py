"""The inconsistency corrector: what holds whatever its weights are, and what it corrects."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from plane_world import as_tensor, look_at, photograph, rig, source_views
from rendering import RANGE

from lift3d_cli.geometry.epipolar import EpipolarLines
from lift3d_cli.geometry.grids import FeatureGrid
from lift3d_cli.lifting.blending.protocol import BlendingWeights
from lift3d_cli.lifting.correction.corrector import NUM_DESCRIPTORS, InconsistencyCorrector, _kalman_update, cell_cues
from lift3d_cli.lifting.correction.evidence import TAPS, Blend, Cells, SourceCells, sketch_maps
from lift3d_cli.lifting.proposal.protocol import DepthDistribution
from lift3d_cli.lifting.renderer import Renderer
from lift3d_cli.lifting.source_features import SourceFeatures
from lift3d_cli.ops.weighted_gather import WeightedGather

GRID = FeatureGrid.from_stride(96, 72, 8)
CAMERAS = rig(5)
TARGET = look_at((0.1, 0.1, -4.0))


@pytest.fixture(params=["as it begins", "arbitrary"])
def corrector(request) -> InconsistencyCorrector:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        corrector = InconsistencyCorrector()
        if request.param == "arbitrary":
            for parameter in corrector.parameters():
                parameter.data += 0.1 * torch.randn_like(parameter)
    return corrector.eval().requires_grad_(False)


def blend_of(corrector: InconsistencyCorrector, maps: torch.Tensor, seen: torch.Tensor | None = None) -> Blend:
    """Rays through all cells of the target, at the wall, each view weighed alike; `seen` [V] leaves views out."""
    sources = source_views(CAMERAS)
    rays = GRID.cell_centers()
    t = torch.tensor([3.9, 4.1]).expand(len(rays), -1)
    lines = EpipolarLines.between(TARGET, CAMERAS)
    uv = lines.project(rays, t)[0]
    seen = torch.ones(len(CAMERAS)) if seen is None else seen
    omega = (seen / seen.sum())[:, None, None].expand(uv.shape[:3]) / 2
    weights = BlendingWeights(omega, uv, torch.ones(len(rays)))
    distribution = DepthDistribution(torch.full((16, 1, 1), 1 / 16), *RANGE, (1 / 96, 1 / 72))
    described = torch.stack([corrector.describe(image, GRID) for image in sources.images])
    target = corrector.describe(as_tensor(photograph(TARGET)[0]), GRID).flatten(1).T
    grids, gather = [GRID] * len(CAMERAS), WeightedGather(maps)
    scale, offset = torch.tensor(GRID.scale), torch.tensor(GRID.offset)
    features = gather(uv * scale + offset, omega)
    cells = SourceCells(maps, described, grids, 8.0)
    return Blend(features, gather, cells, target, lines, rays, t, weights, distribution)


def random_maps(channels: int = 20) -> torch.Tensor:
    return torch.randn(len(CAMERAS), channels, GRID.height, GRID.width, generator=torch.Generator().manual_seed(1))


def test_constant_features_stay_constant(corrector):
    maps = torch.arange(20.0).view(1, -1, 1, 1).expand(len(CAMERAS), -1, GRID.height, GRID.width)
    got = corrector.correct(blend_of(corrector, maps))
    torch.testing.assert_close(got, torch.arange(20.0).expand_as(got), atol=1e-3, rtol=1e-3)


def test_correction_is_linear_in_the_features_but_for_the_evidence_they_give(corrector):
    # A gain and an offset of all features change no distance relative to their spread.
    maps = random_maps()
    got = corrector.correct(blend_of(corrector, 3 * maps + 5))
    torch.testing.assert_close(got, 3 * corrector.correct(blend_of(corrector, maps)) + 5, atol=2e-3, rtol=2e-3)


def test_what_a_channel_means_does_not_matter(corrector):
    maps = random_maps()
    both = torch.cat([maps, maps.flip(1)], 1)  # the same features, said twice
    got = corrector.correct(blend_of(corrector, both))
    assert got.shape[1] == 40
    torch.testing.assert_close(got[:, :20], got[:, 20:].flip(1), atol=1e-4, rtol=1e-4)


def test_order_of_the_views_does_not_matter(corrector):
    maps, order = random_maps(), [3, 0, 4, 1, 2]
    want = blend_of(corrector, maps)
    table = want.cells.table.reshape(len(CAMERAS), GRID.height, GRID.width, -1)[order].permute(0, 3, 1, 2)
    lines = EpipolarLines.between(TARGET, [CAMERAS[i] for i in order])
    weights = BlendingWeights(want.weights.omega[order], want.weights.uv[order], want.weights.coverage)
    cells = SourceCells(maps[order], table[:, :NUM_DESCRIPTORS], [GRID] * 5, 8.0)
    got = replace(want, cells=cells, lines=lines, weights=weights, gather=WeightedGather(maps[order]))
    torch.testing.assert_close(corrector.correct(got), corrector.correct(want), atol=1e-3, rtol=1e-3)


def test_view_that_does_not_see_the_ray_is_not_moved_to(corrector):
    seen = torch.tensor([1.0, 1, 0, 1, 1])
    blend = blend_of(corrector, random_maps(), seen)
    weights, _ = corrector(blend.evidence())
    assert weights[2].abs().max() < 1e-6
    assert weights[0].abs().max() > 1e-4


def test_features_that_follow_what_the_photo_shows_are_corrected_towards_the_truth():
    # The features are what is seen, so that the truth at the target is known: its own cues, from its own photo.
    corrector = InconsistencyCorrector().requires_grad_(False)
    maps = torch.stack([cell_cues(image, GRID)[:20] for image in source_views(CAMERAS).images])
    truth = cell_cues(as_tensor(photograph(TARGET)[0]), GRID)[:20].flatten(1).T
    blend = blend_of(corrector, maps)
    before, after = ((x - truth).square().mean() for x in (blend.features, corrector.correct(blend)))
    assert after < 0.3 * before


def test_weights_explain_the_innovation_but_for_what_is_left_over():
    generator = torch.Generator().manual_seed(0)
    differences, innovation = torch.randn(5, 9, 4, generator=generator), torch.randn(5, 4, generator=generator)
    variance, noise = torch.rand(5, 9, generator=generator), torch.rand(5, 4, generator=generator) + 0.1
    weights, left_over = _kalman_update(differences, innovation, variance, noise)
    covariance = torch.einsum("rnd,rn,rne->rde", differences, variance, differences) + torch.diag_embed(noise)
    want = torch.einsum("rn,rnd,rd->rn", variance, differences, torch.linalg.solve(covariance, innovation))
    torch.testing.assert_close(weights, want)
    torch.testing.assert_close(left_over, innovation - torch.einsum("rn,rnd->rd", weights, differences))


def test_every_parameter_learns():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        corrector = InconsistencyCorrector()
        for head in (corrector.cell_head, corrector.ray_head):
            torch.nn.init.normal_(head[-1].weight, std=0.1)
    blend = blend_of(corrector, random_maps())
    (corrector.correct(blend) * torch.randn(blend.features.shape)).sum().backward()
    for name, parameter in corrector.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


def test_cells_around_a_point_are_the_nearest_ones_and_stay_within_the_map():
    uv = torch.tensor([[[2.6, 1.4], [0.1, 0.0], [5.9, 3.9], [float("nan")] * 2]])
    cells = Cells.around(uv, height=4, width=6)
    assert cells.rows.shape == (1, 4, len(TAPS))
    assert cells.rows[0, 0, len(TAPS) // 2] == 1 * 6 + 2
    assert cells.rows.min() >= 0
    assert cells.rows.max() < 24
    torch.testing.assert_close(cells.distance[0, 0, len(TAPS) // 2], torch.tensor(0.1**2 + 0.1**2))


def test_cues_go_with_the_cell_and_not_with_the_pixel():
    # A picture twice as large, with cells of twice the stride, shows the same around each cell.
    image = as_tensor(photograph(look_at((0, 0, -4.0), width=192, height=144, focal=180.0))[0])
    small = torch.nn.functional.avg_pool2d(image, 2)
    coarse, fine = cell_cues(image, FeatureGrid.from_stride(192, 144, 16)), cell_cues(small, GRID)
    torch.testing.assert_close(coarse, fine, atol=0.02, rtol=0)


def test_cues_say_where_the_image_ends():
    image = torch.full((3, 72, 96), 0.5)
    cues = cell_cues(image, GRID)
    middle, corner = cues[:, 4, 6], cues[:, 0, 0]
    assert (middle - corner).abs().max() > 0.2


def test_sketches_keep_distances_whatever_the_scale_and_the_number_of_channels():
    for channels, gain in ((7, 1.0), (500, 300.0)):
        maps = gain * torch.randn(3, channels, 12, 12, generator=torch.Generator().manual_seed(0))
        sketches = sketch_maps([maps], maps.shape[1])
        apart = (sketches[0] - sketches[1]).square().sum(0).mean()
        assert 1.2 < apart < 2.8
    assert sketch_maps([torch.zeros(2, 5, 3, 3)], 5).abs().max() == 0


@pytest.mark.parametrize("num_views", [1, 2, 16])
def test_any_number_of_views_gives_finite_features(num_views):
    corrector = InconsistencyCorrector().requires_grad_(False)
    sources = source_views(rig(num_views))
    described = [corrector.describe(image, GRID) for image in sources.images]
    maps = [torch.randn(3, GRID.height, GRID.width) for _ in described]
    features = SourceFeatures(maps, [GRID] * num_views, GRID, 8.0, corrector, described)
    away = look_at((1.9, 0.0, -4.0), (2.4, 0.0, 0.0))  # part of it, nobody sees
    for target in (TARGET, away):
        frame = Renderer().render(target, sources, RANGE, {"m": features})
        assert torch.isfinite(frame.features["m"]).all()


def test_rendered_features_are_corrected_where_there_is_a_corrector():
    sources = source_views(CAMERAS)
    corrector = InconsistencyCorrector().requires_grad_(False)
    maps = [cell_cues(image, GRID)[:20] for image in sources.images]
    truth = cell_cues(as_tensor(photograph(TARGET)[0]), GRID)[:20]
    plain = SourceFeatures(maps, [GRID] * 5, GRID, 8.0)
    described = [corrector.describe(image, GRID) for image in sources.images]
    corrected = replace(plain, corrector=corrector, descriptors=described)
    frame = Renderer().render(TARGET, sources, RANGE, {"plain": plain, "corrected": corrected})
    before, after = ((frame.features[name] - truth).square().mean() for name in ("plain", "corrected"))
    assert after < 0.6 * before


def test_target_larger_than_the_photos_is_described_at_their_scale():
    # Cells of 8 pixels in the photos are cells of 16 in a target of twice their focal length.
    target = look_at((0.1, 0.1, -4.0), width=192, height=144, focal=180.0)
    sources = source_views(CAMERAS)
    corrector = InconsistencyCorrector().requires_grad_(False)
    described = [corrector.describe(image, GRID) for image in sources.images]
    maps = [cell_cues(image, GRID)[:20] for image in sources.images]
    truth = cell_cues(as_tensor(photograph(TARGET)[0]), GRID)[:20]
    features = SourceFeatures(maps, [GRID] * 5, GRID.rescaled(2, 2), 8.0, corrector, described)
    got = Renderer().render(target, sources, RANGE, {"m": features}).features["m"]
    plain = Renderer().render(target, sources, RANGE, {"m": replace(features, corrector=None)}).features["m"]
    assert (got - truth).square().mean() < 0.7 * (plain - truth).square().mean()
