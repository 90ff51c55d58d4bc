"""One render: a folder with a manifest and a file per frame, which an interrupted run fills further."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lift3d_cli.cache.files import TensorFile, read_document
from lift3d_cli.cache.format import DTYPES, canonical_json, document_json, key_of, parse_document, slug
from lift3d_cli.errors import CacheError
from lift3d_cli.machine.atomic import Later, at_once, sweep, write_atomic

if TYPE_CHECKING:
    from torch import Tensor

    from lift3d_cli.geometry.grids import FeatureGrid

_HINT = "lift3d render SCENE"
_MAX_FRAMES = 99999  # five digits in a file name


def render_key(content: Mapping[str, object]) -> str:
    """Key of a render: of everything that its frames depend on."""
    return key_of("render", content)


def render_dir(cache_root: Path, name: str, content: Mapping[str, object]) -> Path:
    """The folder of a render within a scene's cache; `name` is for people."""
    return cache_root / "renders" / f"{slug(name, 'render')}-{render_key(content)[:8]}"


class Render:
    """The frames of one render. Get one from `Render.create` or `Render.open`.

    Attributes:
        root: the folder.
        content: JSON values that the frames depend on, with at least "frames" (their number) and "dtype".
        facts: JSON values about the render that no frame depends on.
        key: `render_key(content)`.
    """

    def __init__(self, root: Path, content: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        frames = content.get("frames")
        if type(frames) is not int or not 0 < frames <= _MAX_FRAMES or str(content.get("dtype")) not in DTYPES:
            raise ValueError("damaged: it lacks the number of frames or their dtype")
        self.root = root
        self.content = content
        self.facts = facts
        self.key = render_key(content)

    @classmethod
    def create(cls, root: Path, content: Mapping[str, Any], facts: Mapping[str, Any] | None = None) -> Render:
        """Begin a render in `root`, or go on with the same one.

        Args:
            root: the folder; need not exist.
            content: see the class. The full key is compared, so a folder never mixes two renders.
            facts: see the class; without any, those of an earlier run stay.

        Raises:
            CacheError: if another render is there, or the folder cannot be written.
        """
        # Through JSON, so that a render that is gone on with has the same content, lists for tuples, as a new one.
        render = cls(root, json.loads(canonical_json(content)), json.loads(canonical_json(facts or {})))
        manifest = root / "manifest.json"
        if manifest.exists():
            there = cls.open(root)
            if there.key != render.key:
                raise CacheError(f"{root}: holds another render. hint: name another folder, or delete this one")
            sweep(root)
            if facts is None or there.facts == render.facts:
                with contextlib.suppress(OSError):  # a render that cannot be written can still be read
                    os.utime(manifest)  # the latest manifest is that of the last run
                return there
        document = document_json("render", key=render.key, content=render.content, facts=render.facts)
        write_atomic(manifest, document.encode())
        return render

    @classmethod
    def open(cls, root: Path) -> Render:
        """The render in `root`.

        Raises:
            CacheError: if there is none, or its manifest is damaged or of another version.
        """
        return read_document(root / "manifest.json", lambda text: cls(root, *_parse_manifest(text)), _HINT)

    def frame_path(self, index: int) -> Path:
        """Features of a frame."""
        return self.root / "frames" / f"{index:05d}.safetensors"

    def color_path(self, index: int) -> Path:
        """Colour image of a frame. Write it (`write_atomic`) before the features: they mean that both are there."""
        return self.root / "color" / f"{index:05d}.png"

    def confidence_path(self, index: int) -> Path:
        """Confidence of a frame as a gray image, where that was asked for."""
        return self.root / "confidence" / f"{index:05d}.png"

    def has_frame(self, index: int) -> bool:
        """True if `read_frame` would succeed."""
        return self._frame(index).is_valid()

    def missing(self) -> list[int]:
        """The frames that still have to be rendered."""
        return [index for index in range(self.content["frames"]) if not self.has_frame(index)]

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
            extra: other tensors of the frame, such as its coverage, stored as they are.
            later: writes the file.

        Raises:
            ResourceError, CacheError: if the disk is full or the folder cannot be written.
        """
        self._frame(index).write_map(data, grid, self.content["dtype"], extra, later)

    def read_frame(self, index: int, device: str = "cpu") -> tuple[Tensor, FeatureGrid, dict[str, Tensor]]:
        """Features, grid and extra tensors of a frame.

        Raises:
            CacheError: if the frame is missing, damaged, or of another render.
        """
        return self._frame(index).read_map(device)

    def _frame(self, index: int) -> TensorFile:
        return TensorFile(self.frame_path(index), "frame", {"render": self.key, "frame": index}, _HINT)


def _parse_manifest(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """`content` and `facts` of a manifest."""
    document = parse_document(text, "render")
    content, facts = document.get("content"), document.get("facts")
    if not isinstance(content, dict) or not isinstance(facts, dict):
        raise ValueError("not a manifest of lift3d")
    if render_key(content) != document.get("key"):
        raise ValueError("damaged: its key is not that of its content")
    return content, facts
