"""Whose a folder of results is: of one run and no other, which says so in it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lift3d_cli.errors import ResourceError, UsageError
from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.machine.atomic import write_output
from lift3d_cli.machine.reading import read_file
from lift3d_cli.scene.paths import transforms_text

CAMERAS = "transforms.json"
OVERLAY, SOFT, LEGEND = "-overlay", "-soft", "-legend.json"
_BESIDE = (OVERLAY, SOFT, LEGEND, ".mp4", ".mov", ".gif", ".webp")
_SUFFIXES = {"png16": ".png", "exr-float": ".exr"}  # of formats that are not named like it
_HINT = "hint: --output another folder, or --move-aside to rename this one"
_MAX_BYTES = 2**30


@dataclass(frozen=True)
class Run:
    """The one run whose files a folder may hold.

    Args:
        render: key of the render, "" for photos.
        task: the task, or "features".
        model: name of the model; "" for tasks that need none.
        features: key of the features that are decoded, which other settings of `encode` change; "" for none.
    """

    render: str
    task: str
    model: str = ""
    features: str = ""

    def other(self, recorded: Run) -> str:
        """Say whose files are there instead of this run's."""
        if recorded.render != self.render:
            return "another render"
        if recorded.model != self.model:
            return f"another model, {recorded.model}" if recorded.model else "another model, none"
        return (
            "another task" if recorded.task != self.task else f"{self.model} by other settings or another version of it"
        )


class ResultFolder:
    """A folder of files `NAME.*` and what is beside it, which a run claims before it writes there.

    Args:
        root: the folder; it need not exist.
        format: one of the `FRAME_FORMATS` or `RAW_FORMATS`.
        run: the run.
        names: names of the frames.
        move_aside: rename what others left there, instead of refusing.
    """

    def __init__(self, root: Path, format: str, run: Run, names: Sequence[str], move_aside: bool) -> None:
        self.root, self._run, self._names, self._move_aside = root, run, names, move_aside
        self._suffix = _SUFFIXES.get(format, f".{format}")

    def check(self, beside: Sequence[str] = ()) -> None:
        """Check that nothing of another run, and no file of the user, would be written over.

        Args:
            beside: names of the files and folders that are written beside the folder.

        Raises:
            UsageError: if there is, unless it is to be moved aside.
        """
        found = self._in_the_way(beside)
        if found and not self._move_aside:
            raise UsageError(f"{found}. {_HINT}")

    def begin(self, cameras: Sequence[Camera], fps: float, beside: Sequence[str] = (), settings: str = "") -> None:
        """Claim the folder, and write the cameras of its frames as `transforms.json`.

        What an earlier try with other settings left beside the folder goes: it would be taken for this one's.

        Args:
            cameras: of the frames, in the size of the results.
            fps: frames per second.
            beside: as for `check`.
            settings: what the frames depend on besides the run, as text.

        Raises:
            UsageError: as for `check`.
            ResourceError: if it cannot be written.
        """
        self.check(beside)
        if self._in_the_way(beside):
            _move_aside(self.root, ("", *_BESIDE))
        earlier = _record(self.root) or {}
        kept = set(_beside(self.root, earlier)) - set(beside)
        if earlier.get("settings", settings) != settings:
            self._remove_beside(kept)
            kept = set()
        record = asdict(self._run) | {"settings": settings, "beside": sorted({*kept, *beside})}
        files = [f"{name}{self._suffix}" for name in self._names]
        write_output(self.root / CAMERAS, transforms_text(cameras, files, fps, {"lift3d": record}).encode())

    def finish(self) -> None:
        """Remove the same frames in another format, of an earlier try: until now they were all that there was."""
        for path in self._files():
            name = path.relative_to(self.root)
            if name.with_suffix("").as_posix() in self._names and path.suffix != self._suffix:
                path.unlink(missing_ok=True)

    def _in_the_way(self, beside: Sequence[str]) -> str:
        """Say what is in the way of the run, "" if nothing is."""
        record = _record(self.root)
        recorded = recorded_run(self.root)
        if recorded is not None and recorded != self._run:
            return f"{self.root}: holds files of {self._run.other(recorded)}"
        # Files that no run recorded may be the user's own, whatever they are called.
        if recorded is None and (self._files() or (self.root / CAMERAS).exists()):
            return f"{self.root}: holds files of other frames"
        own = _beside(self.root, record or {"beside": []})
        foreign = [self.root.with_name(name) for name in beside if name not in own]
        return next((f"{path}: is not known to be of this run" for path in foreign if path.exists()), "")

    def _files(self) -> list[Path]:
        found = [path for path in self.root.rglob("*") if path.is_file()]
        return [path for path in found if path.name[0] != "." and path.name != CAMERAS]

    def _remove_beside(self, names: set[str]) -> None:
        """Remove what this tool wrote beside the folder; what else is in those folders stays."""
        for path in (self.root.with_name(name) for name in names):
            pictures = [path / f"{name}.png" for name in self._names]
            pictures += [file for name in self._names for file in (path / name).glob("[0-9][0-9][0-9].png")]
            for file in [*pictures, path]:
                with contextlib.suppress(OSError):  # a folder, or there is none
                    file.unlink()
            for folder in [*sorted(path.rglob("*"), reverse=True), path]:
                with contextlib.suppress(OSError):  # not empty, or no folder
                    folder.rmdir()


def claim_file(file: Path, recorded: Run | None, run: Run, move_aside: bool, only_check: bool = False) -> None:
    """Check that a file of results is not another run's, or the user's; with `move_aside` rename it.

    Args:
        file: the file; it need not exist.
        recorded: the run that the file says it is of, if any.
        run: the run that is to write it.
        move_aside: rename it, instead of refusing.
        only_check: leave it where it is.

    Raises:
        UsageError: if it is, and is not to be moved aside.
        ResourceError: if it cannot be renamed.
    """
    if recorded == run or not file.exists():
        return
    if not move_aside:
        what = "is not known to be of this run" if recorded is None else f"is of {run.other(recorded)}"
        raise UsageError(f"{file}: {what}. {_HINT}")
    if not only_check:
        _move_aside(file.with_suffix(""), (file.suffix,))


def parsed_run(values: Mapping[str, object]) -> Run | None:
    """Return the run of a record; None if it is none."""
    try:
        return Run(**{name: str(values[name]) for name in asdict(Run("", "")) if name in values})
    except TypeError:
        return None


def recorded_run(root: Path) -> Run | None:
    """Return the run whose results a folder holds; None if that is not recorded."""
    record = _record(root)
    return None if record is None else parsed_run(record)


def _record(root: Path) -> dict[str, object] | None:
    try:
        found = json.loads(read_file(root / CAMERAS, _MAX_BYTES))["lift3d"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _beside(root: Path, record: Mapping[str, object]) -> list[str]:
    """Return the names of what a run wrote beside its folder; all that may be, where it is not recorded."""
    names = record.get("beside")
    return [str(name) for name in names] if isinstance(names, list) else [f"{root.name}{what}" for what in _BESIDE]


def _move_aside(root: Path, parts: Sequence[str]) -> None:
    """Rename a result and all that belongs to it, to the first name that is free for all of it."""

    def numbered(number: int, part: str) -> Path:
        return root.with_name(f"{root.name}.{number}{part}")

    number = next(n for n in range(1, 10**6) if not any(numbered(n, part).exists() for part in parts))
    try:
        for part in parts:
            path = root.with_name(root.name + part)
            if path.exists():
                path.rename(numbered(number, part))
    except OSError as e:
        raise ResourceError(f"{root}: cannot be renamed ({e.strerror or e})") from e
