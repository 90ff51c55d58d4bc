"""Read all files of a cache, and compare them with their checksums."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from lift3d_cli.cache.checksum import check_file
from lift3d_cli.cache.files import read_document
from lift3d_cli.cache.format import EncoderRecord
from lift3d_cli.cache.frames import MANIFEST, FrameFolder
from lift3d_cli.cache.tuned import finished_tunings
from lift3d_cli.errors import CacheError
from lift3d_cli.machine.png import is_whole_png
from lift3d_cli.machine.progress import Progress, no_progress


def verify(root: Path, progress: Progress = no_progress) -> list[tuple[Path, str]]:
    """Read every file of a scene's cache whole; return those that are damaged, missing or of another version, and how.

    Files that lift3d does not make are passed over, and tunings that are not finished.

    Args:
        root: the cache.
        progress: see `Progress`.
    """
    tuned = {tuning.root for tuning in finished_tunings(root)}
    checks: dict[str, Callable[[Path], object]] = {
        "encoder.json": lambda path: read_document(path, EncoderRecord.from_json, "lift3d encode SCENE"),
        MANIFEST: lambda path: FrameFolder.open(path.parent),
        "tuned.json": lambda path: _require(path.parent in tuned),
        "*.png": lambda path: _require(is_whole_png(path)),
        "*.safetensors": lambda path: path.parent.parent.name == "tuned" or check_file(path),
    }
    files = [(path, check) for pattern, check in checks.items() for path in sorted(root.rglob(pattern))]
    problems = list(_lost(root))
    for path, check in progress(files, "verify", len(files)):
        try:
            check(path)
        except (CacheError, ValueError, OSError) as error:
            problems.append((path, str(error).removeprefix(f"{path}: ").split(" hint:")[0]))
    return problems


def _lost(root: Path) -> Iterator[tuple[Path, str]]:
    """Find records that are not there, without which nobody can read the files beside them."""
    records = (
        ("feats/*/*.safetensors", 0, "encoder.json"),
        ("renders/*/frames/*.safetensors", 1, MANIFEST),
        ("renders/*/feats/*/frames/*.safetensors", 1, MANIFEST),
    )
    for pattern, above, name in records:
        for folder in sorted({path.parents[above] for path in root.glob(pattern)}):
            if not (folder / name).exists():
                yield folder / name, "missing: nothing else says what made the files there"


def _require(is_whole: bool) -> None:
    if not is_whole:
        raise ValueError("damaged: it is not what it was when it was made")
