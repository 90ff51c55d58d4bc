"""The surfaces that the renderer is trained with: none has seen the target, and disturbed ones are like found ones."""

from __future__ import annotations

import functools
import random
from dataclasses import replace

import pytest
import torch

from lift3d_cli.config import RenderConfig
from lift3d_cli.lifting.surfaces import known_surface, surface_at_size
from lift3d_cli.pipeline.renderers import make_renderer
from lift3d_cli.procedural.stream import StreamSpec, stream
from lift3d_cli.training.procedural_scenes import draw_procedural, stored_photos
from lift3d_cli.training.renderer_data import CPU_CROP, assemble
from lift3d_cli.training.training_surfaces import disturbed_surface, split_targets, with_surfaces

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def photos():
    return stored_photos(next(stream(5, StreamSpec(num_views=8), "cpu", ())))


@pytest.fixture(scope="module")
def found(photos):
    return with_surfaces(photos, make_renderer(RenderConfig()).surface_proposal, CPU)


@pytest.mark.parametrize(("number", "targets"), [(8, [3, 7]), (4, [3]), (3, [0, 1, 2])])
def test_every_fourth_photo_is_a_target_and_no_source(number, targets):
    got, others = split_targets(number)
    assert got == targets
    assert not set(got) & set(others) or number < 4


def test_found_surfaces_are_of_the_photos_that_are_no_targets(found):
    assert [photo.surface is None for photo in found] == [i in (3, 7) for i in range(8)]


def test_found_surfaces_are_mostly_right_where_they_are_sure(found):
    right = []
    for photo in found:
        if photo.surface is not None:
            inverse, _, sure = surface_at_size(photo.surface, photo.camera.width, photo.camera.height)
            truth = surface_at_size(known_surface(photo.depth), photo.camera.width, photo.camera.height)[0]
            span = 1 / photo.depth_range[0] - 1 / photo.depth_range[1]
            right.append(((inverse - truth).abs() < 0.04 * span)[sure > 0.6].float())
    assert torch.cat(right).mean() > 0.6


def test_a_found_surface_never_belongs_to_an_example_whose_target_it_has_seen(found):
    targets = {id(found[i].image) for i in (3, 7)}
    drawn = [draw_procedural(found, CPU_CROP, random.Random(i)) for i in range(60)]
    own = {id(photo.surface) for photo in found if photo.surface is not None}
    are_found = [any(id(make()) in own for make in draw.surfaces) for draw in drawn]
    assert 0 < sum(are_found) < 60
    for draw, is_found in zip(drawn, are_found, strict=True):
        if is_found:
            assert id(draw.target().image) in targets
            assert not any(id(source().image) in targets for source in draw.sources)


def test_a_disturbed_surface_is_near_the_exact_one_in_most_places(photos):
    near = []
    for number, photo in enumerate(photos * 4):
        inverse, _, sure = surface_at_size(disturbed_surface(photo, random.Random(number)), 192, 144)
        truth = surface_at_size(known_surface(photo.depth), 192, 144)[0]
        span = 1 / photo.depth_range[0] - 1 / photo.depth_range[1]
        is_near = (inverse - truth).abs() < 0.06 * span
        near.append((is_near.float().mean(), sure[is_near].mean(), sure[~is_near].mean()))
    near = torch.tensor(near).nanmean(0)
    assert 0.6 < near[0] < 0.99
    assert near[1] > near[2] + 0.05


def test_surfaces_lie_over_their_photos(photos):
    drawn = draw_procedural(photos, CPU_CROP, random.Random(1))
    exact = [functools.partial(known_surface, source().depth) for source in drawn.sources]
    plain, mirrored = (
        assemble([draw], CPU_CROP, len(draw.sources) + 1, random.Random(0), CPU).sources.surfaces
        for draw in (replace(drawn, surfaces=exact, is_mirrored=is_mirrored) for is_mirrored in (False, True))
    )
    assert torch.equal(plain[0, 0], surface_at_size(exact[0](), 192, 144))
    assert torch.equal(mirrored, plain.flip(-1))
    assert not plain[0, -1].any()  # a photo that is not there
