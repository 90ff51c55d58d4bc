"""What the photos say about poses and points: the example scene, with one thing wrong at a time."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from scene_files import llff_row, quaternion, real_scene, write_colmap

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.scene import photo_matches
from lift3d_cli.scene.bounds import surface_points
from lift3d_cli.scene.distortion import distort, pinhole_rays
from lift3d_cli.scene.load import load_scene
from lift3d_cli.scene.photo_check import Verdict, check_photos
from lift3d_cli.scene.scene import Distortion, Scene, View
from lift3d_cli.scene.triangulation import detect_features, shrunk_camera

TABLETOP = Path(__file__).parents[2] / "examples" / "tabletop"
FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
LENS = ("fl_x", "fl_y", "cx", "cy")


@pytest.fixture(scope="module")
def tabletop(tmp_path_factory) -> tuple[Path, dict]:
    """The example with photos of half the size, and the content of its file."""
    root = tmp_path_factory.mktemp("tabletop")
    (root / "images").mkdir()
    for photo in (TABLETOP / "images").iterdir():
        small = cv2.resize(cv2.imread(str(photo)), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(root / "images" / photo.name), small)
    data = json.loads((TABLETOP / "transforms.json").read_text())
    return root, data | {key: data[key] / 2 for key in ("w", "h", *LENS)}


@pytest.fixture(scope="module", autouse=True)
def _features_are_found_once():
    """Keypoints depend on the photo alone, and finding them takes nearly all of the time."""
    found = {}

    def detect(view: View):
        if view.image_path not in found:
            found[view.image_path] = detect_features(view)
        return replace(found[view.image_path], camera=shrunk_camera(view.camera))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(photo_matches, "detect_features", detect)
        yield


@pytest.fixture
def scene_with(tabletop, tmp_path) -> Callable[[Callable[[dict], None]], Scene]:
    """Makes the scene after a change of its file's content."""

    def make(change: Callable[[dict], None]) -> Scene:
        root, data = tabletop[0], copy.deepcopy(tabletop[1])
        (tmp_path / "images").symlink_to(root / "images")
        change(data)
        (tmp_path / "transforms.json").write_text(json.dumps(data))
        return load_scene(tmp_path)

    return make


def poses(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict], None]:
    def apply(data: dict) -> None:
        for frame in data["frames"]:
            frame["transform_matrix"] = change(np.array(frame["transform_matrix"])).tolist()

    return apply


def reordered(order: Callable[[list], list]) -> Callable[[dict], None]:
    def apply(data: dict) -> None:
        matrices = order([frame["transform_matrix"] for frame in data["frames"]])
        for frame, matrix in zip(data["frames"], matrices, strict=True):
            frame["transform_matrix"] = matrix

    return apply


def focal_of(factor: float) -> Callable[[dict], None]:
    return lambda d: d.update(fl_x=factor * d["fl_x"], fl_y=factor * d["fl_y"])


