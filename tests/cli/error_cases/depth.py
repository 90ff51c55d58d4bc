"""Depth files and meshes that cannot be used."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from commands import Run

from error_cases.cases import Cases, edit_json

case = Cases()


def write_maps() -> None:
    """A map for each of the four photos, of noise."""
    Path("maps").mkdir()
    for number in range(4):
        values = np.random.default_rng(number).uniform(1, 9, (72, 96)).astype(np.float32)
        np.save(f"maps/{number:02d}.npy", values)


@case
def depth_folder_is_not_there(run: Run):
    return ["encode", "scene", "--model", "rgb", "--depth", "maps"]


@case
def depth_folder_has_no_file_of_a_photo(run: Run):
    Path("maps").mkdir()
    np.save("maps/other.npy", np.ones((72, 96)))
    return ["encode", "scene", "--model", "rgb", "--depth", "maps"]


@case
def depth_file_is_cut_off(run: Run):
    write_maps()
    path = Path("maps/02.npy")
    path.write_bytes(path.read_bytes()[:3000])
    return ["encode", "scene", "--model", "rgb", "--depth", "maps"]


@case
def depth_file_has_another_shape(run: Run):
    write_maps()
    np.save("maps/02.npy", np.ones((72, 72)))
    return ["render", "--depth", "maps"]


@case
def depth_file_is_a_picture(run: Run):
    Path("maps").mkdir()
    assert cv2.imwrite("maps/02.png", np.full((72, 96), 100, np.uint8))
    edit_json(Path("scene/transforms.json"), lambda data: data["frames"][2].update(depth_file_path="../maps/02.png"))
    return ["encode", "scene", "--model", "rgb"]


@case
def depth_contradicts_the_photos(run: Run):
    write_maps()
    return ["eval", "scene", "--every", "2", "--depth", "maps"]


@case
def mesh_is_not_there(run: Run):
    return ["render", "--mesh", "mesh.ply"]


@case
def mesh_is_of_another_format(run: Run):
    Path("mesh.glb").write_bytes(b"glTF")
    return ["encode", "scene", "--model", "rgb", "--mesh", "mesh.glb"]
