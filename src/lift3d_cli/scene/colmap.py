"""Reader of COLMAP models: `sparse/0` or wherever people have them, beside a folder of photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lift3d_cli.errors import SceneError
from lift3d_cli.scene.assemble import SceneBuilder
from lift3d_cli.scene.colmap_files import ColmapCamera, ColmapPoints, read_cameras, read_images, read_points
from lift3d_cli.scene.distortion import distortion_from_coeffs
from lift3d_cli.scene.lens import Intrinsics
from lift3d_cli.scene.photo_files import natural_key, photo_folders
from lift3d_cli.scene.scene import Scene

MODEL_FOLDERS = (
    "sparse/*", "sparse", "colmap/sparse/*", "colmap/sparse", "colmap/text", "colmap", "colmap_text", "text",
    "dense/*/sparse", "dense/sparse", "undistorted/sparse", "distorted/sparse/*", "distorted/sparse",
)  # fmt: skip
"""Where models are, and the scene's folder itself."""
# Beside the model or in a folder above it. `input` is where 3D Gaussian splatting keeps photos as they were taken.
PHOTO_FOLDERS = ("images", "input")
# A point seen by only two photos is often a wrong match, and one that is off by pixels is not on a surface.
_MIN_TRACK_LENGTH = 3
_MAX_ERROR_PX = 3.0
# The filter is for dense models. With fewer points than this, doubtful ones are better than none.
_ENOUGH_POINTS = 500


def find_colmap_models(root: Path) -> list[Path]:
    """List the folders of COLMAP models inside a scene, in the order of `MODEL_FOLDERS`, and of their numbers."""
    found: dict[Path, None] = {}
    for pattern in MODEL_FOLDERS:
        for folder in sorted(root.glob(pattern), key=lambda path: natural_key(path.as_posix())):
            if any((folder / f"images{suffix}").is_file() for suffix in (".bin", ".txt")):
                found[folder] = None
    if all(any(root.glob(f"{stem}.[bt][ix][nt]")) for stem in ("cameras", "images")):
        found[root] = None
    return list(found)


def load_colmap(root: Path, model: Path) -> Scene:
    """Read a COLMAP model of a scene. Photos of another size than their camera count as resized: K is scaled.

    Raises:
        SceneError: if a file is broken, a camera model unknown, or no photo exists.
    """
    cameras, images = read_cameras(model), read_images(model)
    builder = SceneBuilder(root, model, "colmap", [image.name for image in images], _photo_folders(root, model))
    for image in images:
        photo = builder.find(image.name)
        if photo is None:
            continue
        where = f"{model}: {image.name}"
        if image.camera_id not in cameras:
            raise SceneError(f"{where} has camera {image.camera_id}, which is not in cameras")
        builder.add(image.name, photo, _intrinsics(cameras[image.camera_id], where), image.w2c)
    try:
        points = _reliable_points(read_points(model))
    except SceneError as e:
        builder.warnings.append(f"{str(e).partition('. hint:')[0]}: these points are not used")
        points = None
    return builder.scene(points)


def _photo_folders(root: Path, model: Path) -> list[Path]:
    """List the folders that names count from: those nearest to the model first."""
    parents = [folder for folder in (model, *model.parents) if folder == root or folder.is_relative_to(root)]
    # Photos as they were taken belong to the model of their distorted lens.
    names = PHOTO_FOLDERS[::-1] if "distorted" in model.relative_to(root).parts else PHOTO_FOLDERS
    return [folder for parent in parents for name in names for folder in photo_folders(parent, name)]


def _intrinsics(camera: ColmapCamera, where: str) -> Intrinsics:
    params = camera.params
    try:
        distortion = distortion_from_coeffs(camera.model, params)
    except SceneError as e:
        raise SceneError(f"{where}: {e}") from e
    focal = params.get("f")
    return Intrinsics(
        fx=params.get("fx", focal),
        fy=params.get("fy", focal),
        cx=params["cx"],
        cy=params["cy"],
        width=camera.width,
        height=camera.height,
        distortion=distortion,
    )


def _reliable_points(points: ColmapPoints) -> np.ndarray | None:
    """Return the points [N, 3] that are probably on a surface, or None."""
    finite = np.isfinite(points.xyz).all(axis=1)
    good = finite & (points.track_lengths >= _MIN_TRACK_LENGTH) & (points.errors <= _MAX_ERROR_PX)
    if good.sum() < _ENOUGH_POINTS:
        good = finite
    return points.xyz[good] if good.any() else None
