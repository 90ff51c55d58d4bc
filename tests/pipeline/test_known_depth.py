"""Depth that photos come with: what it means is found out, what contradicts the photos is said and not used."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from lift3d_cli.cache.store import SceneCache
from lift3d_cli.errors import SceneError
from lift3d_cli.pipeline import known_depth
from lift3d_cli.pipeline.held_out import HeldOutPhotos
from lift3d_cli.pipeline.workspace import ResizedWorkspace, Workspace
from lift3d_cli.procedural import ProceduralScene
from lift3d_cli.scene.depth_files import with_depth_from
from lift3d_cli.scene.depth_maps import DEPTH_KINDS, ray_lengths
from lift3d_cli.scene.depth_photometry import agreement_by_photos
from lift3d_cli.scene.fields import OPENCV_FROM_OPENGL
from lift3d_cli.scene.load import load_scene

VIEWS, WIDTH, HEIGHT = 8, 200, 150


@pytest.fixture(scope="module")
def captured(tmp_path_factory):
    """A folder of photos of a procedural scene with poses, its cameras and exact depth; 0 where there is nothing."""
    root = tmp_path_factory.mktemp("procedural") / "scene"
    made = ProceduralScene.random(3, "arc")
    cameras = made.rig(VIEWS, WIDTH, HEIGHT, 3)
    frames, depths = [], []
    (root / "images").mkdir(parents=True)
    for number, camera in enumerate(cameras):
        image, depth = (tensor.numpy() for tensor in made.render(camera))
        pixels = (image.transpose(1, 2, 0)[..., ::-1] * 255).round().astype(np.uint8)
        assert cv2.imwrite(str(root / f"images/{number:02d}.png"), pixels)
        c2w = camera.c2w
        c2w[:3, :3] = c2w[:3, :3] @ OPENCV_FROM_OPENGL
        frames.append({"file_path": f"images/{number:02d}.png", "transform_matrix": c2w.tolist()})
        depths.append(np.where(np.isfinite(depth), depth, 0).astype(np.float32))
    K = cameras[0].K
    lens = {"w": WIDTH, "h": HEIGHT, "fl_x": K[0, 0], "fl_y": K[1, 1], "cx": K[0, 2], "cy": K[1, 2]}
    (root / "transforms.json").write_text(json.dumps({**lens, "frames": frames}))
    Workspace(load_scene(root), SceneCache(root / ".lift3d")).points()
    return root, cameras, depths


@pytest.fixture
def scene(captured, tmp_path):
    """A copy that a test may change, the exact depths, and a function that makes a workspace with maps handed in."""
    root, cameras, depths = captured
    shutil.copytree(root, tmp_path / "scene")

    def workspace(maps: dict[int, np.ndarray] | list[np.ndarray], folder: str = "maps") -> Workspace:
        for number, values in maps.items() if isinstance(maps, dict) else enumerate(maps):
            (tmp_path / folder).mkdir(exist_ok=True)
            np.save(tmp_path / folder / f"{number:02d}.npy", values)
        loaded = with_depth_from(load_scene(tmp_path / "scene"), tmp_path / folder)
        return Workspace(loaded, SceneCache(tmp_path / "scene/.lift3d"))

    return workspace, cameras, depths


def stored_as(kind: str, depth: np.ndarray, camera) -> np.ndarray:
    if kind == "inverse depth":
        return np.divide(1, depth, out=np.zeros_like(depth), where=depth > 0)
    return (depth * (ray_lengths(camera, depth.shape) if kind == "distance" else 1)).astype(np.float32)


def error(workspace: Workspace, index: int, depth: np.ndarray) -> float:
    """The largest relative error of known depth, where all that is known must be."""
    found = workspace.known_depth(index).depth
    np.testing.assert_array_equal(found > 0, depth > 0)
    return float(np.abs(found / np.where(depth > 0, depth, np.inf) - (depth > 0)).max())


@pytest.fixture(params=["points", "photos"])
def judged_by(request, monkeypatch):
    """By the scene's points, and as if there were too few of them."""
    if request.param == "photos":
        monkeypatch.setattr(known_depth, "MIN_POINTS", 10**9)
    return request.param


@pytest.mark.parametrize("kind", DEPTH_KINDS)
def test_kind_is_found_and_what_is_declared_is_kept(scene, judged_by, kind):
    workspace, cameras, depths = scene
    there = workspace([stored_as(kind, z, camera) for z, camera in zip(depths, cameras, strict=True)])
    assert max(error(there, i, depths[i]) for i in range(VIEWS)) < 1e-5
    assert len(there.depth_warnings()) == (kind != "z-depth")


