"""The renderer: what is lifted where, at which quality, and that nothing makes it NaN."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import plane_world
import pytest
import torch
from plane_world import as_tensor, look_at, photograph, rig, source_views

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.geometry.grids import FeatureGrid
from lift3d_cli.lifting.aggregation import BlendingWeights
from lift3d_cli.lifting.correction import InconsistencyCorrector
from lift3d_cli.lifting.proposal import DepthDistribution, PlaneSweepProposal
from lift3d_cli.lifting.renderer import RenderedFrame, Renderer
from lift3d_cli.lifting.source_features import SourceFeatures
from lift3d_cli.lifting.sources import SourceViews

FAST = Renderer(PlaneSweepProposal(num_planes=16), num_samples=4)
RANGE = (2.0, 8.0)


@dataclass(frozen=True)
class KnownDepth:
    """A Stage I that knows: all probability on one plane, of so many that its bin is a point."""

    depth: float

    def __call__(self, target, sources, depth_range, memory_bytes) -> DepthDistribution:
        probability = torch.zeros(3, 1, 1)
        probability[1] = 1
        # The middle of three planes between near and far is at their harmonic mean.
        near, far = (1 / (1 / self.depth + step) for step in (1e-6, -1e-6))
        return DepthDistribution(probability, near, far, (1 / target.width, 1 / target.height))


@dataclass(frozen=True)
class OnlyView:
    """A Stage II that trusts one view."""

    index: int
    bytes_per_sample = 1

    def photo_features(self, images) -> None:
        pass

    def __call__(self, sources, lines, rays, t, distribution) -> BlendingWeights:
        uv, _ = lines.project(rays, t)
        omega = torch.zeros(uv.shape[:-1])
        omega[self.index] = 1 / t.shape[1]
        return BlendingWeights(omega, uv, torch.ones(len(rays)))


def psnr(image: torch.Tensor, truth: torch.Tensor) -> float:
    return float(-10 * torch.log10(((image - truth) ** 2).mean()))


def all_finite(frame: RenderedFrame) -> bool:
    return all(torch.isfinite(x).all() for x in (frame.image, frame.depth, frame.coverage, *frame.features.values()))


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


@pytest.fixture(scope="module")
def sources() -> SourceViews:
    return source_views(rig(6))


# ---- quality ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("planes", "least"), [(plane_world.WALL, 28), (plane_world.WALL_AND_CARD, 23)])
def test_held_out_photo_is_rendered_far_better_than_the_nearest_photo(planes, least):
    cameras = rig(8)
    truth, depth = photograph(cameras[3], planes)
    sources = source_views(cameras[:3] + cameras[4:], planes)
    frame = Renderer(PlaneSweepProposal(num_planes=32)).render(cameras[3], sources, RANGE)
    got = psnr(frame.image, as_tensor(truth))
    assert got > least
    assert got > max(psnr(image, as_tensor(truth)) for image in sources.images) + 8
    assert float((frame.depth - torch.from_numpy(depth)).abs().median()) < 0.1
    assert frame.coverage.mean() > 0.95


def test_known_depth_gives_the_photo_almost_exactly(sources):
    target = look_at((0.1, 0.05, -4.0), (0.1, 0.05, 0.0))
    frame = Renderer(KnownDepth(4.0)).render(target, sources, RANGE)
    assert psnr(frame.image, as_tensor(photograph(target)[0])) > 35
    torch.testing.assert_close(frame.depth, torch.full((72, 96), 4.0), atol=1e-3, rtol=0)


# ---- features land where they belong ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.25, 0.25), (1 / 7, 1 / 5)])
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


# ---- the same result, however it is made -----------------------------------------------------------------------------


def features(sources: SourceViews, channels: int = 18) -> dict[str, SourceFeatures]:
    grid = FeatureGrid.from_stride(96, 72, 8)
    maps = [
        torch.randn(channels, 9, 12, generator=torch.Generator().manual_seed(i)) for i in range(len(sources.cameras))
    ]
    return {"m": SourceFeatures(maps, [grid] * len(maps), grid)}


def assert_same(got: RenderedFrame, want: RenderedFrame, atol: float = 1e-4) -> None:
    for name in ("image", "depth", "coverage"):
        torch.testing.assert_close(getattr(got, name), getattr(want, name), atol=atol, rtol=atol)
    for name in want.features:
        torch.testing.assert_close(got.features[name], want.features[name], atol=atol, rtol=atol)


def test_little_memory_changes_nothing(sources):
    target = look_at((0.3, 0.1, -4.0))
    want = FAST.render(target, sources, RANGE, features(sources))
    assert_same(replace(FAST, memory_bytes=300_000).render(target, sources, RANGE, features(sources)), want)


@pytest.mark.parametrize("at_once", [1, 5, 17, 18])
@pytest.mark.parametrize("is_corrected", [True, False])
def test_channels_lifted_one_after_the_other_are_those_lifted_at_once(sources, at_once, is_corrected):
    torch.manual_seed(0)
    corrector = InconsistencyCorrector().requires_grad_(False) if is_corrected else None
    whole = features(sources)["m"]
    if corrector is not None:
        described = [corrector.describe(image, grid) for image, grid in zip(sources.images, whole.grids, strict=True)]
        whole = replace(whole, stride=8.0, corrector=corrector, descriptors=described)
    target, given = look_at((0.3, 0.1, -4.0)), {"a": whole, "b": whole}
    want = FAST.render(target, sources, RANGE, given)
    given["b"] = replace(whole, channels_at_once=at_once)
    for renderer in (FAST, replace(FAST, memory_bytes=300_000)):  # with the rays' weights kept, and made again
        assert_same(renderer.render(target, sources, RANGE, given), want)


def test_order_of_the_photos_does_not_matter(sources):
    order = [3, 5, 1, 0, 2, 4]
    shuffled = SourceViews([sources.cameras[i] for i in order], sources.images[order], sources.valid[order])
    target, given = look_at((0.3, 0.1, -4.0)), features(sources)["m"]
    moved = {"m": SourceFeatures([given.maps[i] for i in order], given.grids, given.target)}
    got = FAST.render(target, shuffled, RANGE, moved)
    assert_same(got, FAST.render(target, sources, RANGE, {"m": given}), atol=2e-3)


def test_models_do_not_change_each_other_or_the_colour(sources):
    target = look_at((0.3, 0.1, -4.0))
    one, other = features(sources)["m"], features(sources, 2)["m"]
    both = FAST.render(target, sources, RANGE, {"one": one, "other": other})
    assert_same(both, FAST.render(target, sources, RANGE, {"other": other}), atol=0)
    assert_same(both, FAST.render(target, sources, RANGE, {"one": one}), atol=0)


def test_models_of_one_grid_share_the_rays_weights(sources):
    asked = []

    class Counting(OnlyView):
        def __call__(self, sources, lines, rays, t, distribution):
            asked.append(len(rays))
            return super().__call__(sources, lines, rays, t, distribution)

    renderer = replace(FAST, blending=Counting(0))
    target, grid = rig(3)[1], FeatureGrid.from_stride(96, 72, 8)
    maps = [torch.rand(2, grid.height, grid.width) for _ in sources.cameras]
    one = SourceFeatures(maps, [grid] * len(maps), grid)
    renderer.render(target, sources, RANGE, {"a": one})
    once = sum(asked)
    asked.clear()
    frame = renderer.render(target, sources, RANGE, {"a": one, "b": one})
    assert sum(asked) == once
    assert torch.equal(frame.features["a"], frame.features["b"])
    # A cell a pixel: those of the colour. If they do not fit into the memory, they are computed again.
    pixels = FeatureGrid(target.width, target.height, (1.0, 1.0))
    for memory, times in ((2**30, 1), (2**20, 2)):
        asked.clear()
        replace(renderer, memory_bytes=memory).render(target, sources, RANGE, {"a": replace(one, target=pixels)})
        assert sum(asked) == times * target.width * target.height
    both = renderer.render(target, sources, RANGE, {"b": one, "a": replace(one, target=pixels)})
    alone = renderer.render(target, sources, RANGE, {"a": replace(one, target=pixels)})
    assert torch.equal(both.features["a"], alone.features["a"])
    asked.clear()
    finer = FeatureGrid.from_stride(96, 72, 4)
    renderer.render(target, sources, RANGE, {"a": one, "b": replace(one, target=finer)})
    assert sum(asked) == once + finer.width * finer.height


def test_features_made_after_the_colour_are_those_made_with_it(sources):
    target, corrector = look_at((0.3, 0.1, -4.0)), InconsistencyCorrector().eval().requires_grad_(False)
    torch.manual_seed(0)
    torch.nn.init.normal_(corrector.cell_head[-1].weight)
    given = features(sources)["m"]
    descriptors = [corrector.describe(i, g) for i, g in zip(sources.images, given.grids, strict=True)]
    given = {"m": replace(given, corrector=corrector, descriptors=descriptors, stride=8.0)}
    frame = FAST.render(target, sources, RANGE, given)
    written = (frame.image * 255).round().to(torch.uint8)  # as a PNG has it
    later = FAST.render_features(target, sources, RANGE, given, written.float() / 255)
    assert torch.equal(later["m"], frame.features["m"])
    other = FAST.render_features(target, sources, RANGE, given, 1 - frame.image)
    assert not torch.equal(other["m"], frame.features["m"])


def test_rendering_twice_gives_the_same_bits(sources):
    target = look_at((0.3, 0.1, -4.0))
    assert_same(*(FAST.render(target, sources, RANGE, features(sources)) for _ in range(2)), atol=0)


# ---- hard cases stay finite ------------------------------------------------------------------------------------------

TARGETS = {
    "among the photos": look_at((0.2, 0.1, -4.0)),
    "far to the side": look_at((6.0, 0.0, -4.0), (0.0, 0.0, 0.0)),
    "behind the photos": look_at((0.1, 0.0, -12.0)),
    "close to the wall": look_at((0.1, 0.0, -0.6)),
    "behind the wall": look_at((0.1, 0.0, 4.0)),
    "looking away": look_at((0.1, 0.0, -4.0), (0.1, 0.0, -9.0)),
    "odd size": look_at((0.2, 0.1, -4.0), width=37, height=1),
    "one pixel": look_at((0.2, 0.1, -4.0), width=1, height=1),
}


@pytest.mark.parametrize("depth_range", [RANGE, (RANGE[0] / 3, RANGE[1] * 3), (3.999, 4.001), (1e-3, 1e4)])
@pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))
def test_every_target_and_depth_range_gives_finite_pictures(sources, target, depth_range):
    frame = FAST.render(target, sources, depth_range, features(sources))
    assert all_finite(frame)
    assert frame.image.shape == (3, target.height, target.width)
    assert frame.depth.shape == frame.coverage.shape == (target.height, target.width)
    assert frame.image.min() >= 0
    assert frame.image.max() <= 1
    assert frame.depth.min() > 0
    near, far = depth_range
    assert frame.depth.min() >= near * 0.999
    assert frame.depth.max() <= far * 1.001


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_photos_are_enough(sources, count):
    few = SourceViews(sources.cameras[:count], sources.images[:count], sources.valid[:count])
    frame = FAST.render(look_at((0.0, 0.0, -4.0)), few, RANGE, features(few))
    assert all_finite(frame)
    assert frame.coverage.mean() > 0.5


def test_range_that_is_too_wide_by_3_still_renders_well():
    cameras = rig(8)
    sources = source_views(cameras[:3] + cameras[4:])
    renderer = Renderer(PlaneSweepProposal(num_planes=64))
    frame = renderer.render(cameras[3], sources, (RANGE[0] / 3, RANGE[1] * 3))
    assert psnr(frame.image, as_tensor(photograph(cameras[3])[0])) > 25


def test_fully_masked_photo_changes_nothing(sources):
    target = look_at((0.3, 0.1, -4.0))
    images, valid = sources.images.clone(), sources.valid.clone()
    images[2], valid[2] = torch.rand(3, 72, 96), 0
    keep = [0, 1, 3, 4, 5]
    without = SourceViews([sources.cameras[i] for i in keep], sources.images[keep], sources.valid[keep])
    got = FAST.render(target, SourceViews(sources.cameras, images, valid), RANGE)
    assert_same(got, FAST.render(target, without, RANGE), atol=2e-3)


def test_nothing_seen_means_no_coverage(sources):
    frame = FAST.render(TARGETS["looking away"], sources, RANGE, features(sources))
    assert not frame.coverage.any()


def test_coverage_is_between_0_and_1_and_falls_where_no_photo_looks(sources):
    frame = FAST.render(look_at((1.5, 0.0, -4.0), (2.2, 0.0, 0.0)), sources, RANGE)
    assert frame.coverage.min() == 0
    assert 0.99 < frame.coverage.max() <= 1 + 1e-5
    assert frame.coverage[:, :20].mean() > 0.9
    assert frame.coverage[:, -20:].mean() < 0.1


@pytest.mark.gpu
def test_gpu_renders_what_the_cpu_renders(sources):
    on_gpu = SourceViews(sources.cameras, sources.images.cuda(), sources.valid.cuda())
    target = look_at((0.3, 0.1, -4.0))
    got = FAST.render(target, on_gpu, RANGE, features(sources))
    want = FAST.render(target, sources, RANGE, features(sources))
    assert psnr(got.image.cpu(), want.image) > 50
