"""The surfaces that the renderer is trained with: none has seen the target, and disturbed ones are like found ones."""

from __future__ import annotations

import functools
import random
from dataclasses import replace

import cv2
import plane_world
import pytest
import torch

from lift3d_cli.config import RenderConfig
from lift3d_cli.lifting.exposure import shifted
from lift3d_cli.lifting.surfaces import known_surface, surface_at_size
from lift3d_cli.pipeline.renderers import make_renderer
from lift3d_cli.procedural.stream import StreamSpec, stream
from lift3d_cli.training.procedural_scenes import draw_procedural, stored_photos
from lift3d_cli.training.renderer import loss_of
from lift3d_cli.training.renderer_data import CPU_CROP, StoredPhoto, assemble
from lift3d_cli.training.renderer_scenes import RealScenes
from lift3d_cli.training.training_surfaces import disturbed_surface, split_targets, with_surfaces

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def photos():
    return stored_photos(next(stream(5, StreamSpec(num_views=8), "cpu", ())))


@pytest.fixture(scope="module")
def found(photos):
    return with_surfaces(photos, make_renderer(RenderConfig()).surface_finder, CPU)


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


def test_photos_of_other_exposures_are_learned_from_as_of_one(photos):
    drawn = draw_procedural(photos, CPU_CROP, random.Random(1))
    drawn = replace(drawn, surfaces=[functools.partial(known_surface, source().depth) for source in drawn.sources])
    tones = torch.linspace(-0.5, 0.5, len(drawn.sources))

    def assembled(is_leveled: bool, by: torch.Tensor) -> torch.Tensor:
        def photo(make, tone) -> StoredPhoto:
            own = make()
            image = 255 * shifted(own.image[None] / 255, tone.expand(1, 3))[0]
            return replace(own, image=image.round().to(torch.uint8), is_leveled=is_leveled)

        sources = [functools.partial(photo, make, tone) for make, tone in zip(drawn.sources, by, strict=True)]
        draws = [replace(drawn, sources=sources)]
        return assemble(draws, CPU_CROP, len(sources), random.Random(0), CPU).sources.images

    alike, apart, leveled = assembled(True, 0 * tones), assembled(True, tones), assembled(False, tones)
    assert (leveled - alike).abs().mean() < 0.3 * (apart - alike).abs().mean()


def test_exposure_of_a_real_target_is_not_learned(photos):
    drawn = draw_procedural(photos, CPU_CROP, random.Random(1))
    example = replace(assemble([drawn], CPU_CROP, len(drawn.sources), random.Random(0), CPU), depth=None)
    left, top, width, height = example.window
    image = example.image[..., top : top + height, left : left + width].roll(2, -1)
    usual, exposed = (
        float(loss_of(image, None, replace(example, image=shifted(example.image, torch.tensor([[by] * 3])))))
        for by in (0.0, 0.4)
    )
    assert exposed == pytest.approx(usual, rel=0.05)


def test_photos_read_beforehand_are_of_one_exposure(tmp_path):
    cameras = plane_world.rig(8)
    root = plane_world.write_scene(tmp_path / "scene", cameras)
    for i in range(0, 8, 2):
        file = root / "images" / f"{i:02d}.png"
        photo = plane_world.as_tensor(cv2.imread(str(file)))
        dark = 255 * shifted(photo[None], torch.full((1, 3), -0.6))[0]
        cv2.imwrite(str(file), dark.permute(1, 2, 0).round().numpy().astype("uint8"))
    finder = make_renderer(RenderConfig()).surface_finder
    real = RealScenes([root], 96, CPU_CROP, CPU, finder)

    def brightness() -> list[float]:
        return [float(real.stored(0, i, 1.0).image.float().mean()) for i in range(8) if i not in (3, 7)]

    def range_of(values: list[float]) -> float:
        return max(values) - min(values)

    before = range_of(brightness())
    real.preload(2)
    assert range_of(brightness()) < 0.4 * before
    assert all(real.stored(0, i, 0.5).is_leveled == (i not in (3, 7)) for i in range(8))
