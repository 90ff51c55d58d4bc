"""Finds the depth of a scene's photos: beside them, as COLMAP and RGB-D captures leave it, or where the user says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from lift3d_cli.errors import Lift3dError, SceneError
from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.scene.colmap_files import read_cameras, read_images
from lift3d_cli.scene.depth_formats import DEPTH_SUFFIXES, depth_suffix, read_stored_depth
from lift3d_cli.scene.mesh import MESH_SUFFIXES
from lift3d_cli.scene.scene import DepthFile, Scene, View

# Where `colmap image_undistorter` is told to write to, as the guides of COLMAP and of its users have it.
_DENSE_FOLDERS = (".", "dense", "dense/0")
_COLMAP_MAPS = "stereo/depth_maps"
# TUM's benchmark: https://cvg.cit.tum.de/data/datasets/rgbd-dataset/file_formats; pictures of its associate.py may be
# so far apart in time.
_TUM_FILES = ("rgb.txt", "depth.txt")
_TUM_UNIT, _TUM_MAX_DIFFERENCE_S = 1 / 5000, 0.02

Finder = Callable[[View], "DepthFile | None"]


def with_depth_beside(scene: Scene) -> Scene:
    """Add the depth files that lie beside a scene's photos, unless the scene's own file names some.

    A folder `depth` with other things in it than depth is passed over, with a warning.
    """
    if any(view.depth_file for view in scene.views):
        return scene
    for base in _DENSE_FOLDERS:
        folder = scene.root / base / _COLMAP_MAPS
        if folder.is_dir():
            found = _with_files(scene, _colmap_finder(folder, scene), is_found=True)
            if found is not scene:
                return found
    captures = [scene.views[0].image_path.parent.parent, scene.root]
    for folder in dict.fromkeys(capture / "depth" for capture in captures if capture.is_relative_to(scene.root)):
        if not folder.is_dir():
            continue
        is_tum = all((folder.parent / name).is_file() for name in _TUM_FILES)
        found = _with_files(scene, _by_time(folder) if is_tum else _by_name(folder), is_found=True)
        if found is not scene:
            return _if_readable(scene, found)
    return scene


def with_depth_from(scene: Scene, folder: Path | None = None, mesh: Path | None = None) -> Scene:
    """Replace a scene's depth by that of a folder of files named like its photos, or of a mesh.

    Args:
        scene: the scene.
        folder: folder of `PHOTO.npy`, `PHOTO.exr`, ..., with the photos' folders or without; or of COLMAP's dense maps.
        mesh: PLY or OBJ in the world of the scene; its depth counts where the folder has none.

    Raises:
        SceneError: if one is not there, or no file belongs to a photo.
    """
    if folder is None and mesh is None:
        return scene
    if mesh is not None and (not mesh.is_file() or mesh.suffix.lower() not in MESH_SUFFIXES):
        problem = "is neither PLY nor OBJ" if mesh.is_file() else "is not there"
        raise SceneError(f"{mesh}: {problem}. hint: --mesh takes a PLY or OBJ file in the world of the poses")
    drawn = None if mesh is None else DepthFile(mesh, is_undistorted=True, is_settled=True)
    bare = replace(scene, views=tuple(replace(view, depth_file=drawn) for view in scene.views))
    if folder is None:
        return bare
    if not folder.is_dir():
        raise SceneError(f"{folder}: is no folder. hint: --depth takes a folder with files named like the photos")
    inner = folder / _COLMAP_MAPS
    has_colmap_maps = next((inner if inner.is_dir() else folder).rglob("*.bin"), None) is not None
    find = _colmap_finder(inner if inner.is_dir() else folder, scene) if has_colmap_maps else _by_name(folder)
    found = _with_files(bare, find)
    missing = [view.name for view in found.views if view.depth_file in (None, drawn)]
    if found is bare:
        raise SceneError(
            f"{folder}: has no depth file named like a photo, such as {scene.views[0].name}. "
            f"hint: {Path(scene.views[0].name).stem}.npy; it may end in {', '.join(DEPTH_SUFFIXES)}"
        )
    if not missing:
        return found
    warning = f"{folder}: {len(missing)} of {len(found.views)} photos have no depth file, for example {missing[0]}"
    return replace(found, warnings=(*found.warnings, warning))


def count_depth_formats(scene: Scene) -> Mapping[str, int]:
    """Count the photos with depth by the ending of its files."""
    endings = [view.depth_file.path for view in scene.views if view.depth_file]
    names = [depth_suffix(path) or f"mesh {path.name}" for path in endings]
    return {name: names.count(name) for name in dict.fromkeys(names)}


def _with_files(scene: Scene, find: Finder, is_found: bool = False) -> Scene:
    """Add the files that are found to a scene; return the same object if there are none."""
    files = [find(view) for view in scene.views]
    if not any(files):
        return scene
    files = [file and replace(file, is_found=is_found) for file in files]
    pairs = zip(scene.views, files, strict=True)
    return replace(scene, views=tuple(replace(view, depth_file=file or view.depth_file) for view, file in pairs))


def _if_readable(scene: Scene, found: Scene) -> Scene:
    """Return `found` if the first of its files can be read: only the folder's name says that it holds depth."""
    file = next(view.depth_file for view in found.views if view.depth_file)
    try:
        read_stored_depth(file.path)
    except Lift3dError as e:
        reason = str(e).partition(". hint:")[0]
        return replace(scene, warnings=(*scene.warnings, f"{reason}: the photos' depth is not used"))
    return found


