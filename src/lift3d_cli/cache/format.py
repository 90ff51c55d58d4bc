"""The cache format as pure functions: schema number, keys, and the metadata of each file. Needs no torch.

A function here that finds a file invalid raises `ValueError` with the reason only; `cache/files.py` adds the path and
the hint.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from lift3d_cli.cache.checksum import BLANK
from lift3d_cli.errors import ModelError

SCHEMA = 2
"""Part of every key and file. Raise it when an old file would be misread; see `docs/cache-format.md`."""

DTYPES = {"fp16": "F16", "bf16": "BF16", "fp32": "F32"}
"""Storage types of features: our name -> safetensors' name."""


class OtherVersionError(ValueError):
    """A file is of another schema: it is passed over, and not damaged."""


def canonical_json(value: object) -> str:
    """Write JSON with one spelling per value: sorted keys, no spaces, floats as `repr`, ASCII only.

    Raises:
        ValueError, TypeError: if a value is NaN, infinite or has no JSON form.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def key_of(kind: str, ingredients: Mapping[str, object] | str) -> str:
    """Return the identity of an artefact: sha256, as hex, of everything it was made from.

    Args:
        kind: such as "render"; artefacts of two kinds never have the same key.
        ingredients: JSON values, or their text by `canonical_json`, which takes a second where there are many.
    """
    text = ingredients if isinstance(ingredients, str) else canonical_json(ingredients)
    # The canonical text of all three together.
    document = f'{{"ingredients":{text},"kind":{canonical_json(kind)},"schema":{SCHEMA}}}'
    return hashlib.sha256(document.encode()).hexdigest()


def photo_key(
    image_sha256: str,
    mask_sha256: str | None,
    K: Sequence[Sequence[float]],  # [3, 3] pixels
    width: int,
    height: int,
    distortion: tuple[str, Sequence[float]] | None,
    working_size: tuple[int, int],
) -> str:
    """Return the key of a photo as encoded: undistorted, masked and resized to `working_size` (width, height).

    The pose is not part of it: a photo that is moved in the world keeps its pixels, so it keeps its features. Hashes
        are of the files' bytes.
    """

    def plain(numbers: Sequence[float]) -> list[float]:
        return [float(x) + 0.0 for x in numbers]  # -0.0 equals 0.0 but is spelled differently; -0.0 + 0.0 is 0.0

    return key_of(
        "photo",
        {
            "image": image_sha256,
            "mask": mask_sha256,
            "K": [plain(row) for row in K],
            "size": [int(width), int(height)],
            "distortion": None if distortion is None else [distortion[0], plain(distortion[1])],
            "working_size": [int(n) for n in working_size],
        },
    )


def encoder_key(fingerprint: Mapping[str, object], dtype: str) -> str:
    """Return the key of an encoder with its settings.

    Args:
        fingerprint: JSON values that identify weights, settings and code.
        dtype: a key of `DTYPES`.

    Raises:
        ModelError: if a value of the fingerprint has no JSON form; it includes the model's own settings.
    """
    try:
        return key_of("encoder", {"fingerprint": fingerprint, "dtype": dtype})
    except (TypeError, ValueError) as error:
        raise ModelError(f"the model's fingerprint cannot be written as JSON ({error}); see preprocessing()") from error


def slug(text: str, fallback: str) -> str:
    """Convert `text` to a part of a file name for all file systems; it is for people, the key identifies."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:48].strip("-.") or fallback


@dataclass(frozen=True)
class PhotoRecord:
    """A photo's identity in the cache.

    Args:
        name: `View.name`, for messages and file names.
        key: see `photo_key`.
        size: (width, height) that the encoder sees, in pixels.
    """

    name: str
    key: str
    size: tuple[int, int]

    @property
    def stem(self) -> str:
        """The readable part of the names of this photo's files."""
        return slug(PurePosixPath(self.name).stem, "photo")

    @property
    def file_name(self) -> str:
        """Name of this photo's files, within the folder of an encoder and within `photos`."""
        return f"{self.stem}-{self.key[:8]}.safetensors"