TURN = np.array([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
FAULTS = {
    "opencv_axes": (poses(lambda m: m @ FLIP), "have OpenCV axes"),
    "w2c": (poses(np.linalg.inv), "are world-to-camera"),
    "w2c_opencv_axes": (poses(lambda m: np.linalg.inv(m @ FLIP)), "world-to-camera, with OpenCV axes"),
    "turned_camera": (poses(lambda m: m @ TURN), "the camera's axes are others"),
    "lens_of_twice_the_size": (lambda d: d.update({key: 2 * d[key] for key in LENS}), "of photos 2 times as wide"),
    "principal_point_0_to_1": (lambda d: d.update(cx=0.5, cy=0.5), "principal point is at 0.00156 of"),
    "half_the_focal_length": (focal_of(0.5), "focal length should be about 2"),
    "three_times_the_focal_length": (focal_of(3.0), "focal length should be about 0.3"),
    "reversed": (reordered(lambda m: m[::-1]), "the reversed order"),
    "one_later": (reordered(lambda m: [*m[1:], m[0]]), "stands 1 before it"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_usual_mistake_is_named(fault, scene_with):
    change, words = FAULTS[fault]
    verdict = check_photos(scene_with(change))
    assert not verdict.poses_fit
    (warning,) = verdict.warnings()
    assert words in warning
    assert "hint: " in warning


def test_right_poses_fit_wherever_the_origin_is(scene_with):
    verdict = check_photos(scene_with(poses(lambda m: m + np.outer([431245.3, 4581234.7, 212.0, 0], [0, 0, 0, 1]))))
    assert verdict.warnings() == []
    assert verdict.share > 0.95
    assert verdict.error_px < 0.5


def test_poses_in_no_order_at_all_are_said_not_to_fit(scene_with):
    shuffled = np.random.default_rng(0).permutation(14)
    (warning,) = check_photos(scene_with(reordered(lambda m: [m[i] for i in shuffled]))).warnings()
    assert "nothing usual explains it" in warning


def test_a_colmap_file_of_camera_to_world_poses_is_named(tabletop, tmp_path):
    root, data = tabletop
    (tmp_path / "images").symlink_to(root / "images")
    matrices = [np.array(frame["transform_matrix"]) @ FLIP for frame in data["frames"]]
    names = [Path(frame["file_path"]).name for frame in data["frames"]]
    images = [(n, quaternion(m[:3, :3]), tuple(m[:3, 3]), []) for n, m in zip(names, matrices, strict=True)]
    size = (int(data["w"]), int(data["h"]))
    write_colmap(tmp_path, images, "PINHOLE", [data[key] for key in LENS], photos=None, calibrated=size)
    assert "are camera-to-world" in check_photos(load_scene(tmp_path)).cause


def test_poses_by_number_for_photos_by_text_are_named(tabletop, tmp_path):
    root, data = tabletop
    (tmp_path / "images").mkdir()
    rows = []
    for i, frame in enumerate(data["frames"]):
        shutil.copy(root / frame["file_path"], tmp_path / f"images/view{i}.jpg")
        w2c = np.linalg.inv(np.array(frame["transform_matrix"]) @ FLIP)
        rows.append(llff_row(w2c, data["h"], data["w"], data["fl_x"]))
    np.save(tmp_path / "poses_bounds.npy", np.array(rows))
    assert "2 before 10" in check_photos(load_scene(tmp_path)).cause


# ---- points ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def true_points(tabletop) -> np.ndarray:
    root, data = tabletop
    (root / "transforms.json").write_text(json.dumps(data))
    return surface_points(load_scene(root))


@pytest.mark.parametrize("factor", [0.1, 0.5, 0.8, 1.25, 2.0, 10.0])
def test_points_in_another_unit_do_not_fit(factor, scene_with, true_points):
    verdict = check_photos(replace(scene_with(lambda d: None), points=factor * true_points))
    assert not verdict.points_fit
    (warning,) = verdict.warnings()
    assert "points do not lie where the photos show surfaces" in warning


def test_points_of_the_photos_fit_and_a_random_cloud_does_not(scene_with, true_points):
    scene = scene_with(lambda d: None)
    assert check_photos(replace(scene, points=true_points)).points_share > 0.9
    low, high = np.percentile(true_points, [1, 99], axis=0)
    cloud = np.random.default_rng(0).uniform(low, high, (20_000, 3))
    assert not check_photos(replace(scene, points=cloud)).points_fit


# ---- where photos tell nothing --------------------------------------------------------------------------------------


def test_one_photo_or_blank_ones_are_no_evidence(tmp_path, scene_with):
    scene = scene_with(lambda d: None)
    assert check_photos(replace(scene, views=scene.views[:1])).num_pairs == 0
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"blank{i}.png"), np.full((240, 320, 3), 90, np.uint8))
    blank = tuple(replace(v, image_path=tmp_path / f"blank{i}.png") for i, v in enumerate(scene.views[:3]))
    verdict = check_photos(replace(scene, views=blank))
    assert (verdict.num_pairs, verdict.poses_fit, verdict.warnings()) == (0, True, [])
    assert "unknown" in verdict.summary()


def test_a_verdict_says_pairs_share_and_error():
    assert Verdict(7, 0.9812, 0.213).summary() == "fit the photos, 98% of the matches of 7 pairs, median error 0.2 px"


# ---- rays of distorted photos ---------------------------------------------------------------------------------------

LENSES = [
    Distortion("opencv", (-0.25, 0.06, 0.001, -0.002)),
    Distortion("opencv", (0.12, -0.05, 0.001, 0.0, 0.02, 0.1, 0.0, 0.0)),
    Distortion("opencv_fisheye", (0.02, -0.01, 0.0, 0.0)),
]


@pytest.mark.parametrize("distortion", LENSES)
def test_rays_are_those_that_the_lens_bends_onto_their_pixels(distortion):
    K = np.array([[300.0, 0, 160], [0, 310, 120], [0, 0, 1]])
    u, v = np.meshgrid(np.linspace(0, 320, 9), np.linspace(0, 240, 7))
    uv = np.stack([u.ravel(), v.ravel()], axis=1)
    rays = pinhole_rays(uv, K, distortion)
    bent = np.stack([*distort(distortion, rays[:, 0], rays[:, 1]), np.ones(len(uv))], axis=1)
    np.testing.assert_allclose((bent @ K.T)[:, :2], uv, atol=0.5)


# ---- real scenes ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fox", "kitchen", "fountain_p11", "office_table", "lego", "desk_monitors"])
def test_real_scenes_fit_and_their_faults_are_found(name, monkeypatch):
    scene = real_scene(name)
    matches = photo_matches.match_neighbours(scene.views)
    monkeypatch.setattr("lift3d_cli.scene.photo_check.match_neighbours", lambda views: matches)
    assert check_photos(scene).warnings() == []

    def with_cameras(change: Callable[[Camera], Camera]) -> Scene:
        views = tuple(replace(view, camera=change(view.camera)) for view in scene.views)
        return replace(scene, views=views, points=None)

    def twice(camera: Camera) -> Camera:
        return replace(camera, K=np.diag([2, 2, 1]) @ camera.K)

    stated = np.eye(4) if scene.format == "colmap" else FLIP
    faults = {
        " axes, not ": lambda c: replace(c, w2c=FLIP @ c.w2c),
        "the poses are ": lambda c: replace(c, w2c=stated @ c.c2w @ stated),
        "2 times as wide": twice,
        "principal point": lambda c: replace(c, K=np.array([[c.K[0, 0], 0, 0.5], [0, c.K[1, 1], 0.5], [0, 0, 1]])),
        "focal length": lambda c: replace(c, K=c.K @ np.diag([0.5, 0.5, 1])),
    }
    if name == "lego":  # at half of it too, 98 % of the matches fit within 1 px: the photos show a small thing only
        del faults["focal length"]
    for words, fault in faults.items():
        assert words in check_photos(with_cameras(fault)).cause