@pytest.mark.parametrize("scale", [0.001, 0.37, 25.0])
@pytest.mark.parametrize("kind", DEPTH_KINDS)
def test_scale_is_found(scene, judged_by, kind, scale):
    workspace, cameras, depths = scene
    maps = [np.float32(scale) * stored_as(kind, z, camera) for z, camera in zip(depths, cameras, strict=True)]
    there = workspace(maps)
    assert max(error(there, i, depths[i]) for i in range(VIEWS)) < 0.01
    (warning,) = there.depth_warnings()
    formula = r"z-depth = \S+ / value" if kind == "inverse depth" else rf"{kind} = \S+ \* value"
    assert re.search(rf"maps: the photos say that {formula} here", warning)


def test_noise_and_holes_of_a_sensor_are_no_contradiction(scene, judged_by):
    workspace, _, depths = scene
    rng = np.random.default_rng(0)
    maps = [z * rng.normal(1, 0.01, z.shape) * (rng.random(z.shape) > 0.3) for z in depths]
    there = workspace([m.astype(np.float32) for m in maps])
    assert there.depth_warnings() == ()
    assert all(there.depth_key(i) for i in range(VIEWS))


@pytest.mark.parametrize("what", ["of another photo", "of another scale", "noise", "flipped"])
def test_one_map_that_contradicts_is_said_and_not_used(scene, judged_by, what):
    if judged_by == "photos" and what in ("of another photo", "flipped"):
        pytest.skip("half of such a map shows the same ground, which photos alone do not hold against it")
    workspace, _, depths = scene
    bad = {
        "of another photo": depths[7],
        "of another scale": depths[2] * 1.3,
        "noise": np.random.default_rng(0).uniform(1, 6, depths[2].shape).astype(np.float32),
        "flipped": depths[2][:, ::-1],
    }[what]
    there = workspace([bad if i == 2 else z for i, z in enumerate(depths)])
    assert [there.known_depth(i) is None for i in range(VIEWS)] == [i == 2 for i in range(VIEWS)]
    assert there.depth_key(2) == ""
    (warning,) = there.depth_warnings()
    assert "maps/02.npy: contradicts the photos" in warning
    assert "images/02.png is used without its depth" in warning


def test_folder_in_which_all_contradict_is_one_line(scene, judged_by):
    workspace, _, depths = scene
    rng = np.random.default_rng(0)
    there = workspace([rng.uniform(1, 6, z.shape).astype(np.float32) for z in depths])
    with pytest.raises(SceneError, match=r"maps: none of the 8 depth maps agrees with the photos.*hint: ") as raised:
        there.depth_warnings()
    assert "\n" not in str(raised.value)


def test_photos_from_nearly_one_place_do_not_contradict():
    at, off = np.array([0.95, 0.95, 0.8, 0.2, np.nan]), np.array([0.94, 0.5, 0.95, 0.2, np.nan])
    expected = [np.nan, 1, 0, 0, np.nan]  # nothing can be told; right; another scale is better; noise; no texture
    np.testing.assert_array_equal(agreement_by_photos(at, off), expected)


def test_folder_that_nobody_named_is_passed_over_with_a_warning(scene):
    workspace, _, depths = scene
    rng = np.random.default_rng(0)
    there = workspace([rng.uniform(1, 6, z.shape).astype(np.float32) for z in depths])
    views = [replace(view, depth_file=replace(view.depth_file, is_found=True)) for view in there.scene.views]
    there = Workspace(replace(there.scene, views=tuple(views)), there.cache)
    assert [there.known_depth(i) for i in range(VIEWS)] == [None] * VIEWS
    (warning,) = there.depth_warnings()
    assert warning.endswith("it is not used")


def test_depth_of_networks_for_single_photos_is_refused_by_name(scene):
    workspace, _, depths = scene
    rng = np.random.default_rng(0)
    maps = [np.where(z > 0, rng.uniform(1, 9) / np.maximum(z, 1e-3) + rng.uniform(1, 5), 0) for z in depths]
    with pytest.raises(SceneError, match=r"the scale and shift of each depth map are its own.*hint"):
        workspace([m.astype(np.float32) for m in maps]).depth_warnings()


def test_photos_without_a_map_have_no_depth_and_no_key(scene):
    workspace, _, depths = scene
    there = workspace({1: depths[1], 4: depths[4]})
    assert [there.known_depth(i) is not None for i in range(VIEWS)] == [i in (1, 4) for i in range(VIEWS)]
    assert [bool(there.depth_key(i)) for i in range(VIEWS)] == [i in (1, 4) for i in range(VIEWS)]


