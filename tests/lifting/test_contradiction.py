"""Source views that contradict the others are found, and those that only look from elsewhere are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import plane_world
import pytest
import torch

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.lifting.contradiction import contradicting
from lift3d_cli.lifting.covisible import covisible_points
from lift3d_cli.lifting.sources import SourceViews
from lift3d_cli.lifting.surfaces import known_surface, surface_at_size


def moved(camera: Camera, by: tuple[float, float, float]) -> Camera:
    """The camera at another position, in the same direction."""
    w2c = camera.w2c.copy()
    w2c[:3, 3] -= w2c[:3, :3] @ np.array(by)
    return Camera(camera.K, w2c, camera.width, camera.height)


def views(
    drift: float = 0.0, planes: tuple = plane_world.WALL_AND_CARD, count: int = 6, last: float | None = None
) -> SourceViews:
    """Photos of a rig with exact surfaces; the last two poses are wrong by `drift` units, or the last by `last`."""
    cameras = plane_world.rig(count)
    made = plane_world.source_views(cameras, planes)
    depths = [torch.from_numpy(plane_world.photograph(c, planes)[1]).float() for c in cameras]
    surfaces = torch.stack([surface_at_size(known_surface(z), z.shape[1], z.shape[0]) for z in depths])
    drifts = [0.0] * (count - 2) + [drift, drift if last is None else last]
    said = [moved(c, (by, by, 0)) for c, by in zip(cameras, drifts, strict=True)]
    return replace(made, cameras=said, surfaces=surfaces)


def found(sources: SourceViews) -> list[int]:
    """The views that contradict."""
    return contradicting(sources, covisible_points(sources))


@pytest.mark.parametrize("planes", [plane_world.WALL, plane_world.WALL_AND_CARD])
def test_right_poses_contradict_nothing(planes):
    assert found(views(planes=planes)) == []


def test_drifted_poses_are_found():
    assert found(views(drift=0.25)) == [4, 5]


def test_less_is_asked_of_others_where_one_contradicts():
    assert found(views(last=0.05)) == []
    assert found(views(drift=0.25, last=0.05)) == [4, 5]
    assert found(views(drift=0.25, last=0.02)) == [4]


def test_exposure_is_no_contradiction():
    sources = views()
    factor = torch.tensor([1, 1, 1, 0.7, 0.8, 0.6])[:, None, None, None]
    assert found(replace(sources, images=sources.images * factor)) == []


def test_without_surfaces_or_with_three_photos_nothing_is_said():
    assert found(replace(views(drift=0.25), surfaces=None)) == []
    assert found(views(drift=0.25, count=3)) == []


def test_best_three_are_kept_whatever_they_show():
    sources = views(drift=0.25)
    order = [5, 4, 0, 1, 2, 3]
    parts = {name: getattr(sources, name)[order] for name in ("images", "valid", "surfaces")}
    named = found(replace(sources, cameras=[sources.cameras[i] for i in order], **parts))
    assert not set(named) & {0, 1, 2}


def test_past_the_sixth_less_is_asked():
    assert found(views(last=0.05)) == []
    assert found(views(last=0.05, count=8)) == [7]
    assert found(views(count=8)) == []
