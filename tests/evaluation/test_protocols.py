"""`evaluate` leaves photos out, never peeks at them, and counts only pixels that have ground truth."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial

import numpy as np
import plane_world
import pytest
from plane_world import read_image, rig, write_image, write_scene

from lift3d_cli.config import EvalConfig
from lift3d_cli.errors import ModelError, SceneError
from lift3d_cli.evaluation import protocols
from lift3d_cli.evaluation.protocols import evaluate
from lift3d_cli.lifting.proposal import learned
from lift3d_cli.lifting.proposal.training_free import PlaneSweepProposal
from lift3d_cli.pipeline import workspace
from lift3d_cli.pipeline.held_out import HeldOutPhotos
from lift3d_cli.scene.load import load_scene

# The variant that is quick.
settings = partial(EvalConfig, variant="training-free")
CONFIG = settings(every=4, height=0, views=4)


@pytest.fixture(scope="module")
def result(wall_scene) -> dict:
    return evaluate(load_scene(wall_scene), CONFIG)


def test_every_fourth_photo_from_the_first_is_left_out_and_is_no_source(result):
    left_out = ["images/00.png", "images/04.png"]
    assert [row["name"] for row in result["views"]] == left_out
    for row in result["views"]:
        assert len(row["sources"]) == len(set(row["sources"])) == 4
        assert not set(row["sources"]) & set(left_out)


def test_wall_is_rendered_well(result):
    assert result["mean"]["psnr"] > 25
    assert result["mean"]["ssim"] > 0.95
    assert result["mean"]["coverage"] > 0.95


def test_result_is_json_with_these_keys(result):
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert set(result) >= {"scene", "every", "height", "num_views", "model", "mean", "views"}
    assert (result["scene"], result["every"], result["height"], result["num_views"]) == ("scene", 4, 0, 4)
    assert result["model"] is None
    assert list(result["mean"]) == ["psnr", "ssim", "coverage"]
    assert all(set(row) == {"name", "psnr", "ssim", "coverage", "sources"} for row in result["views"])


def test_mean_is_that_of_the_photos(result):
    for key, value in result["mean"].items():
        assert value == pytest.approx(sum(row[key] for row in result["views"]) / 2)


def test_variants_are_named_and_the_untrained_network_scores_as_the_training_free_renderer(
    wall_scene, result, monkeypatch
):
    monkeypatch.setattr(learned, "_FEWEST_PLANES", PlaneSweepProposal.num_planes)  # as many as the training-free one
    full = evaluate(load_scene(wall_scene), replace(CONFIG, variant="full"))
    assert (full["variant"], result["variant"]) == ("full", "training-free")
    assert full["mean"]["psnr"] == pytest.approx(result["mean"]["psnr"], abs=0.2)


def test_left_out_photos_have_no_influence_on_what_is_rendered(scene_dir, tmp_path):
    evaluate(load_scene(scene_dir), CONFIG, save=tmp_path / "before")
    for name in ("00", "04"):
        write_image(scene_dir / "images" / f"{name}.png", np.full((72, 96, 3), 255, np.uint8))
    evaluate(load_scene(scene_dir), CONFIG, save=tmp_path / "after")
    for name in ("images-00.png", "images-04.png"):
        before, after = (read_image(tmp_path / run / name)[:, 96:] for run in ("before", "after"))
        np.testing.assert_array_equal(before, after)  # render and depth


def test_saved_picture_is_photo_render_and_depth_side_by_side(wall_scene, tmp_path):
    evaluate(load_scene(wall_scene), CONFIG, save=tmp_path / "pictures")
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["images-00.png", "images-04.png"]
    picture = read_image(tmp_path / "pictures" / "images-04.png")
    assert picture.shape == (72, 3 * 96, 3)
    np.testing.assert_array_equal(picture[:, :96], read_image(wall_scene / "images" / "04.png"))
    assert np.abs(picture[:, :96].astype(int) - picture[:, 96:192]).mean() < 10


def garbage(image: np.ndarray, where: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, image.shape, dtype=np.uint8)
    return np.where(where[..., None], noise, image)


def test_masked_pixels_do_not_count(result, tmp_path):
    mask = np.full((72, 96), 255, np.uint8)
    mask[20:50, 30:70] = 0
    scene = write_scene(tmp_path / "scene", rig(8), masks={0: mask, 4: mask})
    for name in ("00", "04"):
        path = scene / "images" / f"{name}.png"
        write_image(path, garbage(read_image(path), mask == 0))
    masked = evaluate(load_scene(scene), CONFIG)
    assert masked["mean"]["psnr"] == pytest.approx(result["mean"]["psnr"], abs=1.5)
    assert masked["mean"]["ssim"] == pytest.approx(result["mean"]["ssim"], abs=0.01)


def test_transparent_pixels_do_not_count(result, scene_dir):
    for name in ("00", "04"):
        path = scene_dir / "images" / f"{name}.png"
        where = np.zeros((72, 96), bool)
        where[20:50, 30:70] = True
        alpha = np.where(where, 0, 255).astype(np.uint8)
        write_image(path, np.dstack([alpha, garbage(read_image(path), where)]))  # written as BGRA
    got = evaluate(load_scene(scene_dir), CONFIG)
    assert got["mean"]["psnr"] == pytest.approx(result["mean"]["psnr"], abs=1.5)


def test_masked_pixels_of_sources_are_not_lifted(tmp_path):
    # A part of every source is garbage; masked, it must not show: the frames are as from whole photos, masked alike.
    masks = {}
    for i in (1, 2, 3, 5, 6, 7):
        masks[i] = np.full((72, 96), 255, np.uint8)
        masks[i][:, slice(0, 30) if i % 2 else slice(66, 96)] = 0
    scene = write_scene(tmp_path / "scene", rig(8), masks=masks)
    whole = evaluate(load_scene(scene), settings(every=4, height=0, views=6))
    for i, mask in masks.items():
        path = scene / "images" / f"{i:02d}.png"
        write_image(path, garbage(read_image(path), mask == 0))
    got = evaluate(load_scene(scene), settings(every=4, height=0, views=6))
    assert got["mean"]["psnr"] == pytest.approx(whole["mean"]["psnr"], abs=0.05)
    assert got["mean"]["psnr"] > 28


def test_photo_without_any_ground_truth_is_refused(tmp_path):
    scene = write_scene(tmp_path / "scene", rig(4), masks={0: np.zeros((72, 96), np.uint8)})
    with pytest.raises(SceneError, match=r"images/00\.png: no pixel"):
        evaluate(load_scene(scene), CONFIG)


def test_surface_points_of_a_scene_without_any_are_found_in_the_sources_alone(tmp_path, monkeypatch):
    scene = load_scene(write_scene(tmp_path / "scene", rig(8), has_points=False))
    used = []
    real = protocols.Workspace.points
    monkeypatch.setattr(
        protocols.Workspace, "points", lambda self, indices: used.append(indices) or real(self, indices)
    )
    assert evaluate(scene, CONFIG)["mean"]["psnr"] > 25
    assert used == [[1, 2, 3, 5, 6, 7]]


def test_photos_are_resized_to_the_height(scene_dir, tmp_path):
    got = evaluate(load_scene(scene_dir), settings(every=4, height=36, views=4), save=tmp_path / "pictures")
    assert got["height"] == 36
    assert read_image(tmp_path / "pictures" / "images-00.png").shape == (36, 3 * 48, 3)
    assert got["mean"]["psnr"] > 22


def test_photos_of_different_sizes_are_compared_each_in_its_own(tmp_path):
    cameras = rig(6)
    cameras[0] = cameras[0].resized(64, 48)
    cameras[2] = cameras[2].resized(120, 90)
    got = evaluate(load_scene(write_scene(tmp_path / "scene", cameras)), settings(every=3, height=0, views=4))
    assert got["mean"]["psnr"] > 22


def test_features_of_a_model_are_compared_too(wall_scene, model_ref):
    got = evaluate(load_scene(wall_scene), settings(every=4, height=0, views=4, model=model_ref))
    assert got["model"] == model_ref
    assert list(got["mean"]) == ["psnr", "ssim", "coverage", "feature_mse", "feature_mse_relative"]
    # 1 is what the mean feature scores.
    assert 0 < got["mean"]["feature_mse_relative"] < 0.1
    for row in got["views"]:
        assert row["feature_mse"] < row["feature_mse_relative"]  # the features' variance is below 1


def test_masked_garbage_hardly_changes_the_features_score(model_ref, tmp_path):
    mask = np.full((72, 96), 255, np.uint8)
    mask[20:52, 32:72] = 0
    config = settings(every=4, height=0, views=4, model=model_ref)
    scores = []
    for name, masks in (("masked", {0: mask, 4: mask}), ("unmasked", {})):
        scene = write_scene(tmp_path / name, rig(8), masks=masks)
        for photo in ("00", "04"):
            path = scene / "images" / f"{photo}.png"
            write_image(path, garbage(read_image(path), mask == 0))
        scores.append(evaluate(load_scene(scene), config)["mean"]["feature_mse"])
    # What remains is the border of the mask: features look a cell or two beyond their own.
    assert scores[0] < 0.5 * scores[1]


@pytest.mark.parametrize("every", [1, 0, -3])
def test_leaving_out_every_photo_is_refused(wall_scene, every):
    with pytest.raises(SceneError, match=f"--every {every} leaves no photo"):
        evaluate(load_scene(wall_scene), settings(every=every))


def test_one_photo_alone_cannot_be_evaluated(tmp_path):
    with pytest.raises(SceneError, match="leaves no photo"):
        evaluate(load_scene(write_scene(tmp_path / "scene", rig(1))), CONFIG)


def test_two_photos_can(tmp_path):
    got = evaluate(load_scene(write_scene(tmp_path / "scene", rig(2))), CONFIG)
    assert math.isfinite(got["mean"]["psnr"])


def test_tiny_height_is_refused(wall_scene):
    with pytest.raises(SceneError, match="--height 8: too small"):
        evaluate(load_scene(wall_scene), settings(height=8))


def test_unknown_model_is_refused_before_anything_is_rendered(wall_scene):
    with pytest.raises(ModelError, match="no model named 'nonsense'"):
        evaluate(load_scene(wall_scene), settings(model="nonsense"), progress=lambda *_: pytest.fail("rendered"))


def test_evaluation_leaves_nothing_in_the_scene(scene_dir):
    before = sorted(scene_dir.rglob("*"))
    evaluate(load_scene(scene_dir), CONFIG)
    assert sorted(scene_dir.rglob("*")) == before


def test_left_out_photo_that_looks_where_no_other_does_gets_finite_numbers(tmp_path):
    away = plane_world.look_at((0.0, 0.0, -4.0), (0.0, 0.0, -9.0))
    scene = write_scene(tmp_path / "scene", [*rig(6), away], plane_world.WALL_AND_CARD)
    got = evaluate(load_scene(scene), settings(every=6, height=0, views=4))
    assert [row["name"] for row in got["views"]] == ["images/00.png", "images/06.png"]
    assert all(math.isfinite(value) for row in got["views"] for value in row.values() if isinstance(value, float))


def test_features_are_compared_also_between_photos_of_different_focal_lengths(model_ref, tmp_path):
    # As in a capture with upright and level photos, which are all brought to one height.
    cameras = [plane_world.look_at(c.position, (c.position[0], 0, 0), width=72, height=96) for c in rig(3)]
    scene = write_scene(tmp_path / "scene", [*cameras, *rig(8)[3:]])
    got = evaluate(load_scene(scene), settings(every=4, height=64, views=4, model=model_ref))
    assert [row["name"] for row in got["views"]] == ["images/00.png", "images/04.png"]
    assert all(row["feature_mse_relative"] < 0.3 for row in got["views"])


def test_protocols_that_share_their_photos_find_the_points_once(tmp_path, monkeypatch):
    scene = load_scene(write_scene(tmp_path / "scene", rig(8), has_points=False))
    found, real = [], workspace.surface_points
    monkeypatch.setattr(workspace, "surface_points", lambda *args, **more: found.append(more) or real(*args, **more))
    photos = HeldOutPhotos(scene, CONFIG.height, CONFIG.every, CONFIG.views)
    first, second = (evaluate(scene, CONFIG, photos=photos) for _ in range(2))
    assert len(found) == 1
    assert first == second
