"""What a folder that is no scene probably is, and what makes a scene of it."""

from __future__ import annotations

from pathlib import Path

from lift3d_cli.scene.photo_files import list_photos, natural_key

_SCENE_FILES = ("transforms.json", "sparse", "colmap/sparse", "poses_bounds.npy", "transforms_train.json")
# What other programs leave that is not read here: a pattern, what it is, what to do.
_OTHERS = (
    ("keyframes/", "is a raw export of Polycam", "ns-process-data polycam makes a transforms.json of it"),
    ("*.r3d", "is an export of Record3D", "ns-process-data record3d makes a transforms.json of it"),
    ("rgbd/", "is an export of Record3D", "ns-process-data record3d makes a transforms.json of it"),
    ("*.xml", "has cameras of Metashape", "ns-process-data metashape makes a transforms.json of them"),
    ("*.csv", "has cameras of RealityCapture", "ns-process-data realitycapture makes a transforms.json of them"),
    ("database.db", "has COLMAP's database without a model", "colmap mapper makes sparse/0 of it"),
    ("meta_data.json", "has cameras of SDFStudio", "convert them to a transforms.json"),
    ("*.npz", "has arrays of a network", "let it write a COLMAP model (VGGT, DA3 and MASt3R can) into sparse/0"),
)


def near_miss(folder: Path) -> tuple[str, str] | None:
    """Return what is in a folder in place of a scene, and what to do; None if nothing is known of it."""
    inner = [path.parent for name in _SCENE_FILES for path in folder.glob(f"*/{name}")]
    if inner := sorted(
        {folder / path.relative_to(folder).parts[0] for path in inner}, key=lambda p: natural_key(p.name)
    ):
        return f"{inner[0]} is one", f"name that{' or another of them' if len(inner) > 1 else ''}"
    if others := sorted(folder.glob("transforms*.json")):
        return f"has {others[0].name}", f"name the file: {others[0]}"
    for pattern, what, todo in _OTHERS:
        if any(path.is_dir() == pattern.endswith("/") for path in folder.glob(pattern.rstrip("/"))):
            return what, todo
    if photos := [photo for place in (folder, folder / "images", folder / "input") for photo in list_photos(place)]:
        return f"has {len(photos)} photos without poses", "COLMAP finds poses, see docs/scenes.md"
    return None
