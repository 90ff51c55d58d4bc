"""Each photo's own surface: right, found once, and found again only where something that it is made from changed."""

from __future__ import annotations

import json

import numpy as np
import plane_world
import pytest
import torch
from workbench import Progress, stamps

from lift3d_cli.cache.store import SceneCache
from lift3d_cli.config import RenderConfig
from lift3d_cli.lifting.surfaces import surface_at_size
from lift3d_cli.pipeline.held_out import HeldOutPhotos
from lift3d_cli.pipeline.renderers import make_renderer
from lift3d_cli.pipeline.surfaces import PhotoSurfaces, find_surfaces
from lift3d_cli.pipeline.workspace import Workspace
from lift3d_cli.scene.load import load_scene
from lift3d_cli.scene.scene import KnownDepth

CPU = torch.device("cpu")
CAMERAS = plane_world.rig(6)


@pytest.fixture(scope="module")
def finder():
    return make_renderer(RenderConfig()).surface_finder


@pytest.fixture
def scene(tmp_path):
    return plane_world.write_scene(tmp_path / "scene", CAMERAS, plane_world.WALL_AND_CARD)


def surfaces_of(scene, finder, cache: bool = True, candidates=range(6)) -> PhotoSurfaces:
    workspace = Workspace(load_scene(scene), SceneCache(scene / ".lift3d") if cache else None)
    return PhotoSurfaces(workspace, workspace.points(), finder, CPU, candidates)


def test_the_surface_of_a_photo_is_where_it_sees_something(scene, finder):
    inverse, _, sure = surfaces_of(scene, finder, cache=False).get(2)
    truth = 1 / plane_world.photograph(CAMERAS[2], plane_world.WALL_AND_CARD)[1]
    step = truth.shape[0] / inverse.shape[0]
    rows, columns = (((np.arange(n) + 0.5) * step).astype(int) for n in inverse.shape)
    apart = np.abs(inverse.numpy() - truth[rows[:, None], columns]) / (truth.max() - truth.min())
    is_sure = sure.numpy() > 0.5
    assert is_sure.mean() > 0.7
    assert (apart[is_sure] < 0.15).mean() > 0.85


def test_a_surface_is_read_from_the_cache_as_it_was_found(scene, finder):
    found = surfaces_of(scene, finder).get(1)
    before = stamps(scene / ".lift3d" / "surfaces")
    assert len(before) == 1
    assert torch.equal(surfaces_of(scene, finder).get(1), found)
    assert torch.equal(surfaces_of(scene, finder, cache=False).get(1), found)
    assert stamps(scene / ".lift3d" / "surfaces") == before


def test_a_damaged_file_is_found_again(scene, finder):
    found = surfaces_of(scene, finder).get(1)
    (path,) = (scene / ".lift3d" / "surfaces").iterdir()
    path.write_bytes(path.read_bytes()[:100])
    assert torch.equal(surfaces_of(scene, finder).get(1), found)


def test_a_changed_photo_costs_those_that_were_found_from_it_and_no_more(scene, finder):
    used = surfaces_of(scene, finder, candidates=(0, 1, 2)), surfaces_of(scene, finder, candidates=(3, 4, 5))
    before = [[surfaces.key(i) for i in group] for surfaces, group in zip(used, ((0, 1, 2), (3, 4, 5)), strict=True)]
    plane_world.write_image(scene / "images" / "01.png", np.full((72, 96, 3), 90, np.uint8))
    used = surfaces_of(scene, finder, candidates=(0, 1, 2)), surfaces_of(scene, finder, candidates=(3, 4, 5))
    after = [[surfaces.key(i) for i in group] for surfaces, group in zip(used, ((0, 1, 2), (3, 4, 5)), strict=True)]
    assert all(a != b for a, b in zip(after[0], before[0], strict=True))
    assert after[1] == before[1]


def test_a_moved_camera_changes_its_surface(scene, finder):
    before = surfaces_of(scene, finder).key(1)
    transforms = json.loads((scene / "transforms.json").read_text())
    transforms["frames"][1]["transform_matrix"][0][3] += 0.01
    (scene / "transforms.json").write_text(json.dumps(transforms))
    assert surfaces_of(scene, finder).key(1) != before


def test_surfaces_that_are_there_are_not_found_again(scene):
    workspace = Workspace(load_scene(scene), SceneCache(scene / ".lift3d"))
    progress = Progress()
    assert find_surfaces(workspace, RenderConfig(device="cpu"), progress) == 6
    assert progress.done == list(range(6))
    assert find_surfaces(workspace, RenderConfig(device="cpu")) == 0


def test_no_surface_has_seen_a_photo_that_is_left_out(scene, finder):
    # Every second photo is left out: without their files, the others' surfaces are the same.
    renderer = make_renderer(RenderConfig())
    photos = HeldOutPhotos(load_scene(scene), 72, 2)
    want = photos.lifter(renderer, CPU).surfaces.get(3)
    for index in photos.held_out:
        (scene / "images" / f"{index:02d}.png").write_bytes(b"")
    again = HeldOutPhotos(photos.scene, 72, 2)
    assert torch.equal(again.lifter(renderer, CPU).surfaces.get(3), want)


def test_the_only_photo_of_a_scene_has_a_surface(tmp_path, finder):
    scene = plane_world.write_scene(tmp_path / "one", CAMERAS[:1])
    assert torch.isfinite(surfaces_of(scene, finder, candidates=[0]).get(0)).all()


def test_depth_that_a_photo_comes_with_takes_the_place_of_what_is_found(scene, finder, monkeypatch):
    truth = plane_world.photograph(CAMERAS[2], plane_world.WALL_AND_CARD)[1].astype(np.float32)
    found = surface_at_size(surfaces_of(scene, finder).get(2), 2 * truth.shape[1], 2 * truth.shape[0])
    half = np.where(np.arange(truth.shape[1]) < 40, 0, truth)
    monkeypatch.setattr(Workspace, "known_depth", lambda self, index: KnownDepth(half) if index == 2 else None)
    surfaces = surfaces_of(scene, finder)
    assert surfaces.has(2)  # what is found in its gaps is in the cache
    inverse, _, sure = surfaces.get(2)
    assert torch.allclose(inverse[:, 40:], torch.from_numpy(1 / truth[:, 40:]))
    assert (sure[:, 40:] == 1).all()
    assert torch.equal(inverse[:, :40], found[0, :, :40])


def test_only_depth_without_gaps_spares_finding_a_surface(scene, finder, monkeypatch):
    whole = plane_world.photograph(CAMERAS[2], plane_world.WALL_AND_CARD)[1].astype(np.float32)
    gaps = np.where(np.arange(whole.shape[1]) < 40, 0, whole)
    known = {1: KnownDepth(gaps), 2: KnownDepth(whole)}
    monkeypatch.setattr(Workspace, "known_depth", lambda self, index: known.get(index))
    progress = Progress()
    assert surfaces_of(scene, finder).find(range(3), progress) == 2
    assert progress.done == [0, 1]
