"""Depth refinement: rays come nearer to the true surface, however the picture is divided, and nothing breaks."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from plane_world import as_tensor, look_at, photograph, source_views
from rendering import RANGE, psnr

from lift3d_cli.lifting import refinement
from lift3d_cli.lifting.proposal.protocol import DepthDistribution
from lift3d_cli.lifting.renderer import Renderer
from lift3d_cli.lifting.sources import SourceViews

TARGET = look_at((0.1, 0.05, -4.0), (0.1, 0.05, 0.0))  # the wall is 4 units before it
PLANES = 32
STEP = (1 / RANGE[0] - 1 / RANGE[1]) / (PLANES - 1)


@dataclass(frozen=True)
class Off:
    """A Stage I that is wrong by so many planes everywhere, and sure of it."""

    planes: float

    def __call__(self, target, sources, depth_range, memory_bytes) -> DepthDistribution:
        position = (1 / RANGE[0] - 1 / 4.0) / STEP + self.planes
        probability = (1 - (torch.arange(PLANES) - position).abs()).clamp(min=0)[:, None, None]
        return DepthDistribution(probability, *RANGE, (1 / target.width, 1 / target.height))


def planes_off(depth: torch.Tensor) -> float:
    return float((1 / depth - 1 / 4.0).abs().median() / STEP)


def unrefined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lift3d_cli.lifting.renderer.refined", lambda pixels, surface: pixels)


@pytest.mark.parametrize("planes", [0.6, -0.6, 1.0])
def test_depth_that_is_off_by_a_plane_comes_to_the_surface(sources, monkeypatch, planes):
    truth = as_tensor(photograph(TARGET)[0])
    after = Renderer(Off(planes)).render(TARGET, sources, RANGE)
    unrefined(monkeypatch)
    before = Renderer(Off(planes)).render(TARGET, sources, RANGE)
    assert planes_off(before.depth) > 0.5
    assert planes_off(after.depth) < 0.15
    assert psnr(after.image, truth) > psnr(before.image, truth)
    inner = (slice(None), slice(8, -8), slice(8, -8))
    assert psnr(after.image[inner], truth[inner]) > psnr(before.image[inner], truth[inner]) + 2


def test_no_depth_goes_astray_at_the_borders_of_what_photos_see(sources):
    target = look_at((1.6, 0.4, -4.0), (1.6, 0.4, 0.0))  # part of it is seen by nobody, or by one photo
    frame = Renderer(Off(0.4)).render(target, sources, RANGE)
    assert float((1 / frame.depth - 1 / 4.0).abs().max() / STEP) < 1.0


def test_the_rows_that_are_refined_at_once_change_nothing(sources, monkeypatch):
    whole = Renderer(Off(0.6)).render(TARGET, sources, RANGE)
    monkeypatch.setattr(refinement, "_ROWS", 7)
    parts = Renderer(Off(0.6)).render(TARGET, sources, RANGE)
    torch.testing.assert_close(parts.depth, whole.depth, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(parts.image, whole.image, atol=1e-5, rtol=1e-5)


def test_where_photos_show_nothing_to_go_by_no_depth_moves(sources, monkeypatch):
    blank = SourceViews(sources.cameras, torch.full_like(sources.images, 0.5), sources.valid)
    after = Renderer(Off(0.6)).render(TARGET, blank, RANGE)
    unrefined(monkeypatch)
    before = Renderer(Off(0.6)).render(TARGET, blank, RANGE)
    torch.testing.assert_close(after.depth, before.depth, atol=0.02, rtol=0)  # a plane is 0.2


def test_one_photo_tells_no_depth(sources):
    one = SourceViews(sources.cameras[:1], sources.images[:1], sources.valid[:1])
    assert planes_off(Renderer(Off(0.6)).render(TARGET, one, RANGE).depth) == pytest.approx(0.6, abs=0.05)


def test_samples_of_one_surface_are_drawn_together_and_those_of_another_stay(sources):
    renderer = Renderer(Off(0.0), num_samples=6)
    surface = renderer.propose(TARGET, sources, RANGE)
    rays = torch.tensor([[48.0, 36.0]])
    chunk = renderer.weigh(surface, torch.zeros(1, dtype=torch.long), rays)
    near, far = 1 / 4.0, 1 / 4.0 - 8 * STEP
    chunk = chunk.at_depths(1 / torch.tensor([[near + 0.4 * STEP, near - 0.4 * STEP, near, near, near, far]]))
    center = torch.tensor([near])
    moved = 1 / refinement._drawn_together(center, center + 0.2 * STEP, chunk)
    apart = (moved - center - 0.2 * STEP) / STEP
    torch.testing.assert_close(apart, torch.tensor([[0.3, -0.3, 0, 0, 0, -8]]), atol=0.02, rtol=0)


def surface_seen_from(photos: SourceViews, planes: float) -> torch.Tensor:
    inverse, _, sure = refinement.SurfaceFinder(Off(planes))(photos, RANGE, 2**28)
    assert (sure > 0.9).all()
    return (inverse - 1 / 4.0).abs() / STEP


def before_target(sources: SourceViews) -> SourceViews:
    """Put the photo that the target's camera takes before the others."""
    own = source_views([TARGET])
    images, valid = torch.cat([own.images, sources.images]), torch.cat([own.valid, sources.valid])
    return SourceViews([TARGET, *sources.cameras], images, valid)


@pytest.mark.parametrize("planes", [0.6, -0.6, 1.0])
def test_a_photos_own_surface_that_is_off_by_a_plane_comes_to_where_it_is(sources, planes):
    off = surface_seen_from(before_target(sources), planes)
    assert off.shape == (TARGET.height // 2, TARGET.width // 2)
    assert off.median() < 0.15


def test_a_photo_that_shows_something_else_does_not_count_for_a_photos_surface(sources):
    photos = before_target(sources)
    photos.images[1] = photos.images[1].flip(-1, -2)
    assert surface_seen_from(photos, 0.6).median() < 0.1


def test_the_surface_of_the_only_photo_stays(sources):
    torch.testing.assert_close(
        surface_seen_from(source_views([TARGET]), 0.6).max(), torch.tensor(0.6), atol=1e-3, rtol=0
    )
