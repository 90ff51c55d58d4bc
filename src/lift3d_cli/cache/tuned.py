"""Weights of the rendering network tuned to the scene: a folder for each tuning. Needs no torch.

The manifest is written last: a folder without it holds a tuning that can be continued.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lift3d_cli.cache.checksum import file_sha256
from lift3d_cli.cache.files import read_document, write_document
from lift3d_cli.cache.format import document_json, key_of, parse_manifest
from lift3d_cli.cache.frames import by_last_use
from lift3d_cli.errors import CacheError

_MANIFEST = "tuned.json"
_HINT = "lift3d tune SCENE"


@dataclass(frozen=True)
class Tuning:
    """Weights tuned to a scene, finished or not.

    Args:
        root: folder of the tuning.
        content: JSON values that the result depends on: `photos`, a key of the photos and poses; `weights`, the sha256
            of the initial weights; `settings`.
    """

    root: Path
    content: Mapping[str, Any]

    @classmethod
    def of(cls, cache_root: Path, content: Mapping[str, Any]) -> Tuning:
        """Locate the tuning of this content in a scene's cache; nothing is created."""
        return cls(cache_root / "tuned" / _key(content)[:8], content)

    @property
    def weights_path(self) -> Path:
        """Path of the tuned weights; the file exists only if they are better than the initial ones."""
        return self.root / "weights.safetensors"

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Write the manifest; the weights, if there are any, are there already.

        Args:
            facts: JSON values about the result, for people.

        Raises:
            ResourceError, CacheError: if the disk is full or the folder cannot be written.
        """
        stored = {"outcome": facts, "weights": self._weights_sha256()}
        document = document_json("tuned", key=_key(self.content), content=self.content, facts=stored)
        write_document(self.root / _MANIFEST, document)

    def facts(self) -> Mapping[str, Any] | None:
        """Read what `finish` wrote, None if the tuning is not finished; mark it as the last used one."""
        stored = self._read()
        if stored is None:
            return None
        with contextlib.suppress(OSError):  # a cache that cannot be written can still be read
            os.utime(self.root / _MANIFEST)
        return stored["outcome"]

    def is_finished(self) -> bool:
        """Tell if `finish` was called, and nothing is damaged since."""
        return self._read() is not None

    def _read(self) -> Mapping[str, Any] | None:
        try:
            _, stored, key = read_document(self.root / _MANIFEST, _parse, _HINT)
        except CacheError:  # damaged counts as missing
            return None
        is_whole = key == _key(self.content) and stored.get("weights") == self._weights_sha256()
        return stored if is_whole else None

    def _weights_sha256(self) -> str | None:
        path = self.weights_path
        return file_sha256(path) if path.is_file() else None


def finished_tunings(cache_root: Path) -> list[Tuning]:
    """List the finished tunings of a scene's cache, the last used one at the end, without damaged ones."""
    found = []
    for path in by_last_use(cache_root.glob(f"tuned/*/{_MANIFEST}")):
        with contextlib.suppress(CacheError):
            found.append(Tuning(path.parent, read_document(path, _parse, _HINT)[0]))
    return [tuning for tuning in found if tuning.is_finished()]


def _key(content: Mapping[str, Any]) -> str:
    return key_of("tuned", content)


def _parse(text: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    return parse_manifest(text, "tuned")
