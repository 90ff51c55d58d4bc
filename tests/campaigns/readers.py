"""Every reader of files that others made: a good file, and what reads it. Each may only raise `Lift3dError`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import safetensors.torch
import torch

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "scene")]
import plane_world  # noqa: E402
import scene_files  # noqa: E402
import written_depth  # noqa: E402

from lift3d_cli.cache.format import EncoderRecord, key_of  # noqa: E402
from lift3d_cli.cache.renders import FrameMaps, Render, all_renders  # noqa: E402
from lift3d_cli.cache.session import recall, remember  # noqa: E402
from lift3d_cli.cache.store import SceneCache, describe_photo  # noqa: E402
from lift3d_cli.cache.tuned import Tuning, finished_tunings  # noqa: E402
from lift3d_cli.cache.verify import verify  # noqa: E402
from lift3d_cli.cli.info import _scene_facts as scene_facts  # noqa: E402
from lift3d_cli.config import RenderConfig  # noqa: E402
from lift3d_cli.geometry.cameras import Camera  # noqa: E402
from lift3d_cli.geometry.grids import FeatureGrid  # noqa: E402
from lift3d_cli.machine.png import encode_png, read_png  # noqa: E402
from lift3d_cli.models.base import ModelSpec  # noqa: E402
from lift3d_cli.models.pretrained import read_state  # noqa: E402
from lift3d_cli.models.registry import find_model  # noqa: E402
from lift3d_cli.pipeline.renderers import make_renderer  # noqa: E402
from lift3d_cli.scene.bounds import depth_range  # noqa: E402
from lift3d_cli.scene.depth_formats import read_stored_depth  # noqa: E402
from lift3d_cli.scene.load import load_scene  # noqa: E402
from lift3d_cli.scene.mesh import draw_depth  # noqa: E402
from lift3d_cli.scene.paths import read_poses  # noqa: E402
from lift3d_cli.scene.photos import read_photo  # noqa: E402
from lift3d_cli.weights import find_weights  # noqa: E402

SIZE = (12, 8)
W2CS = [scene_files.look_at((x, 0, -4)) for x in (-1, 0, 1)]
KEY = "ab" * 32


@dataclass(frozen=True)
class Reader:
    """A way to read a file.

    Args:
        path: the file to spoil.
        read: reads it, and looks at the result as the commands do.
        is_json: its values are worth spoiling.
    """

    path: Path
    read: Callable[[], object]
    is_json: bool = False


def readers(folder: Path) -> dict[str, Reader]:
    """Write a good file for each reader into a folder of its own."""
    found: dict[str, Reader] = {}
    for make in (_photos, _scenes, _depths, _meshes, _paths, _cache, _models):
        made = make(folder / make.__name__.strip("_"))
        found |= made
    return found


def read_scene(path: Path) -> None:
    """Read a scene, and use it as `info`, `path` and `render` do."""
    scene = load_scene(path)
    scene_facts(scene)
    for view in scene.views[:3]:
        depth_range(view.camera, scene.points, scene.views)
        if view.depth_file is not None:
            read_stored_depth(view.depth_file.path)
        read_photo(view)


def _photos(folder: Path) -> dict[str, Reader]:
    found = {}
    for suffix in ("png", "jpg", "webp", "tiff", "bmp"):
        root = folder / suffix
        scene_files.write_transforms(root, [scene_files.frame(f"a.{suffix}")], w=12, h=8, fl_x=20.0)
        found[f"photo-{suffix}"] = Reader(root / f"a.{suffix}", lambda root=root: read_scene(root))
    root = folder / "mask"
    scene_files.write_transforms(root, [scene_files.frame("a.png", mask_path="m.png")], w=12, h=8, fl_x=20.0)
    scene_files.write_photo(root / "m.png", channels=1)
    return {**found, "mask": Reader(root / "m.png", lambda: read_scene(root))}


def _scenes(folder: Path) -> dict[str, Reader]:
    names = [f"{name}.png" for name in "abc"]
    frames = [scene_files.frame(f"images/{name}", w2c) for name, w2c in zip(names, W2CS, strict=True)]
    more = {"camera_angle_x": 0.6, "k1": 0.1, "camera_model": "OPENCV", "ply_file_path": "points.ply", "w": 12, "h": 8}
    path = folder / "nerfstudio" / "transforms.json"
    scene_files.write_transforms(path.parent, frames, **more)
    xyz = np.random.default_rng(0).normal(size=(30, 3))
    plane_world.write_points(path.parent / "points.ply", xyz)
    blender = folder / "blender"
    scene_files.write_transforms(blender, frames, name="transforms_train.json", camera_angle_x=0.6)
    llff = folder / "llff"
    scene_files.write_llff(llff, [scene_files.llff_row(w2c) for w2c in W2CS], photos=3)
    found = {
        "transforms": Reader(path, lambda: read_scene(path.parent), is_json=True),
        "ply": Reader(path.parent / "points.ply", lambda: read_scene(path.parent)),
        "blender": Reader(blender / "transforms_train.json", lambda: read_scene(blender), is_json=True),
        "llff": Reader(llff / "poses_bounds.npy", lambda: read_scene(llff)),
    }
    for kind in ("bin", "txt"):
        root = folder / f"colmap-{kind}"
        keypoints = [(u, u, u) for u in range(8)]
        images = [(name, (1, 0, 0, 0), (x, 0, 4), keypoints) for x, name in enumerate(names)]
        points = [(i, tuple(each), 0.5, 3) for i, each in enumerate(xyz)]
        scene_files.write_colmap(root, images, points=points, binary=kind == "bin")
        for stem in ("cameras", "images", "points3D"):
            (file,) = root.rglob(f"{stem}.{kind}")
            found[f"colmap-{stem}-{kind}"] = Reader(file, lambda root=root: read_scene(root))
    return found


def _depths(folder: Path) -> dict[str, Reader]:
    found = {}
    folder.mkdir(parents=True)
    for suffix in (".npy", ".npz", ".exr", ".tiff", ".pfm", ".png", ".geometric.bin"):
        path = written_depth.write_depth(folder / f"a{suffix}")
        found[f"depth{suffix.replace('.', '-')}"] = Reader(path, lambda path=path: read_stored_depth(path))
    return found


def _meshes(folder: Path) -> dict[str, Reader]:
    if not (find_spec("embreex") and find_spec("trimesh")):
        return {}
    found = {}
    folder.mkdir(parents=True)
    camera = Camera(np.array([[12.0, 0, 6], [0, 12, 4], [0, 0, 1]]), W2CS[1], *SIZE)
    for name in ("a.obj", "a.ply", "binary.ply"):
        path = written_depth.write_square(folder / name)
        if name == "binary.ply":
            import trimesh

            path.write_bytes(trimesh.load(path, process=False).export(file_type="ply"))
        found[f"mesh-{name.replace('.', '-')}"] = Reader(path, lambda path=path: draw_depth(path, camera))
    return found


def _paths(folder: Path) -> dict[str, Reader]:
    c2w, flipped = np.eye(4).tolist(), scene_files.opengl_c2w(np.eye(4))
    lens = {"w": 64, "h": 48, "fx": 50.0, "fy": 50.0, "cx": 32.0, "cy": 24.0}
    documents = {
        "path": {"format": "lift3d-path", "version": 1, "fps": 24.0, "poses": [{"name": "a", **lens, "c2w": c2w}] * 1},
        "path-nerfstudio": {
            "render_width": 64, "render_height": 48, "fps": 24, "camera_type": "perspective",
            "camera_path": [{"camera_to_world": [x for row in flipped for x in row], "fov": 50, "aspect": 1.3}],
        },
        "path-transforms": {"w": 64, "h": 48, "fl_x": 50.0, "frames": [scene_files.frame("a.png")]},
    }  # fmt: skip
    folder.mkdir(parents=True)
    for name, document in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(document))
    paths = {name: folder / f"{name}.json" for name in documents}
    return {name: Reader(path, lambda path=path: read_poses(path), is_json=True) for name, path in paths.items()}


def _cache(folder: Path) -> dict[str, Reader]:
    cache = SceneCache(folder / "cache")
    encoder = EncoderRecord("tiny", "tiny", "fp16", {"weights": "ab", "max_size": None, "seed": 0}, {"channels": 2})
    scene_files.write_photo(folder / "a.png")
    photo = describe_photo("a.png", folder / "a.png", np.eye(3), *SIZE)
    data, grid = torch.rand(2, 2, 3), FeatureGrid.from_stride(*SIZE, 4)
    cache.write_features(encoder, photo, data, grid)
    cache.write_arrays("points", KEY, {"xyz": np.zeros((30, 3))})
    cache.write_photo(photo, np.zeros((8, 12, 3), np.uint8), *np.ones((2, 8, 12), bool))
    facts = {"scene": str(folder), "fps": 24.0, "names": ["a"]}
    content = {"frames": 1, "dtype": "fp32", "cameras": [], "views": 8, "version": "1", "renderer": {}, "choices": []}
    render = Render.create(cache.root / "renders" / "a-1", content, facts)
    render.color_path(0).parent.mkdir()
    render.color_path(0).write_bytes(encode_png(np.zeros((8, 12, 3), np.uint8)))
    seen = torch.ones(8, 12, dtype=torch.uint8)
    render.write_maps(0, FrameMaps(torch.rand(8, 12), seen, seen.clone(), [0]))
    tuning = Tuning.of(cache.root, {"photos": key_of("a", {}), "weights": "b", "settings": {}})
    tuning.finish({"share": 1})
    remember(folder, render=render.root, folder=folder)

    def read_render() -> None:
        all_renders(cache.root)
        opened = Render.open(render.root)
        _ = opened.cameras, opened.names, opened.fps, opened.missing(), opened.feature_renders()

    files = {
        "cache-features": (cache.features_path(encoder, photo), lambda: cache.read_features(encoder, photo)),
        "cache-points": (cache.array_paths("points")[0], lambda: cache.read_arrays("points", KEY)),
        "cache-photo": (cache.photo_path(photo), lambda: cache.read_photo(photo)),
        "cache-frame": (render.frame_path(0), lambda: render.read_maps(0)),
        "cache-colour": (render.color_path(0), lambda: read_png(render.color_path(0))),
        "cache-encoder": (cache.features_dir(encoder) / "encoder.json", lambda: cache.encoders(strict=True)),
        "cache-manifest": (render.root / "manifest.json", read_render),
        "cache-tuned": (tuning.root / "tuned.json", lambda: (tuning.facts(), finished_tunings(cache.root))),
        "session": (folder / ".lift3d.json", lambda: recall(folder)),
    }

    def also_verified(read: Callable) -> Callable[[], None]:
        def both() -> None:
            verify(cache.root)
            read()

        return both

    return {n: Reader(path, also_verified(read), path.suffix == ".json") for n, (path, read) in files.items()}


def _models(folder: Path) -> dict[str, Reader]:
    folder.mkdir(parents=True)
    weights, state = folder / "weights.safetensors", {"a.weight": torch.rand(3, 4)}
    weights.write_bytes(find_weights("lift3d.safetensors").read_bytes())
    safetensors.torch.save_file(state, folder / "state.safetensors")
    torch.save(state, folder / "state.pt")
    torch.save({"a": torch.rand(2, 2, 3)}, folder / "map.pt")
    (folder / "reference.txt").write_text("maps:FOLDER?stride=4&fit=pad")
    spec = ModelSpec(name="any", channels=1, stride=1, tasks=("features",), version="1", license="MIT")
    found = {
        "weights": Reader(weights, lambda: make_renderer(RenderConfig(weights=str(weights)))),
        "reference": Reader(folder / "reference.txt", lambda: find_model(_text(folder / "reference.txt"))),
    }
    for suffix in ("safetensors", "pt"):
        path = folder / f"state.{suffix}"
        found[f"state-{suffix}"] = Reader(path, lambda path=path: read_state(spec, path))
    image = torch.rand(3, 8, 12)
    for suffix, content in (("npy", None), ("pt", torch.rand(2, 2, 3)), ("safetensors", torch.rand(2, 2, 3))):
        root = folder / f"maps-{suffix}"
        root.mkdir()
        path = root / f"a.{suffix}"
        if suffix == "npy":
            np.save(path, np.zeros((2, 2, 3), np.float32))
        elif suffix == "pt":
            torch.save(content, path)
        else:
            safetensors.torch.save_file({"features": content}, path)

        def encode(root: Path = root) -> None:
            find_model(f"maps:{root}?stride=4").load().checked_encode(image, "a.png")

        found[f"map-{suffix}"] = Reader(path, encode)
    return found


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="surrogateescape")


def white(path: Path) -> None:
    """Write a white picture, for tests that need another one."""
    cv2.imwrite(str(path), np.full((*SIZE[::-1], 3), 255, np.uint8))
