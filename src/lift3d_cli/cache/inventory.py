"""List what a cache holds, and remove what is no longer needed. Needs no torch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lift3d_cli.cache.files import read_document
from lift3d_cli.cache.format import EncoderRecord, slug
from lift3d_cli.errors import CacheError
from lift3d_cli.machine.atomic import remove_leftovers


@dataclass(frozen=True)
class Holding:
    """An entry of the inventory: a folder, or a file of arrays.

    Args:
        kind: "features", "photos", "surfaces", "arrays", "tuned" or "render".
        path: path of the folder, or of the file of arrays.
        num_files: number of photos, frames or arrays; a manifest does not count.
        num_bytes: size on disk of everything in the folder.
        encoder: the encoder, for features.
        problem: why it is unusable, or None.
        last_used: when a command last made or used it, in seconds since 1970.
    """

    kind: str
    path: Path
    num_files: int
    num_bytes: int
    encoder: EncoderRecord | None = None
    problem: str | None = None
    last_used: float = 0.0


def inventory(root: Path) -> list[Holding]:
    """List what a scene's cache has: features, photos, surfaces, arrays, tuned weights, renders; read no tensor."""
    holdings = []
    for folder in _folders(root / "feats"):
        encoder, problem = None, None
        try:
            encoder = read_document(folder / "encoder.json", EncoderRecord.from_json, "lift3d encode SCENE")
        except CacheError as error:
            problem = str(error)
        holdings.append(_holding("features", folder, encoder, problem))
    holdings += [_holding(folder.name, folder) for folder in _folders(root) if folder.name in ("photos", "surfaces")]
    holdings += [_holding("arrays", path) for path in sorted(root.glob("*.safetensors"))]
    holdings += [_holding("tuned", folder) for folder in _folders(root / "tuned")]
    holdings += [_holding("render", folder) for folder in _folders(root / "renders")]
    return holdings


def to_prune(
    holdings: Sequence[Holding],
    now: float,
    older_than: float | None = None,
    most_bytes: float | None = None,
    model: str = "",
) -> list[Holding]:
    """Choose what to remove by age, size and model; all of these that are given must agree.

    Photos, points and the like are small and serve all commands: they are chosen by age only.

    Args:
        holdings: see `inventory`.
        now: the time, in seconds since 1970.
        older_than: seconds since the last use.
        most_bytes: remove the longest unused until no more is left than this.
        model: name of the model whose features to remove.
    """
    found = [h for h in sorted(holdings, key=lambda h: h.last_used) if h.kind in ("features", "render") or older_than]
    if model:
        found = [h for h in found if made_with(h, model)]
    if older_than is not None:
        found = [h for h in found if now - h.last_used > older_than]
    if most_bytes is None:
        return found
    left, chosen = sum(h.num_bytes for h in holdings), []
    for holding in found:
        if left <= most_bytes:
            break
        chosen.append(holding)
        left -= holding.num_bytes
    return chosen


def made_with(holding: Holding, model: str) -> bool:
    """Tell if a holding has features of a model; where the record is lost or damaged, the folder's name tells."""
    if holding.kind != "features":
        return False
    if holding.encoder is not None:
        return holding.encoder.name == model
    return holding.path.name.rpartition("-")[0] == slug(model, "model")


def remove(holdings: Iterable[Holding]) -> int:
    """Delete holdings; return the bytes freed. No other process may be using this cache."""
    freed = 0
    for holding in holdings:
        files = [holding.path] if holding.path.is_file() else [f for f in holding.path.rglob("*") if f.is_file()]
        # What says how to read the others goes last, so that an interrupted removal leaves nothing that looks whole.
        freed += sum(_remove(file) for file in sorted(files, key=lambda file: file.suffix == ".json"))
        for folder in [*sorted(holding.path.rglob("*"), reverse=True), holding.path]:
            with contextlib.suppress(OSError):  # a file, or not empty
                folder.rmdir()
    return freed


def prune(root: Path, keep: Iterable[Path]) -> int:
    """Remove features, photos, arrays and renders that are not in `keep`; return the bytes freed.

    No other process may be writing to this cache: what it just wrote may not be in `keep`.

    Args:
        root: the scene's cache; files that lift3d does not make stay, and so do the targets of links.
        keep: files and whole folders. An `encoder.json` stays as long as features do.
    """
    kept = {os.path.abspath(path) for path in keep}

    def is_kept(path: Path) -> bool:
        if not path.parent.resolve().is_relative_to(root.resolve()):
            return True
        absolute = Path(os.path.abspath(path))
        return any(str(p) in kept for p in (absolute, *absolute.parents))

    freed = remove_leftovers(root)
    patterns = ["*.safetensors", "photos/*.safetensors", "surfaces/*.safetensors", "feats/*/*.safetensors"]
    patterns += [f"renders/*/{name}" for name in ("frames/*.safetensors", "color/*.png", "manifest.json")]
    candidates = [path for pattern in patterns for path in root.glob(pattern)]
    freed += sum(_remove(path) for path in candidates if not is_kept(path))
    for record in root.glob("feats/*/encoder.json"):
        if not is_kept(record) and not any(record.parent.glob("*.safetensors")):
            freed += _remove(record)
    inner = ("feats/*/", "renders/*/frames/", "renders/*/color/", "renders/*/")
    for pattern in (*inner, "photos/", "surfaces/", "feats/", "renders/"):
        for folder in root.glob(pattern):
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()
    return freed


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.glob("*") if path.is_dir())


def _holding(kind: str, path: Path, encoder: EncoderRecord | None = None, problem: str | None = None) -> Holding:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    num_files = sum(file.suffix == ".safetensors" for file in files)
    used = max((file.lstat().st_mtime for file in files), default=0.0)
    return Holding(kind, path, num_files, sum(file.lstat().st_size for file in files), encoder, problem, used)


def _remove(path: Path) -> int:
    """Delete a file; return its size, or 0 if it cannot be deleted."""
    with contextlib.suppress(OSError):
        size = path.lstat().st_size
        path.unlink()
        return size
    return 0
