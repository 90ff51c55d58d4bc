"""Photos whose exposures differ are brought to a common one, and the target gets one of its own."""

from __future__ import annotations

from dataclasses import replace

import plane_world
import pytest
import torch
from torch import Tensor

from lift3d_cli.lifting.covisible import covisible_points
from lift3d_cli.lifting.exposure import NUM_TONES, exposed, harmonized, likely_exposure
from lift3d_cli.lifting.renderer import RenderedFrame, Renderer
from lift3d_cli.lifting.sources import SourceViews
from lift3d_cli.lifting.surfaces import known_surface, surface_at_size

PLANES = plane_world.WALL_AND_CARD
# What a camera may do to a photo: another exposure before an S-shaped response, another gamma, another white.
RESPONSES = {
    "exposure": lambda x, stops: 1 / (1 + (1 / x.clamp(1e-4, 1 - 1e-4) - 1) * 2**-stops),
    "gamma": lambda x, stops: x ** (2 ** (-0.6 * stops)),
    "gain": lambda x, stops: (x * 2 ** (0.5 * stops)).clamp(max=1),
    "white": lambda x, stops: (x * 2 ** (0.5 * stops * torch.tensor([1.0, 0.3, -1.0])[:, None, None])).clamp(max=1),
}
STOPS = (0.0, 0.9, -0.7, 0.4, -1.0, 0.2)


@pytest.fixture(scope="module")
def alike() -> SourceViews:
    """Photos of one exposure, with exact surfaces."""
    cameras = plane_world.rig(len(STOPS))
    depths = [torch.from_numpy(plane_world.photograph(c, PLANES)[1]).float() for c in cameras]
    surfaces = torch.stack([surface_at_size(known_surface(z), z.shape[1], z.shape[0]) for z in depths])
    # Not quite black and white, which no exposure brings back.
    made = plane_world.source_views(cameras, PLANES)
    return replace(made, images=0.1 + 0.7 * made.images, surfaces=surfaces)


def differing(alike: SourceViews, response: str = "exposure", stops: tuple[float, ...] = STOPS) -> SourceViews:
    """The same photos, each with another exposure."""
    images = [RESPONSES[response](image, by) for image, by in zip(alike.images, stops, strict=True)]
    return replace(alike, images=torch.stack(images))


def found(sources: SourceViews) -> SourceViews:
    """The views as they are rendered from."""
    return harmonized(sources, covisible_points(sources))


def apart(sources: SourceViews) -> float:
    """How much two photos differ where they show the same."""
    pairs = covisible_points(sources)
    assert pairs
    differences = []
    for (view, other), points in pairs.items():
        here, there = (
            sources.images[i][:, uv[:, 1].long(), uv[:, 0].long()]
            for i, uv in ((view, points.uv), (other, points.other_uv))
        )
        differences.append((here - there).abs().median())
    return float(torch.stack(differences).median())


def psnr(frame: RenderedFrame, truth: Tensor) -> float:
    """PSNR of a frame whose exposure may be another one: each colour is fitted by a line."""
    error = []
    for color, want in zip(frame.image.flatten(1), truth.flatten(1), strict=True):
        A = torch.stack([color, torch.ones_like(color)], 1)
        error.append((A @ torch.linalg.lstsq(A, want[:, None]).solution)[:, 0] - want)
    return float(-10 * torch.stack(error).square().mean().log10())


@pytest.mark.parametrize("response", RESPONSES)
def test_photos_of_different_exposures_look_alike(alike, response):
    sources = differing(alike, response)
    usual, before, after = apart(alike), apart(sources), apart(found(sources))
    assert before > 2 * usual
    assert after < usual + 0.15 * (before - usual)


def test_photos_of_one_exposure_stay_as_they_are(alike):
    assert torch.allclose(found(alike).images, alike.images, atol=0.01)


@pytest.mark.parametrize("response", RESPONSES)
def test_frame_is_that_of_photos_of_one_exposure(alike, response):
    target = plane_world.look_at((0.1, 0.05, -plane_world.DISTANCE))
    reach = (2.0, 5.0)
    truth = Renderer().render(target, alike, reach).image
    sources = differing(alike, response)
    with_seams = psnr(Renderer().render(target, sources, reach), truth)
    assert psnr(Renderer().render(target, found(sources), reach), truth) > with_seams + 2


