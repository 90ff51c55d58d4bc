"""`load_scene`: find the files of poses in a folder of photos, and read the one that fits them best."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lift3d_cli.errors import SceneError
from lift3d_cli.scene.blender import SPLIT_FILES, load_blender
from lift3d_cli.scene.colmap import find_colmap_models, load_colmap
from lift3d_cli.scene.depth_files import with_depth_beside
from lift3d_cli.scene.llff import POSES_FILE, load_llff
from lift3d_cli.scene.near_misses import near_miss
from lift3d_cli.scene.nerfstudio import load_nerfstudio
from lift3d_cli.scene.photo_check import check_photos
from lift3d_cli.scene.scene import Scene

TRANSFORMS_FILE = "transforms.json"
# A file that has this part of the most photos or more competes with the one that has them.
_NEARLY_MOST = 0.9
# Of two files whose cameras differ by no more than this, in radians, parts of the cameras' spread and of the focal
# length, the first is taken; otherwise the photos decide, where so much more of the matches fit.
_SAME, _BETTER = 0.03, 0.05


@dataclass(frozen=True)
class _Candidate:
    """A file or folder that may hold the poses, and the scene in it, or why there is none."""

    name: str
    scene: Scene | None
    error: SceneError | None = None


def load_scene(path: str | Path) -> Scene:
    """Read a scene: a folder, or a transforms file in it; with the depth of its photos, where that lies beside them.

    If a folder holds several files of poses, the one with the most photos is read; of those, the one that fits the
    photos best; of equals, the first of this order: `transforms.json` (made on purpose), COLMAP (has the lens
    distortion and points), LLFF, Blender. A warning names the others, unless they say the same.

    Raises:
        SceneError: if there is no scene, or all are broken.
    """
    try:
        return with_depth_beside(_load_photos(Path(path)))
    except OSError as e:  # of a folder that may not be listed, or a disk that fails: any reader may meet it anywhere
        raise SceneError(f"{e.filename or path}: cannot be read ({e.strerror or e})") from e


def _load_photos(path: Path) -> Scene:
    if os.path.isfile(path):
        if path.suffix.lower() != ".json":
            raise SceneError(f"{path}: is not a scene. hint: give a folder or a transforms.json")
        return load_nerfstudio(path)
    if not os.path.isdir(path):
        raise SceneError(f"{path}: does not exist. hint: give a folder with posed photos")
    candidates = [_read(name, read) for name, read in _readers(path).items()]
    if candidates:
        return _best(path, candidates)
    if found := near_miss(path):
        raise SceneError(f"{path}: is not a scene, but {found[0]}. hint: {found[1]}")
    content = "is empty" if not any(path.iterdir()) else "is not a scene"
    raise SceneError(
        f"{path}: {content}. hint: looked for {TRANSFORMS_FILE} (nerfstudio, instant-ngp), "
        f"sparse/0 or sparse or colmap/sparse/0 (COLMAP), {POSES_FILE} (LLFF), {SPLIT_FILES[0]} (Blender)"
    )


def _readers(path: Path) -> dict[str, Callable[[], Scene]]:
    """Find all that may be read, by name, in the order of preference."""
    found: dict[str, Callable[[], Scene]] = {}
    if (path / TRANSFORMS_FILE).is_file():
        found[TRANSFORMS_FILE] = lambda: load_nerfstudio(path / TRANSFORMS_FILE)
    for model in find_colmap_models(path):
        found[model.relative_to(path).as_posix()] = lambda model=model: load_colmap(path, model)
    if (path / POSES_FILE).is_file():
        found[POSES_FILE] = lambda: load_llff(path)
    if any((path / name).is_file() for name in SPLIT_FILES):
        found[SPLIT_FILES[0]] = lambda: load_blender(path)
    return found


def _read(name: str, read: Callable[[], Scene]) -> _Candidate:
    try:
        return _Candidate(name, read())
    except SceneError as e:
        return _Candidate(name, None, e)


def _best(path: Path, candidates: list[_Candidate]) -> Scene:
    """Choose by the number of photos, then by their verdict, then by the order; name those that say something else."""
    readable = [c for c in candidates if c.scene is not None]
    if not readable:
        raise next(c.error for c in candidates if c.error is not None)
    most = max(len(c.scene.views) for c in readable)
    first, *rest = [c for c in readable if len(c.scene.views) >= _NEARLY_MOST * most]
    rivals = [first, *(c for c in rest if not _are_same(first.scene, c.scene))]
    # Points need no check here: they are another question.
    shares = {c.name: check_photos(replace(c.scene, points=None)).share for c in rivals} if len(rivals) > 1 else {}
    best = first
    for rival in rivals[1:]:
        if shares[rival.name] > np.nan_to_num(shares[best.name]) + _BETTER:
            best = rival
    others = [
        _described(c, path, shares)
        for c in candidates
        if c is not best and (c.scene is None or not _are_same(best.scene, c.scene))
    ]
    if not others:
        return best.scene
    taken = f"{path}: {_described(best, path, shares)} is read"
    return replace(best.scene, warnings=(*best.scene.warnings, f"{taken}, not {', '.join(others)}"))


def _described(candidate: _Candidate, path: Path, shares: dict[str, float]) -> str:
    if candidate.scene is None:
        return str(candidate.error).partition(". hint:")[0].replace(f"{path}/", "")
    share = shares.get(candidate.name, np.nan)
    fit = f", {share:.0%} of the matches fit" if np.isfinite(share) else ""
    return f"{candidate.name} ({len(candidate.scene.views)} photos{fit})"


def _are_same(a: Scene, b: Scene) -> bool:
    """Tell if two scenes have the same cameras, in any two worlds; photos may have other names or sizes."""
    by_name = {Path(view.name).stem: view.camera for view in b.views}
    pairs = [(view.camera, by_name[stem]) for view in a.views if (stem := Path(view.name).stem) in by_name]
    if len(a.views) != len(b.views):
        return False
    if len(pairs) < len(a.views):
        pairs = list(zip(a.cameras, b.cameras, strict=True))
    if any(abs(np.log(p.K[0, 0] / p.width * q.width / q.K[0, 0])) > _SAME for p, q in pairs):
        return False
    # Poses relative to the first camera's are the same in all worlds, up to a scale.
    relative = [np.stack([camera.w2c @ cameras[0].c2w for camera in cameras]) for cameras in zip(*pairs, strict=True)]
    turn = np.abs(relative[0][:, :3, :3] - relative[1][:, :3, :3]).max()
    moves = [each[:, :3, 3] / (np.linalg.norm(each[:, :3, 3]) or 1.0) * np.sqrt(len(each)) for each in relative]
    return bool(turn <= _SAME and np.abs(moves[0] - moves[1]).max() <= _SAME)