def _by_name(folder: Path) -> Finder:
    """Find files whose path in the folder is the end of the photo's path, with the photo's ending or without."""
    index: dict[str, Path] = {}
    for path in sorted(folder.rglob("*"), key=lambda path: (_rank(path), path)):
        if depth_suffix(path) and path.is_file():
            name = path.relative_to(folder).as_posix()
            index.setdefault(name[: -len(depth_suffix(path))], path)

    def find(view: View) -> DepthFile | None:
        path = _ending_like(view.name, index)
        return None if path is None else DepthFile(path)

    return find


def _colmap_finder(folder: Path, scene: Scene) -> Finder:
    """Find COLMAP's maps, and the undistorted cameras that they were made for in `sparse` beside them."""
    by_name = _by_name(folder)
    cameras = _dense_cameras(folder.parent.parent / "sparse")

    def find(view: View) -> DepthFile | None:
        file = by_name(view)
        if file is None or not file.path.name.endswith(".bin"):
            return file
        camera = _ending_like(view.name, cameras)
        return DepthFile(file.path, 1.0, camera, is_undistorted=True, is_settled=scene.format == "colmap")

    return find


def _dense_cameras(model: Path) -> dict[str, Camera]:
    """Read the cameras of a model by image name; none if it is not there: the maps then are in the photos' own."""
    if not any((model / f"images{suffix}").is_file() for suffix in (".bin", ".txt")):
        return {}
    lenses = read_cameras(model)
    cameras = {}
    for image in read_images(model):
        lens = lenses.get(image.camera_id)
        if lens is None or lens.model not in ("PINHOLE", "SIMPLE_PINHOLE"):
            continue
        f = lens.params.get("f")
        K = [
            [lens.params.get("fx", f), 0, lens.params["cx"]],
            [0, lens.params.get("fy", f), lens.params["cy"]],
            [0, 0, 1],
        ]
        cameras[image.name] = Camera(np.array(K), image.w2c, lens.width, lens.height)
    return cameras


def _by_time(folder: Path) -> Finder:
    """Find TUM's files, named by the second that they were taken in, at other moments than the photos."""
    times = {time: path for path in folder.iterdir() if (time := _seconds(path)) is not None and depth_suffix(path)}

    def find(view: View) -> DepthFile | None:
        time = _seconds(view.image_path)
        if time is None or not times:
            return None
        nearest = min(times, key=lambda other: abs(other - time))
        return DepthFile(times[nearest], _TUM_UNIT) if abs(nearest - time) <= _TUM_MAX_DIFFERENCE_S else None

    return find


def _seconds(path: Path) -> float | None:
    try:
        return float(path.stem)
    except ValueError:
        return None


def _ending_like(name: str, index: dict):
    """Look up the longest end of a photo's path in `index`, with the photo's ending or without; None for none."""
    parts = name.split("/")
    for start in range(len(parts)):
        end = "/".join(parts[start:])
        for key in (end, end.rpartition(".")[0]):
            if key in index:
                return index[key]
    return None


def _rank(path: Path) -> int:
    suffix = depth_suffix(path)
    return DEPTH_SUFFIXES.index(suffix) if suffix else len(DEPTH_SUFFIXES)
