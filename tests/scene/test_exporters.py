"""Each row of the table of exporters in docs/scenes.md: a tiny file as that program leaves it."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import pytest
from scene_files import frame, llff_row, look_at, quaternion, write_colmap, write_llff, write_photo, write_transforms

from lift3d_cli.errors import SceneError
from lift3d_cli.scene.load import load_scene

DOCS = Path(__file__).parents[2] / "docs" / "scenes.md"
POSES = [look_at((0.4 * i, 0.1, -4.0)) for i in range(3)]
ZERO = dict.fromkeys(("k1", "k2", "k3", "k4", "p1", "p2"), 0.0)
APPLIED = [[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0]]


def transforms(root: Path, pattern: str, name="transforms.json", **keys) -> None:
    frames = [frame(pattern.format(i), w2c) for i, w2c in enumerate(POSES)]
    write_transforms(root, frames, name, **keys)


def colmap(root: Path, folder="sparse/0", photos="images", name="{}.png", **more) -> None:
    images = [(name.format(i), quaternion(w[:3, :3]), tuple(w[:3, 3]), []) for i, w in enumerate(POSES)]
    write_colmap(root, images, folder=folder, photos=photos, **more)


def colmap_rigs(root: Path) -> None:
    colmap(root, name="rig1/camera{}/0.png")
    # Of no use here, as images.bin has each photo's own pose: one rig with a sensor, and no frame.
    (root / "sparse/0/rigs.bin").write_bytes(struct.pack("<QIIii", 1, 1, 1, 0, 7))
    (root / "sparse/0/frames.bin").write_bytes(struct.pack("<Q", 0))


def nerfstudio(root: Path) -> None:
    lens = {"w": 12, "h": 8, "fl_x": 20.0, "fl_y": 20.0, "cx": 6.0, "cy": 4.0, "camera_model": "OPENCV"}
    frames = [frame(f"images/frame_0000{i}.png", w2c, colmap_im_id=i) for i, w2c in enumerate(POSES)]
    (root / "sparse_pc.ply").write_bytes(b"ply\nformat ascii 1.0\nelement vertex 0\nproperty float x\nend_header\n")
    write_transforms(root, frames, **lens, **ZERO, applied_transform=APPLIED, ply_file_path="sparse_pc.ply")


def instant_ngp(root: Path) -> None:
    lens = {"camera_angle_x": 2 * np.arctan(0.3), "camera_angle_y": 2 * np.arctan(0.2), "fl_x": 20.0, "fl_y": 20.0}
    more = {"is_fisheye": False, "cx": 6.0, "cy": 4.0, "w": 12.0, "h": 8.0, "aabb_scale": 32}
    frames = [frame(f"./images/{i}.png", w2c, sharpness=30.0) for i, w2c in enumerate(POSES)]
    write_transforms(root, frames, **lens, **more, **ZERO)


def own_lens_per_frame(root: Path) -> None:
    lens = {"fl_x": 20.0, "fl_y": 20.0, "cx": 6.0, "cy": 4.0, "w": 12, "h": 8}
    frames = [frame(f"./keyframes/images/{i}.png", w2c, **lens) for i, w2c in enumerate(POSES)]
    write_transforms(root, frames, camera_model="OPENCV", applied_scale=0.5, applied_transform=APPLIED)


def metashape(root: Path) -> None:
    lens = {"w": 12, "h": 8, "fl_x": 20.0, "fl_y": 20.0, "cx": 6.0, "cy": 4.0, "k1": 0.01, "k2": 0, "k3": 0, "k4": 0}
    transforms(root, "images/frame_0000{}.png", camera_model="OPENCV", **lens, p1=0, p2=0)


def blender(root: Path) -> None:
    transforms(root, "./train/r_{}", "transforms_train.json", camera_angle_x=0.69)
    write_transforms(root, [], "transforms_test.json", camera_angle_x=0.69)


def llff(root: Path) -> None:
    write_llff(root, [llff_row(w2c) for w2c in POSES], photos=3)


def feed_forward(root: Path) -> None:
    colmap(root, "sparse/0", binary=False)
    (root / "sparse/0/points3D.txt").write_text("")
    path = root / "sparse/0/images.txt"  # some of these scripts leave the lines of keypoints out
    path.write_text("\n".join(line for line in path.read_text().splitlines() if line) + "\n")


EXPORTERS = {
    "COLMAP 3.x": colmap,
    "COLMAP 4.x": colmap_rigs,
    "GLOMAP": lambda root: colmap(root, "sparse/0"),
    "nerfstudio": nerfstudio,
    "instant-ngp": instant_ngp,
    "Metashape": metashape,
    "RealityCapture": lambda root: transforms(root, "images/frame_0000{}.png", fl_x=20.0, w=12, h=8, **ZERO),
    "Polycam": own_lens_per_frame,
    "Record3D": lambda root: transforms(root, "images/frame_0000{}.png", fl_x=20.0, w=12, h=8, camera_model="OPENCV"),
    "Luma": own_lens_per_frame,
    "ARKit apps": own_lens_per_frame,
    "Blender add-ons": blender,
    "LLFF": llff,
    "VGGT, DA3, MASt3R": feed_forward,
}


@pytest.mark.parametrize("name", EXPORTERS)
def test_exporter(tmp_path, name):
    EXPORTERS[name](tmp_path)
    scene = load_scene(tmp_path)
    assert len(scene.views) == 3
    for view, w2c in zip(scene.views, POSES, strict=True):
        np.testing.assert_allclose(view.camera.w2c, w2c, atol=1e-9)
        assert view.camera.K[0, 0] == pytest.approx(20, rel=0.2)


def test_table_has_a_row_for_each():
    section = DOCS.read_text().partition("## What programs write")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+?) \| ", section, re.MULTILINE)
    assert rows[0] == "program"
    assert rows[1:] == list(EXPORTERS)


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("keyframes/cameras/1.json", "polycam"),
        ("a.r3d", "record3d"),
        ("a.xml", "metashape"),
        ("a.csv", "realitycapture"),
    ],
)
def test_raw_export_says_how_it_is_converted(tmp_path, file, told):
    write_photo(tmp_path / "images/a.png")
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text("x")
    with pytest.raises(SceneError, match=f"hint: ns-process-data {told} makes a"):
        load_scene(tmp_path)