def test_map_of_another_size_keeps_its_own(scene):
    workspace, _, depths = scene
    there = workspace([z[1::2, 1::2] for z in depths])
    assert there.known_depth(0).depth.shape == (HEIGHT // 2, WIDTH // 2)
    assert there.depth_warnings() == ()


def test_key_follows_the_file_and_its_meaning(scene):
    workspace, _, depths = scene
    first, again = workspace(depths), workspace(depths)
    keys = [first.depth_key(i) for i in range(VIEWS)]
    assert keys == [again.depth_key(i) for i in range(VIEWS)]
    assert len(set(keys)) == VIEWS
    changed = depths[0].copy()
    changed[0, 0] = 0
    other = workspace([changed, *depths[1:]])
    assert [other.depth_key(i) == keys[i] for i in range(VIEWS)] == [i != 0 for i in range(VIEWS)]
    scaled = workspace([2 * z for z in depths])
    assert not {scaled.depth_key(i) for i in range(VIEWS)} & set(keys)


def test_judgement_is_kept_in_the_cache(scene, monkeypatch):
    workspace, _, depths = scene
    bad = [z[:, ::-1] if i == 2 else 2 * z for i, z in enumerate(depths)]
    first = workspace(bad)
    expected = first.depth_warnings(), [first.depth_key(i) for i in range(VIEWS)]
    monkeypatch.setattr(known_depth, "gather_evidence", None)
    again = workspace(bad)
    assert (again.depth_warnings(), [again.depth_key(i) for i in range(VIEWS)]) == expected


def test_left_out_photos_give_no_depth_and_judge_none(scene, monkeypatch):
    workspace, _, depths = scene
    loaded = workspace([np.full_like(z, 3) if i % 4 == 0 else z for i, z in enumerate(depths)]).scene
    looked_at, real = [], known_depth.read_depth_map
    monkeypatch.setattr(known_depth, "read_depth_map", lambda view: looked_at.append(view.name) or real(view))
    photos = HeldOutPhotos(loaded, height=75, every=4)
    assert photos.depth_warnings() == ()
    assert [photos.known_depth(i) is None for i in range(VIEWS)] == [i % 4 == 0 for i in range(VIEWS)]
    assert not {"images/00.png", "images/04.png"} & set(looked_at)


def test_resized_photos_have_the_depth_of_the_full_ones(scene):
    workspace, _, depths = scene
    full = workspace(depths)
    small = ResizedWorkspace(full.scene, 60, keep=2)
    np.testing.assert_array_equal(small.known_depth(1).depth, full.known_depth(1).depth)
    assert small.depth_key(1) == full.depth_key(1)


def test_depth_of_a_scene_that_tells_nothing_is_taken_as_declared(tmp_path):
    assert cv2.imwrite(str(tmp_path / "a.png"), np.full((8, 12, 3), 100, np.uint8))
    np.save(tmp_path / "a.npy", np.full((8, 12), 2.0))
    frame = {"file_path": "a.png", "transform_matrix": np.eye(4).tolist(), "depth_file_path": "a.npy"}
    (tmp_path / "transforms.json").write_text(json.dumps({"fl_x": 20.0, "frames": [frame]}))
    there = Workspace(load_scene(tmp_path), None)
    np.testing.assert_array_equal(there.known_depth(0).depth, 2.0)
    assert there.depth_warnings() == ()


def test_mesh_gives_depth_and_one_elsewhere_is_refused(scene, tmp_path):
    pytest.importorskip("embreex")
    pytest.importorskip("trimesh")
    workspace, cameras, depths = scene
    loaded = workspace(depths).scene
    for name, scale in (("right.ply", 1.0), ("wrong.ply", 1.5)):
        write_relief(tmp_path / name, cameras[0], depths[0], scale)
    right = Workspace(with_depth_from(loaded, mesh=tmp_path / "right.ply"), None)
    assert right.known_depth(0) is not None
    close = np.abs(right.known_depth(0).depth / np.maximum(depths[0], 1e-3) - 1) < 0.01
    assert close.mean() > 0.9
    with pytest.raises(SceneError, match=r"wrong\.ply: does not lie where the photos show surfaces\. hint"):
        Workspace(with_depth_from(loaded, mesh=tmp_path / "wrong.ply"), None).depth_warnings()


def write_relief(path: Path, camera, depth: np.ndarray, scale: float) -> None:
    """The surface that a depth map shows, as a mesh with a vertex a pixel, in a world of another scale."""
    v, u = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(camera.K).T @ camera.w2c[:3, :3]
    xyz = scale * (camera.position + rays * depth[..., None]).reshape(-1, 3)
    index = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    a, b, c, d = (index[y : HEIGHT - 1 + y, x : WIDTH - 1 + x].ravel() for y in (0, 1) for x in (0, 1))
    faces = np.concatenate([np.stack([a, b, d], 1), np.stack([a, d, c], 1)])
    whole = (depth.ravel()[faces] > 0).all(axis=1)
    head = ["ply", "format ascii 1.0", f"element vertex {len(xyz)}", *(f"property float {axis}" for axis in "xyz")]
    head += [f"element face {whole.sum()}", "property list uchar int vertex_indices", "end_header"]
    rows = [" ".join(map(str, row)) for row in xyz.tolist()]
    rows += [f"3 {i} {j} {k}" for i, j, k in faces[whole].tolist()]
    path.write_text("\n".join([*head, *rows]) + "\n")