@dataclass(frozen=True)
class EncoderRecord:
    """The encoder that made some features: the content of `encoder.json`.

    Args:
        name: name of the model, as in its spec.
        ref: the user's `--model` argument.
        dtype: storage type of the features, a key of `DTYPES`.
        fingerprint: see `encoder_key`.
        spec: facts for later commands (channels, stride, ...) that would otherwise need the model to be loaded.
    """

    name: str
    ref: str
    dtype: str
    fingerprint: Mapping[str, Any]
    spec: Mapping[str, Any]

    @cached_property
    def key(self) -> str:
        """See `encoder_key`."""
        return encoder_key(self.fingerprint, self.dtype)

    @property
    def max_size(self) -> int | None:
        """The longest side in pixels that photos are encoded at, None for any."""
        return self.fingerprint["max_size"]

    @property
    def seed(self) -> int:
        """Seed of the encoder's random numbers."""
        return self.fingerprint["seed"]

    @property
    def folder(self) -> str:
        """Name of the folder of its features, within `feats`."""
        return f"{slug(self.name, 'model')}-{self.key[:8]}"

    def to_json(self) -> str:
        """Return the text of `encoder.json`."""
        facts = {"name": self.name, "ref": self.ref, "dtype": self.dtype}
        return document_json("encoder", key=self.key, fingerprint=self.fingerprint, spec=self.spec, **facts)

    @classmethod
    def from_json(cls, text: str) -> EncoderRecord:
        """Read `encoder.json`.

        Raises:
            ValueError: if the text is not one, or its key does not match its content.
        """
        document = parse_document(text, "encoder")
        texts = [document.get(field) for field in ("name", "ref", "dtype")]
        dicts = [document.get(field) for field in ("fingerprint", "spec")]
        if not all(isinstance(x, str) for x in texts) or not all(isinstance(x, dict) for x in dicts):
            raise ValueError("not an encoder.json of lift3d")
        record = cls(*texts, *dicts)
        if record.dtype not in DTYPES or record.key != document.get("key"):
            raise ValueError("damaged: its key is not that of its content")
        return record


def document_json(kind: str, **fields: object) -> str:
    """Write a document of this schema as canonical JSON; the name of its checksum, to be filled in, sorts first."""
    return canonical_json({"checksum": BLANK, "schema": SCHEMA, "kind": kind, **fields})


def parse_document(text: str, kind: str) -> dict[str, Any]:
    """Parse what `document_json` wrote.

    Raises:
        ValueError: if the text is not a document of this kind and schema.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} in a JSON document")

    try:
        document = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError("damaged: not readable as JSON") from error
    if not isinstance(document, dict) or type(document.get("schema")) is not int:
        raise ValueError("not made by lift3d")
    if document["schema"] != SCHEMA:
        theirs = str(document["schema"])[:20]
        raise OtherVersionError(f"made by another version of lift3d (schema {theirs}, this one reads {SCHEMA})")
    if document.get("kind") != kind:
        raise ValueError(f"holds {str(document.get('kind'))[:40]!r}, not {kind!r}")
    return document


def parse_manifest(text: str, kind: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Return `content`, `facts` and key of a manifest whose key is that of its content.

    Raises:
        ValueError: if it is none of this kind.
    """
    document = parse_document(text, kind)
    content, facts = document.get("content"), document.get("facts")
    if not isinstance(content, dict) or not isinstance(facts, dict):
        raise ValueError("not a manifest of lift3d")
    key = key_of(kind, content)
    if key != document.get("key"):
        raise ValueError("damaged: its key is not that of its content")
    return content, facts, key


def file_metadata(kind: str, keys: Mapping[str, object], **facts: object) -> dict[str, str]:
    """Make the metadata of a safetensors file: a single entry, since several would be written in varying order."""
    return {"lift3d": document_json(kind, keys=keys, **facts)}


def parse_file_metadata(metadata: Mapping[str, str] | None, kind: str, keys: Mapping[str, object]) -> dict[str, Any]:
    """Parse what `file_metadata` made, and compare its keys.

    Raises:
        ValueError: if it has another kind or schema, or other keys.
    """
    document = parse_document((metadata or {}).get("lift3d", "null"), kind)
    if document.get("keys") != keys:
        stored = document.get("keys")
        stored = stored if isinstance(stored, dict) else {}
        other = [name for name, key in keys.items() if stored.get(name) != key]
        raise ValueError(f"made from another {' and '.join(other) or 'source'}")
    return document


def grid_json(grid: Any) -> dict[str, object]:
    """Convert a `FeatureGrid` to JSON values."""
    numbers = {"scale": [float(x) for x in grid.scale], "offset": [float(x) for x in grid.offset]}
    return {"width": int(grid.width), "height": int(grid.height), **numbers}


def check_map(document: Mapping[str, Any], dtype: str, shape: Sequence[int]) -> dict[str, Any]:
    """Return the arguments of the `FeatureGrid` in a file's metadata.

    Args:
        document: from `parse_file_metadata`.
        dtype, shape: those of the tensor "features" in the file's header.

    Raises:
        ValueError: if tensor and metadata disagree, or the grid is invalid.
    """
    grid = document.get("grid")
    if not isinstance(grid, dict) or dtype != DTYPES.get(str(document.get("dtype"))):
        raise ValueError("damaged: its dtype or grid is not the declared one")
    width, height, *pairs = (grid.get(field) for field in ("width", "height", "scale", "offset"))
    if len(shape) != 3 or min(shape) < 1 or [height, width] != list(shape[1:]):
        raise ValueError(f"damaged: features {list(shape)} are not on the declared grid")
    for pair in pairs:
        floats = isinstance(pair, list) and len(pair) == 2 and all(type(x) is float for x in pair)
        if not floats or not all(math.isfinite(x) for x in pair):
            raise ValueError("damaged: its grid has no finite scale and offset")
    scale, offset = pairs
    if min(scale) <= 0:
        raise ValueError("damaged: the scale of its grid is not positive")
    return {"width": width, "height": height, "scale": tuple(scale), "offset": tuple(offset)}