def test_frame_has_the_exposure_of_the_photo_that_shows_it(alike):
    sources = differing(alike)
    for view in range(len(STOPS)):
        got = found(sources)
        alone = replace(
            got,
            cameras=got.cameras[view : view + 1],
            **{name: getattr(got, name)[view, None] for name in ("images", "valid", "surfaces", "exposures")},
        )
        frame = Renderer().render(got.cameras[view], alone, (2.0, 5.0))
        assert float((frame.image - sources.images[view]).abs().median()) < 0.03


@pytest.mark.parametrize("view", [0, 2])
def test_own_exposure_gives_a_photo_back(alike, view):
    sources = differing(alike)
    got = found(sources)
    assert torch.allclose(exposed(got.images[view], got.exposures[view]), sources.images[view], atol=0.02)


def test_what_looks_otherwise_in_a_photo_does_not_count(alike):
    """A third of a photo is covered: the exposures stay those of the rest."""
    covered = alike.images.clone()
    covered[1, :, :, :32] = 0.5 + 0.5 * covered[1, :, :, :32]
    got = found(replace(alike, images=covered))
    assert torch.allclose(got.images[:, :, :, 40:], alike.images[:, :, :, 40:], atol=0.03)


def test_photos_that_are_not_rendered_from_do_not_count(alike):
    sources = differing(alike, stops=(0.0, 0.0, 0.0, 0.0, 0.0, 2.0))
    valid = sources.valid.clone()
    valid[-1] = 0
    got = found(replace(sources, valid=valid))
    assert torch.allclose(got.images[:-1], alike.images[:-1], atol=0.01)


def test_photos_without_surfaces_or_a_common_point_stay_as_they_are(alike):
    sources = differing(alike)
    unknown = replace(sources, surfaces=None)
    unsure = replace(sources, surfaces=sources.surfaces * torch.tensor([1, 1, 0])[:, None, None])
    for views in (unknown, unsure):
        assert found(views).images is views.images
        assert found(views).exposures is None


def test_black_and_white_pictures_have_no_exposure(alike):
    for value in (0.0, 1.0):
        flat = replace(alike, images=torch.full_like(alike.images, value))
        assert torch.allclose(found(flat).images, flat.images, atol=1e-3)


def exposed_by(values: Tensor, brightness: Tensor) -> SourceViews:
    """Views of even pictures, of which is known how they are exposed and how bright they are."""
    images = brightness.sigmoid()[:, None, None, None].expand(-1, 3, 8, 8)
    exposures = values[:, None, None].expand(-1, 3, NUM_TONES)
    return SourceViews((), images, torch.ones_like(images[:, :1]), exposures=exposures)


PART = torch.tensor([0.4, 0.3, 0.2, 0.1])
BRIGHTNESS = torch.tensor([-0.5, -0.2, 0.1, 0.4])


def test_darker_place_gets_more_light_where_the_photos_do():
    sources = exposed_by(-0.6 * BRIGHTNESS, BRIGHTNESS)
    for brightness in (-0.9, 0.0, 0.6):
        dark = torch.full((3, 8, 8), torch.tensor(brightness).sigmoid().item())
        assert torch.allclose(likely_exposure(dark, sources, PART), torch.tensor(-0.6 * brightness), atol=0.05)


@pytest.mark.parametrize("values", [(0.3, 0.3, 0.3, 0.3), (0.1, -0.1, -0.1, 0.1), (-0.5, -0.2, 0.1, 0.4)])
def test_exposure_is_the_mean_by_parts_where_photos_show_no_such_thing(values):
    sources = exposed_by(torch.tensor(values), BRIGHTNESS)
    found = likely_exposure(torch.full((3, 8, 8), 0.2), sources, PART)
    assert torch.allclose(found, (PART * torch.tensor(values)).sum(), atol=1e-4)


def test_two_photos_say_nothing_of_the_camera():
    sources = exposed_by(torch.tensor([0.3, -0.3]), torch.tensor([-0.5, 0.5]))
    found = likely_exposure(torch.full((3, 8, 8), 0.1), sources, torch.tensor([0.5, 0.5]))
    assert torch.allclose(found, torch.zeros(3, NUM_TONES), atol=1e-4)
