"""The renderer: the same result, however it is made."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from plane_world import look_at, rig
from rendering import FAST, RANGE, OnlyView, assert_same, features, psnr

from lift3d_cli.geometry.grids import FeatureGrid
from lift3d_cli.lifting.correction.corrector import InconsistencyCorrector
from lift3d_cli.lifting.source_features import SourceFeatures
from lift3d_cli.lifting.sources import SourceViews


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
    # A cell a pixel, or about that: those of the colour. If they do not fit into the memory, they are computed for the
    # depths, the colours and the features.
    pixels = FeatureGrid(target.width, target.height, (1.0, 1.0))
    for cells in (pixels, FeatureGrid(231, 173, (2.4, 2.4)), FeatureGrid(67, 50, (0.7, 0.7))):
        for memory, times in ((2**30, 1), (2**20, 3)):
            asked.clear()
            replace(renderer, memory_bytes=memory).render(target, sources, RANGE, {"a": replace(one, target=cells)})
            assert sum(asked) == times * target.width * target.height
    both = renderer.render(target, sources, RANGE, {"b": one, "a": replace(one, target=pixels)})
    alone = renderer.render(target, sources, RANGE, {"a": replace(one, target=pixels)})
    assert torch.equal(both.features["a"], alone.features["a"])
    asked.clear()
    finer = FeatureGrid.from_stride(96, 72, 4)
    renderer.render(target, sources, RANGE, {"a": one, "b": replace(one, target=finer)})
    assert sum(asked) == once + finer.width * finer.height


@pytest.mark.parametrize("scale", [1 / 8, 0.7, 1.0, 2.4])
def test_features_made_after_the_colour_are_those_made_with_it(sources, scale):
    target, corrector = look_at((0.3, 0.1, -4.0)), InconsistencyCorrector().eval().requires_grad_(False)
    torch.manual_seed(0)
    torch.nn.init.normal_(corrector.cell_head[-1].weight)
    given = features(sources)["m"]
    descriptors = [corrector.describe(i, g) for i, g in zip(sources.images, given.grids, strict=True)]
    grid = FeatureGrid(round(96 * scale), round(72 * scale), (scale, scale))
    given = {"m": replace(given, corrector=corrector, descriptors=descriptors, stride=8.0, target=grid)}
    frame = FAST.render(target, sources, RANGE, given)
    written = (frame.image * 255).round().to(torch.uint8)  # as a PNG has it
    later = FAST.render_features(target, sources, RANGE, given, written.float() / 255)
    assert torch.equal(later["m"], frame.features["m"])
    other = FAST.render_features(target, sources, RANGE, given, 1 - frame.image)
    assert not torch.equal(other["m"], frame.features["m"])


def test_rendering_twice_gives_the_same_bits(sources):
    target = look_at((0.3, 0.1, -4.0))
    assert_same(*(FAST.render(target, sources, RANGE, features(sources)) for _ in range(2)), atol=0)


@pytest.mark.gpu
def test_gpu_renders_what_the_cpu_renders(sources):
    on_gpu = SourceViews(sources.cameras, sources.images.cuda(), sources.valid.cuda())
    target = look_at((0.3, 0.1, -4.0))
    got = FAST.render(target, on_gpu, RANGE, features(sources))
    want = FAST.render(target, sources, RANGE, features(sources))
    assert psnr(got.image.cpu(), want.image) > 50
