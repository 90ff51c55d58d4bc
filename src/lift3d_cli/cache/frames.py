"""A folder of frames: a manifest and one file per frame; an interrupted run can be resumed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lift3d_cli.cache.files import TensorFile, read_document, write_document
from lift3d_cli.cache.format import DTYPES, canonical_json, document_json, key_of, parse_manifest
from lift3d_cli.errors import CacheError
from lift3d_cli.machine.atomic import Later, at_once, remove_leftovers
from lift3d_cli.machine.reading import read_file

if TYPE_CHECKING:
    from torch import Tensor

    from lift3d_cli.geometry.grids import FeatureGrid

F = TypeVar("F", bound="FrameFolder")

MANIFEST = "manifest.json"
_FRAMES = "frames"
_OURS = (MANIFEST, _FRAMES, "color", "confidence", "feats")
_HINT = "lift3d render SCENE, or delete this folder"
_MAX_FRAMES = 10**7


def render_key(content: Mapping[str, object]) -> str:
    """Return the key of a render, from everything that its frames depend on."""
    return key_of("render", content)


def by_last_use(files: Iterable[Path]) -> list[Path]:
    """Sort files that each run writes or touches by time; the last one used is at the end."""
    return sorted(files, key=lambda path: (path.stat().st_mtime_ns, path))


class FrameFolder:
    """The frames of one folder; made by `create` or `open`.

    Attributes:
        root: the folder.
        content: JSON values that the frames depend on, with at least "frames" (their number) and "dtype".
        facts: JSON values about the render that no frame depends on.
        key: `render_key(content)`.
    """

    def __init__(self, root: Path, content: Mapping[str, Any], facts: Mapping[str, Any], key: str) -> None:
        frames = content.get("frames")
        if type(frames) is not int or not 0 < frames <= _MAX_FRAMES or str(content.get("dtype")) not in DTYPES:
            raise ValueError("damaged: it lacks the number of frames or their dtype")
        self.root = root
        self.content = content
        self.facts = facts
        self.key = key

    @classmethod
    def create(cls: type[F], root: Path, content: Mapping[str, Any], facts: Mapping[str, Any] | None = None) -> F:
        """Start frames in `root`, or resume the same ones.

        Args:
            root: the folder; it need not exist.
            content: see the class. The full key is compared, so a folder never mixes two renders.
            facts: see the class; if None, those of an earlier run stay.

        Raises:
            CacheError: if the folder has another render or foreign files, or cannot be written.
        """
        # Through JSON, so that the content of a new render equals that of a resumed one, with lists for tuples.
        text = canonical_json(content)
        frames = cls(root, json.loads(text), json.loads(canonical_json(facts or {})), key_of("render", text))
        manifest = root / MANIFEST
        remove_leftovers(root)
        there = cls._found(root)
        if there is not None and not there._is_of(frames.key):
            there = None
            shutil.rmtree(root / "feats", ignore_errors=True)
        if there is not None and (facts is None or there.facts == frames.facts):
            with contextlib.suppress(OSError):  # a render in a read-only folder can still be read
                os.utime(manifest)  # the latest manifest is that of the last run
            return there
        document = document_json("render", key=frames.key, content=frames.content, facts=frames.facts)
        write_document(manifest, document)
        return frames

    @classmethod
    def find(cls: type[F], root: Path, key: str) -> F | None:
        """Open what `create` would go on with, writing nothing; None if it would start anew.

        Args:
            root: the folder; it need not exist.
            key: `render_key` of the content.

        Raises:
            CacheError: if the folder has another render or foreign files.
        """
        there = cls._found(root)
        return there if there is not None and there._is_of(key) else None

    def _is_of(self, key: str) -> bool:
        """Tell if these are the frames of a key; an error if there are frames of another one."""
        # Without frames it was refused, as for its memory, and the command was corrected.
        if self.key != key and any((self.root / _FRAMES).glob("*.safetensors")):
            raise CacheError(f"{self.root}: holds another render. hint: name another folder, or delete this one")
        return self.key == key

    @classmethod
    def _found(cls: type[F], root: Path) -> F | None:
        """Open the frames in `root`; None if there are none, or if their manifest is damaged or of another version.

        Raises:
            CacheError: if the folder holds what is not ours, and must not be littered.
        """
        with contextlib.suppress(CacheError):
            return cls.open(root)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            foreign = sorted(name for name in os.listdir(root) if name not in _OURS and not name.startswith("."))
            if foreign or _is_foreign(root / MANIFEST):
                name = foreign[0] if foreign else MANIFEST
                raise CacheError(f"{root}: holds other files, such as {name}. hint: name a new folder for the render")
        return None

    @classmethod
    def open(cls: type[F], root: Path) -> F:
        """Open the frames in `root`.

        Raises:
            CacheError: if there are none, or their manifest is damaged or of another version.
        """
        return read_document(root / MANIFEST, lambda text: cls(root, *parse_manifest(text, "render")), _HINT)

    @property
    def num_frames(self) -> int:
        """Number of frames of the whole path, rendered or not."""
        return self.content["frames"]

    @property
    def dtype(self) -> str:
        """Storage type of the features, a key of `DTYPES`."""
        return self.content["dtype"]

    def frame_path(self, index: int) -> Path:
        """Return the path of a frame's features."""
        return self.root / _FRAMES / f"{index:05d}.safetensors"

    def has_frame(self, index: int) -> bool:
        """Return True if `read_frame` would succeed."""
        return self._frame(index).is_valid()

    def missing(self) -> list[int]:
        """List the frames that still have to be rendered."""
        return [index for index in range(self.num_frames) if not self.has_frame(index)]

    def write_frame(
        self,
        index: int,
        data: Tensor,  # [C, h, w]
        grid: FeatureGrid,
        extra: Mapping[str, Tensor] | None = None,
        later: Later = at_once,
    ) -> None:
        """Store one frame in the render's dtype.

        Args:
            index: from 0.
            data, grid: the features.
            extra: other tensors of the frame, such as its coverage, stored unchanged.
            later: writes the file.

        Raises:
            ResourceError, CacheError: if the disk is full or the folder cannot be written.
        """
        self._frame(index).write_map(data, grid, self.dtype, extra, later)

    def read_frame(self, index: int, device: str = "cpu") -> tuple[Tensor, FeatureGrid, dict[str, Tensor]]:
        """Read features, grid and extra tensors of a frame.

        Raises:
            CacheError: if the frame is missing, damaged, or belongs to another render.
        """
        return self._frame(index).read_map(device)

    def _frame(self, index: int) -> TensorFile:
        return TensorFile(self.frame_path(index), "frame", {"render": self.key, "frame": index}, _HINT)


def _is_foreign(manifest: Path) -> bool:
    """Tell if a file is JSON that another program wrote, and not a damaged manifest of ours."""
    try:
        document = json.loads(read_file(manifest, 2**20))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and not document.keys() & {"kind", "content", "facts", "key"}
