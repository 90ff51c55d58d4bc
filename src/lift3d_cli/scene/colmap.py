"""Reader of COLMAP models: `sparse/0` (or `sparse`, `colmap/sparse/0`) beside a folder of photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lift3d_cli.errors import SceneError
from lift3d_cli.scene.assemble import Intrinsics, SceneBuilder
from lift3d_cli.scene.colmap_files import ColmapCamera, ColmapPoints, read_cameras, read_images, read_points
from lift3d_cli.scene.distortion import distortion_from_coeffs
from lift3d_cli.scene.scene import Scene

MODEL_FOLDERS = ("sparse/0", "sparse", "colmap/sparse/0")
PHOTO_FOLDERS = ("images", "images_2", "images_4", "images_8")
# A point seen by only two photos is often a wrong match, and one that is off by pixels is not on a surface.
_MIN_TRACK_LENGTH = 3
_MAX_ERROR_PX = 3.0
# The filter is for dense models. With fewer points than this, doubtful ones are better than none.
_ENOUGH_POINTS = 500


def find_colmap_model(root: Path) -> Path | None:
    """Find the folder of the COLMAP model inside a scene; None without one."""
    for folder in MODEL_FOLDERS:
        if any((root / folder / f"images{suffix}").is_file() for suffix in (".bin", ".txt")):
            return root / folder
    return None


def load_colmap(root: Path) -> Scene:
    """Read a COLMAP scene. Photos of another size than their camera count as resized: K is scaled.

    Raises:
        SceneError: if a file is broken, a camera model unknown, or no photo exists.
    """
    model = find_colmap_model(root)
    if model is None:
        raise SceneError(f"{root}: has no COLMAP model. hint: looked for images.bin in {_listed(MODEL_FOLDERS)}")
    folder = _photo_folder(root)
    cameras = read_cameras(model)
    builder = SceneBuilder(root, model, "colmap")
    for image in read_images(model):
        if image.camera_id not in cameras:
            raise SceneError(f"{model}: {image.name} has camera {image.camera_id}, which is not in cameras")
        photo = folder / image.name
        intrinsics = _intrinsics(cameras[image.camera_id])
        builder.add(image.name, photo if photo.is_file() else None, intrinsics, image.w2c)
    return builder.scene(_reliable_points(read_points(model)))


def _photo_folder(root: Path) -> Path:
    for name in PHOTO_FOLDERS:
        if (root / name).is_dir() and any((root / name).iterdir()):
            return root / name
    raise SceneError(f"{root}: has no photos. hint: looked for {_listed(PHOTO_FOLDERS)}")


def _intrinsics(camera: ColmapCamera) -> Intrinsics:
    params = camera.params
    focal = params.get("f")
    return Intrinsics(
        fx=params.get("fx", focal),
        fy=params.get("fy", focal),
        cx=params["cx"],
        cy=params["cy"],
        width=camera.width,
        height=camera.height,
        distortion=distortion_from_coeffs(camera.model, params),
    )


def _reliable_points(points: ColmapPoints) -> np.ndarray | None:
    """Return the points [N, 3] that are probably on a surface, or None."""
    finite = np.isfinite(points.xyz).all(axis=1)
    good = finite & (points.track_lengths >= _MIN_TRACK_LENGTH) & (points.errors <= _MAX_ERROR_PX)
    if good.sum() < _ENOUGH_POINTS:
        good = finite
    return points.xyz[good] if good.any() else None


def _listed(folders: tuple[str, ...]) -> str:
    return ", ".join(f"{folder}/" for folder in folders)
