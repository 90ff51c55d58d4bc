"""Reader of LLFF scenes: `poses_bounds.npy` beside `images`, `images_4`, ..."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lift3d_cli.errors import SceneError
from lift3d_cli.scene.assemble import SceneBuilder
from lift3d_cli.scene.fields import w2c_from_c2w
from lift3d_cli.scene.lens import Intrinsics
from lift3d_cli.scene.photo_files import list_photos, photo_folders
from lift3d_cli.scene.scene import Scene

POSES_FILE = "poses_bounds.npy"
# 136 bytes a photo.
_MAX_BYTES = 2**30


def load_llff(root: Path) -> Scene:
    """Read an LLFF scene; poses are in the order of the photos' names.

    Raises:
        SceneError: if the file is broken or no folder has as many photos as it has poses.
    """
    path = root / POSES_FILE
    table = _read_table(path)
    photos = _matching_photos(root, len(table))
    builder = SceneBuilder(root, path, "llff")
    for row, photo in zip(table, photos, strict=True):
        where = f"{path}: view {photo.name}"
        matrix = row[:15].reshape(3, 5)
        height, width, focal = matrix[:, 4]
        near, far = row[15:]
        if not np.isfinite(row[:15]).all():
            raise SceneError(f"{where}: the pose has a NaN or infinite number")
        is_range = 0 < near < far < np.inf
        if not is_range:
            builder.note("photos have depth bounds that are not 0 < near < far; they are not used", photo.name)
        # The columns are the camera's down, right and backwards axes.
        c2w = np.stack([matrix[:, 1], matrix[:, 0], -matrix[:, 2], matrix[:, 3]], axis=1)
        lens = Intrinsics(focal, focal, width / 2, height / 2, width, height)
        depth_range = (float(near), float(far)) if is_range else None
        builder.add(photo.name, photo, lens, w2c_from_c2w(c2w, where), depth_range=depth_range)
    return builder.scene()


def _read_table(path: Path) -> np.ndarray:  # [V, 17]: 3x5 [R | t | height, width, focal] and near, far
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("it is too large")
        table = np.load(path, allow_pickle=False)
    except Exception as e:  # numpy parses the header as Python source and passes on any error of that
        raise SceneError(f"{path}: cannot be read as a numpy array ({e})") from e
    if not isinstance(table, np.ndarray) or table.ndim != 2 or table.shape[1] != 17 or not len(table):
        shape = getattr(table, "shape", None)
        raise SceneError(f"{path}: has shape {shape}, needs (photos, 17). hint: write it again with LLFF's imgs2poses")
    try:
        return table.astype(np.float64)
    except (TypeError, ValueError) as e:
        raise SceneError(f"{path}: does not hold numbers ({e})") from e


def _matching_photos(root: Path, count: int) -> list[Path]:
    """List the photos of the least reduced folder (images, images_2, ...) that has one per pose."""
    found = []
    for folder in photo_folders(root):
        # LLFF pairs them in the order of the bytes, in which image_10 comes before image_2.
        photos = sorted(list_photos(folder), key=lambda photo: photo.name)
        if len(photos) == count:
            return photos
        if photos:
            found.append(f"{folder.name}/ has {len(photos)}")
    what = ", ".join(found) or "there are no photos in images/, images_2/, ..."
    raise SceneError(
        f"{root / POSES_FILE}: has {count} poses, but {what}. "
        "hint: poses and photos must be the same, in the order of the names"
    )
