"""One target: which photos and features it is rendered from, at which size, on which grid."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import plane_world
import pytest
import torch
from plane_world import as_tensor, look_at, photograph, read_image, rig, write_scene

from lift3d_cli.config import RenderConfig
from lift3d_cli.errors import ResourceError
from lift3d_cli.geometry.grids import FeatureGrid
from lift3d_cli.machine.device import parse_bytes, resolve_device, resolve_memory
from lift3d_cli.models.base import FeatureMap
from lift3d_cli.models.registry import find_model
from lift3d_cli.pipeline import lift as lift_module
from lift3d_cli.pipeline import workspace as photos_module
from lift3d_cli.pipeline.lift import Choice, SceneLifter
from lift3d_cli.pipeline.lift_features import target_grid
from lift3d_cli.pipeline.renderers import make_renderer
from lift3d_cli.pipeline.workspace import Recent, Workspace, shrunk_size
from lift3d_cli.scene.load import load_scene

CPU = torch.device("cpu")
RENDERER = make_renderer(RenderConfig(planes=16, samples=4), variant="training-free")


class EncodedPhotos:
    """Features made on the spot, of photos at full size."""

    def __init__(self, photos: Workspace, model) -> None:
        self.model, self.photos, self.asked = model, photos, []

    def size(self, index: int) -> tuple[int, int]:
        camera = self.photos.camera(index)
        return camera.width, camera.height

    def read(self, index: int, keep: bool = True) -> FeatureMap:
        self.asked.append(index)
        return self.model.checked_encode(as_tensor(self.photos.resized(index, *self.size(index)).image))


@pytest.fixture
def photos(wall_scene) -> Workspace:
    return Workspace(load_scene(wall_scene), None)


@pytest.fixture
def model(model_ref):
    return find_model(model_ref).load()


# ---- the grid of a target --------------------------------------------------------------------------------------------


def test_target_of_the_photos_scale_has_the_models_own_grid(model):
    assert target_grid(model, look_at((0, 0, -4), focal=90.0), 90.0) == model.grid(96, 72)
    assert target_grid(model, look_at((0, 0, -4), focal=90.0), 95.0) == model.grid(96, 72)


@pytest.mark.parametrize(("size", "focal"), [((192, 144), 180.0), ((48, 36), 45.0), ((301, 97), 200.0)])
def test_cells_span_the_same_angle_whatever_the_targets_size(model, size, focal):
    target = look_at((0, 0, -4), width=size[0], height=size[1], focal=focal)
    grid = target_grid(model, target, 90.0)
    spanned = 1 / (np.array(grid.scale) * focal)  # tangent of the angle of a cell
    np.testing.assert_allclose(spanned, 4 / 90, rtol=0.02)
    # The cells cover the target, and no cell lies outside of it entirely.
    cells = np.array([grid.width, grid.height]) / grid.scale
    assert (cells >= np.array(size) - 1e-6).all()
    assert (cells < np.array(size) + 1 / np.array(grid.scale) + 1e-6).all()


def test_offset_of_the_models_grid_stays_with_the_image(model, monkeypatch):
    monkeypatch.setattr(model, "grid", lambda w, h: FeatureGrid(w // 4, h // 4, (0.25, 0.25), (0.5, -0.5)))
    small, large = model.grid(96, 72), target_grid(model, look_at((0, 0, -4), width=192, height=144, focal=180.0), 90.0)
    torch.testing.assert_close(large.cell_centers(), 2 * small.cell_centers())


# ---- a lifted view ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1.0, 0.5, 2.0])
def test_features_land_on_the_target_at_any_resolution(photos, model, factor):
    target = look_at((0.0, 0.0, -4.0)).resized(round(96 * factor), round(72 * factor))
    lifter = SceneLifter(photos, photos.points(), RENDERER, 6, CPU)
    view = lifter.lift(lifter.plan(target, lifter.choose(target), {"patches": EncodedPhotos(photos, model)}))
    assert view.frame.image.shape == (3, target.height, target.width)
    grid = view.grids["patches"]
    assert (grid.width, grid.height) == (24, 18)  # as many cells per angle as the photos have, at any size
    want = model.checked_encode(as_tensor(photograph(look_at((0.0, 0.0, -4.0)))[0])).data
    assert ((view.frame.features["patches"] - want) ** 2).mean() < 0.2 * want.var()


def test_sources_are_read_at_the_targets_scale_and_never_enlarged(photos, monkeypatch):
    asked = []
    real = photos.resized
    monkeypatch.setattr(photos, "resized", lambda i, w, h: asked.append((w, h)) or real(i, w, h))
    lifter = SceneLifter(photos, photos.points(), RENDERER, 3, CPU)
    for width, height, want in ((48, 36, (48, 36)), (96, 72, (96, 72)), (192, 144, (96, 72))):
        asked.clear()
        target = look_at((0.0, 0.0, -4.0)).resized(width, height)
        lifter.lift(lifter.plan(target, lifter.choose(target)))
        assert asked == [want] * 3


def test_features_of_the_chosen_photos_only_are_read(photos, model):
    target = look_at((0.0, 0.0, -4.0))
    lifter = SceneLifter(photos, photos.points(), RENDERER, 3, CPU)
    choice = lifter.choose(target)
    source = EncodedPhotos(photos, model)
    lifter.lift(lifter.plan(target, choice, {"patches": source}))
    assert source.asked == list(choice.sources)


def test_photos_that_contradict_are_not_rendered_from(photos, monkeypatch):
    lifter = SceneLifter(photos, photos.points(), RENDERER, 4, CPU)
    target = photos.camera(0)
    choice = lifter.choose(target)
    assert len(choice.sources) == 4
    fewer = lifter.lift(lifter.plan(target, Choice(choice.depth_range, choice.sources[:3]))).frame
    monkeypatch.setattr(lift_module, "contradicting", lambda sources, pairs: [3])
    without = lifter.lift(lifter.plan(target, choice))
    assert torch.equal(without.frame.image, fewer.image)
    assert without.choice.sources == choice.sources[:3]


def test_candidates_bound_the_choice(photos):
    target = photos.camera(3)
    everything = SceneLifter(photos, photos.points(), RENDERER, 4, CPU).choose(target)
    some = SceneLifter(photos, photos.points(), RENDERER, 4, CPU, candidates=[0, 2, 5, 6, 7]).choose(target)
    assert everything.sources[0] == 3
    assert set(some.sources) <= {0, 2, 5, 6, 7}


def test_depth_range_holds_the_wall(photos):
    near, far = SceneLifter(photos, photos.points(), RENDERER, 4, CPU).choose(look_at((0.0, 0.0, -4.0))).depth_range
    assert near < 4.0 < far


def test_photos_of_mixed_sizes_and_shapes_are_lifted_together(tmp_path, model):
    cameras = [c.resized(w, h) for c, (w, h) in zip(rig(4), [(96, 72), (64, 48), (120, 90), (96, 72)], strict=True)]
    upright = plane_world.look_at((0.1, 0.1, -4.1), width=60, height=90)
    photos = Workspace(load_scene(write_scene(tmp_path / "mixed", [*cameras, upright])), None)
    target = look_at((-0.3, 0.0, -4.0))
    lifter = SceneLifter(photos, photos.points(), RENDERER, 5, CPU)
    view = lifter.lift(lifter.plan(target, lifter.choose(target), {"patches": EncodedPhotos(photos, model)}))
    truth = as_tensor(photograph(target)[0])
    assert -10 * torch.log10(((view.frame.image - truth) ** 2).mean()) > 20
    want = model.checked_encode(truth).data
    assert ((view.frame.features["patches"] - want) ** 2).mean() < 0.3 * want.var()


# ---- small parts -----------------------------------------------------------------------------------------------------


def test_recent_values_are_made_once_and_the_oldest_go():
    recent, made = Recent(2), []
    for key in "abacab":
        assert recent.get(key, lambda key=key: made.append(key) or key) == key
    assert made == ["a", "b", "c", "b"]


@pytest.mark.parametrize(
    ("max_size", "want"),
    [(None, (96, 72)), (96, (96, 72)), (500, (96, 72)), (48, (48, 36)), (10, (10, 8)), (1, (1, 1))],
)
def test_shrunk_size_keeps_the_shape_and_never_enlarges(max_size, want):
    assert shrunk_size(look_at((0, 0, -4)), max_size) == want


@pytest.mark.parametrize(
    ("text", "want"),
    [("64MiB", 2**26), ("2GiB", 2**31), ("2G", 2**31), ("1.5 gib", 3 * 2**29), ("1t", 2**40), (str(2**27), 2**27)],
)
def test_sizes_of_memory(text, want):
    assert parse_bytes(text) == want


def test_memory_that_nobody_states_is_half_of_what_is_free_on_any_system(monkeypatch):
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 2**26 <= resolve_memory("auto", CPU) <= there / 2
    monkeypatch.delattr("os.sysconf")
    monkeypatch.setattr(Path, "read_text", lambda path: (_ for _ in ()).throw(FileNotFoundError(path)))
    assert resolve_memory("auto", CPU) == 2**32
    assert resolve_memory("96MiB", CPU) == 96 * 2**20


def test_file_of_a_photo_is_read_once_to_identify_it_at_every_size(scene_dir, monkeypatch):
    read = []
    monkeypatch.setattr(photos_module, "file_sha256", lambda path: read.append(path) or "0" * 64)
    photos = Workspace(load_scene(scene_dir), None)
    keys = {photos.record(2, size).key for size in (None, (48, 36), (24, 18), None)}
    assert len(keys) == 3
    assert read == [photos.scene.views[2].image_path]


@pytest.mark.parametrize("text", ["", "lots", "-2GiB", "2 GiB each", "GiB", "1e9", "nan", "1MiB", "0"])
def test_sizes_that_are_none_or_too_small(text):
    with pytest.raises(ResourceError, match="--memory"):
        parse_bytes(text)


@pytest.mark.parametrize("name", ["cuda:99", "cuda:x", "mps", "tpu", "", "cpu:cpu", "meta"])
def test_devices_that_are_not_there(name):
    with pytest.raises(ResourceError, match=f"--device {name}"):
        resolve_device(name)


def test_device_auto_is_one_that_is_there():
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == CPU


def test_cells_of_a_pixel_are_no_finer_than_the_pixels_of_a_small_target(work):
    # Photos of twice the target's size: a grid as fine as theirs would have four rays for each of the colour's.
    work.encode("rgb")
    render = work.render(models=("rgb",))
    (features,) = render.feature_renders()
    data, grid, _ = features.read_frame(1)
    assert (grid.width, grid.height, grid.scale, grid.offset) == (48, 36, (1.0, 1.0), (0.0, 0.0))
    color = as_tensor(read_image(render.color_path(1)))
    assert (data.float() - color)[:, 2:-2, 2:-2].abs().mean() < 0.03


def test_cells_of_a_super_resolver_stay_as_fine_as_the_photos_and_are_not_corrected(photos):
    # What is rendered of a small target shows nothing so fine to compare descriptors with.
    model, renderer = find_model("tiny-superres").load(), make_renderer(RenderConfig(planes=16, samples=4))
    lifter = SceneLifter(photos, np.zeros((0, 3)), renderer, 3, CPU)
    own = photos.camera(0)
    for factor, is_corrected in ((1, True), (2, False)):
        target = own.resized(own.width // factor, own.height // factor)
        plan = lifter.plan(target, lifter.choose(target), {"s": EncodedPhotos(photos, model)})
        grid = plan.features["s"].target
        assert (grid.width, grid.height) == (own.width, own.height)
        assert (plan.features["s"].corrector is not None) == is_corrected
        features = lifter.lift(plan).frame.features["s"]
        assert features.shape == (model.spec.channels, grid.height, grid.width)
        assert features.isfinite().all()
