"""Conventions checked on real photos: poses, axes and half pixels that are wrong give errors of many pixels here."""

from __future__ import annotations

import numpy as np
import pytest
from scene_files import real_scene

from lift3d_cli.scene.bounds import depth_range, surface_points
from lift3d_cli.scene.colmap import find_colmap_models
from lift3d_cli.scene.colmap_files import read_images, read_points
from lift3d_cli.scene.distortion import distort
from lift3d_cli.scene.photo_files import natural_key
from lift3d_cli.scene.photos import read_photo
from lift3d_cli.scene.scene import Scene
from lift3d_cli.scene.triangulation import detect_features, epipolar_distance, match_features, neighbour_pairs

COLMAP_SCENES = ["apple", "banana", "bonsai", "flower", "kermit", "kitchen", "sceaux", "statue"]
OTHER_SCENES = ["castle_p19", "dtu_scan24", "dtu_scan37", "entry_p10", "fountain_p11", "fox", "lego", "office_table"]
NUM_VIEWS = {"fox": 50, "fountain_p11": 11, "kitchen": 24, "bonsai": 292, "lego": 100, "office_table": 64}


@pytest.mark.parametrize("name", COLMAP_SCENES + OTHER_SCENES)
def test_loads_with_all_its_photos(name):
    scene = real_scene(name)
    assert len(scene.views) == NUM_VIEWS.get(name, len(scene.views))
    assert [view.name for view in scene.views] == sorted((view.name for view in scene.views), key=natural_key)
    photo = read_photo(scene.views[-1])
    camera = scene.views[-1].camera
    assert photo.image.shape == (camera.height, camera.width, 3)
    assert photo.valid.mean() > 0.95
    assert (len(scene.warnings) == 1) == (name == "fox")


@pytest.mark.parametrize("name", COLMAP_SCENES)
def test_colmap_points_project_onto_their_keypoints(name):
    scene = real_scene(name)
    model = find_colmap_models(scene.root)[0]
    points = read_points(model)
    row_of_id = {point_id: row for row, point_id in enumerate(points.ids.tolist())}
    images = {image.name: image for image in read_images(model)}
    # By the file's size and not by what was read: an image without keypoints takes 73 bytes and its name.
    if (model / "images.bin").stat().st_size == 8 + sum(73 + len(name) for name in images):
        pytest.skip(f"{name}: its model has no keypoints")
    errors = []
    for view in scene.views[:: max(1, len(scene.views) // 20)]:
        image = images[view.name.removeprefix("images/")]
        seen = image.point_ids >= 0
        xyz = points.xyz[[row_of_id[point_id] for point_id in image.point_ids[seen].tolist()]]
        cam = xyz @ view.camera.w2c[:3, :3].T + view.camera.w2c[:3, 3]
        assert (cam[:, 2] > 0).all()
        x, y = distort(view.distortion, cam[:, 0] / cam[:, 2], cam[:, 1] / cam[:, 2])
        K = view.camera.K
        errors.append(np.stack([K[0, 0] * x + K[0, 2], K[1, 1] * y + K[1, 2]], axis=1) - image.uv[seen])
    errors = np.concatenate(errors)
    assert np.linalg.norm(errors, axis=1).mean() < 0.8
    # A half-pixel mistake would shift all of them by 0.5.
    assert np.abs(errors.mean(axis=0)).max() < 0.25


def epipolar_error(scene: Scene) -> float:
    """Median distance, in pixels of photos of at most 640 px, of SIFT matches from their epipolar lines."""
    pairs = neighbour_pairs(scene.views)
    a, b = (detect_features(scene.views[i]) for i in pairs[len(pairs) // 2])
    matches = match_features(a, b)
    assert len(matches) > 20
    return float(np.median(epipolar_distance(a.P, b.P, a.uv[matches[:, 0]], b.uv[matches[:, 1]])))


@pytest.mark.parametrize("name", [*OTHER_SCENES, "kitchen", "flower"])
def test_neighbouring_photos_agree_with_their_poses(name):
    assert epipolar_error(real_scene(name)) < 1.0


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("fox", "office_table", "castle_p19", "lego")]


@pytest.mark.parametrize("name", ["fountain_p11", "entry_p10", *SLOW])
def test_triangulated_points_of_kept_photos_are_in_the_range_of_held_out_views(name):
    scene = real_scene(name)
    held_out = scene.views[::8]
    points = surface_points(scene, views=[view for i, view in enumerate(scene.views) if i % 8])
    assert len(points) > 1000
    for view in held_out:
        near, far = depth_range(view.camera, points, scene.views)
        uv, z = view.camera.project(points)
        with np.errstate(invalid="ignore"):
            seen = z[((uv >= 0) & (uv <= [view.camera.width, view.camera.height])).all(axis=1)]
        assert ((seen >= near) & (seen <= far)).mean() > 0.99
        assert far < 2.5 * np.percentile(seen, 99.5)
        assert near > 0.5 * np.percentile(seen, 0.5)


@pytest.mark.parametrize("name", COLMAP_SCENES)
def test_colmap_points_are_in_the_range(name):
    scene = real_scene(name)
    points = surface_points(scene)
    for view in scene.views[:: max(1, len(scene.views) // 5)]:
        near, far = depth_range(view.camera, points, scene.views)
        uv, z = view.camera.project(points)
        with np.errstate(invalid="ignore"):
            seen = z[((uv >= 0) & (uv <= [view.camera.width, view.camera.height])).all(axis=1)]
        assert ((seen >= near) & (seen <= far)).mean() > 0.99
        assert far / near < 40
