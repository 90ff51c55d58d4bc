"""The cache of one scene: which file holds what. Imports torch on first use."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lift3d_cli.cache.checksum import file_sha256
from lift3d_cli.cache.files import TensorFile, read_document, write_document
from lift3d_cli.cache.format import EncoderRecord, PhotoRecord, key_of, photo_key, slug
from lift3d_cli.cache.frames import by_last_use
from lift3d_cli.errors import CacheError, OutdatedError
from lift3d_cli.machine.atomic import Later, at_once, remove_leftovers

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from lift3d_cli.geometry.grids import FeatureGrid


_RECORD = "encoder.json"


def describe_photo(
    name: str,
    image_path: Path,
    K: np.ndarray,  # [3, 3] pixels
    width: int,
    height: int,
    distortion: tuple[str, Sequence[float]] | None = None,
    mask_path: Path | None = None,
    working_size: tuple[int, int] | None = None,
    sha256: Callable[[Path], str] | None = None,
) -> PhotoRecord:
    """Identify a photo by its content; the files' bytes are read but not decoded.

    Args:
        name: `View.name`.
        image_path: the photo.
        K, width, height: intrinsics of the photo in its full size.
        distortion: (model, coefficients) or None.
        mask_path: path of its mask, or None.
        working_size: (width, height) for the encoder; None for the full size.
        sha256: hashes a file; a cached function avoids reading the same file twice. None for `file_sha256`.

    Raises:
        SceneError: if a file cannot be read.
    """
    size = (int(width), int(height)) if working_size is None else (int(working_size[0]), int(working_size[1]))
    sha256 = sha256 or file_sha256
    mask = None if mask_path is None else sha256(mask_path)
    key = photo_key(sha256(image_path), mask, K.tolist(), width, height, distortion, size)
    return PhotoRecord(name, key, size)


class SceneCache:
    """Features, undistorted photos and other artefacts of one scene.

    An existing file is complete, as writes are atomic, so any number of processes may share a cache. Two that make the
    same file do the work twice, and the last one stays.

    Args:
        root: the folder, see `cache_dir`; created at the first write.
        scene: the user's argument for the scene, for hints.
    """

    def __init__(self, root: Path, scene: str = "SCENE") -> None:
        self.root = root
        self._hint = f"lift3d encode {scene}"
        self._begun: set[str] = set()

    def begin(self, encoder: EncoderRecord) -> None:
        """Make this the latest encoder, and clean up after killed processes. Must be called even if nothing is missing.

        Raises:
            ResourceError, CacheError: if the disk is full or the folder cannot be written.
        """
        remove_leftovers(self.root)
        path = self.features_dir(encoder) / _RECORD
        try:
            # The whole record: the model's file may have moved, which is not part of the key.
            is_there = read_document(path, EncoderRecord.from_json, self._hint).to_json() == encoder.to_json()
        except CacheError:
            is_there = False
        if is_there:
            with contextlib.suppress(OSError):  # a read-only cache can still be read
                os.utime(path)
        else:
            write_document(path, encoder.to_json())
        self._begun.add(encoder.key)

    def encoders(self, strict: bool = False) -> list[EncoderRecord]:
        """List all encoders with features here, the last used one at the end, without unreadable ones.

        Args:
            strict: raise an error for a record that is damaged or gone while its features are there; those of another
                version are passed over.

        Raises:
            CacheError: see `strict`.
        """
        found = []
        bare = {path.parent / _RECORD for path in self.root.glob("feats/*/*.safetensors")} if strict else set()
        files = self._encoder_files()
        for path in [*files, *sorted(bare.difference(files))]:
            hint = f"{self._hint} --model {path.parent.name.rpartition('-')[0]}, or delete this folder"
            try:
                found.append(read_document(path, EncoderRecord.from_json, hint))
            except OutdatedError:
                continue
            except CacheError:
                if strict:
                    raise
        return found

    def has_outdated(self) -> bool:
        """Tell if there are features that another version made, which are passed over."""
        for path in self._encoder_files():
            try:
                read_document(path, EncoderRecord.from_json, self._hint)
            except OutdatedError:
                return True
            except CacheError:
                continue
        return False

    def find_encoder(self, name: str) -> EncoderRecord | None:
        """Find the last used encoder of this model name, to use its features without loading the model.

        Raises:
            CacheError: if there is only an unreadable one.
        """
        for record in reversed(self.encoders()):
            if record.name == name:
                return record
        for path in self._encoder_files():
            if path.parent.name.startswith(f"{slug(name, 'model')}-"):
                read_document(path, EncoderRecord.from_json, self._hint)  # raises its error
        return None

    def features_dir(self, encoder: EncoderRecord) -> Path:
        """Return the folder of an encoder's features, which may not exist."""
        return self.root / "feats" / encoder.folder

    def features_path(self, encoder: EncoderRecord, photo: PhotoRecord) -> Path:
        """Return the path of a photo's features, which may not exist."""
        return self.features_dir(encoder) / photo.file_name

    def has_features(self, encoder: EncoderRecord, photo: PhotoRecord) -> bool:
        """Return True if `read_features` would succeed; a damaged or foreign file counts as missing."""
        return self._features(encoder, photo).is_valid()

    def missing(self, encoder: EncoderRecord, photos: Iterable[PhotoRecord]) -> list[PhotoRecord]:
        """List the photos that still have to be encoded."""
        return [photo for photo in photos if not self.has_features(encoder, photo)]

    def write_features(
        self, encoder: EncoderRecord, photo: PhotoRecord, data: Tensor, grid: FeatureGrid, later: Later = at_once
    ) -> None:
        """Store the features [C, h, w] of a photo in the encoder's dtype; `later` writes the file.

        Raises:
            ModelError: if a value does not fit the dtype.
            ResourceError, CacheError: if the disk is full or the folder cannot be written.
        """
        if encoder.key not in self._begun:  # features never exist without the record of their encoder
            self.begin(encoder)
        self._features(encoder, photo).write_map(data, grid, encoder.dtype, later=later, image=list(photo.size))

    def read_features(
        self, encoder: EncoderRecord, photo: PhotoRecord, device: str = "cpu"
    ) -> tuple[Tensor, FeatureGrid]:
        """Read the features [C, h, w] of a photo, in the stored dtype, and their grid.

        Raises:
            CacheError: if they are missing, damaged, or have other keys.
        """
        data, grid, _ = self._features(encoder, photo).read_map(device)
        return data, grid

    def photo_path(self, photo: PhotoRecord) -> Path:
        """Return the path of an undistorted photo, which may not exist."""
        return self.root / "photos" / photo.file_name

    def has_photo(self, photo: PhotoRecord) -> bool:
        """Return True if the undistorted photo is stored."""
        return self._photo(photo).is_valid()

    def write_photo(self, photo: PhotoRecord, image: np.ndarray, valid: np.ndarray, opaque: np.ndarray) -> None:
        """Store the fields of a `Photo`: [H, W, 3] uint8 and two [H, W] bool."""
        import numpy as np

        packed = {name: np.packbits(mask, axis=1) for name, mask in (("valid", valid), ("opaque", opaque))}
        self._photo(photo).write_arrays({"image": image, **packed})

    def read_photo(self, photo: PhotoRecord) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Read `image`, `valid` and `opaque`, as `write_photo` stored them.

        Raises:
            CacheError: if they are missing, damaged, or have other keys.
        """
        file = self._photo(photo)
        arrays = file.read_arrays()
        import numpy as np

        try:
            image = arrays["image"]
            valid, opaque = (
                np.unpackbits(arrays[name], axis=1, count=image.shape[1]).astype(bool) for name in ("valid", "opaque")
            )
        except KeyError as error:
            raise CacheError(f"{file.path}: damaged: has no {error.args[0]}. hint: {file.hint}") from error
        return image, valid, opaque

    def surface_paths(self, name: str) -> list[Path]:
        """Find all files of the surface of the photo of this name, whatever they were made from."""
        return list(self.root.glob(f"surfaces/{_surface_stem(name)}-*.safetensors"))

    def has_surface(self, name: str, key: str) -> bool:
        """Return True if `read_surface` would succeed."""
        return self._surface(name, key).is_valid()

    def write_surface(self, name: str, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Store a photo's surface, see `pipeline.surfaces`.

        Args:
            name: name of the photo.
            key: `key_of("surface", ...)` of everything it was made from.
            arrays: arrays by name.

        Raises:
            ResourceError, CacheError: if the disk is full or the folder cannot be written.
        """
        self._surface(name, key).write_arrays(arrays)

    def read_surface(self, name: str, key: str) -> dict[str, np.ndarray]:
        """Read what `write_surface` stored.

        Raises:
            CacheError: if it is missing, damaged, or made from something else.
        """
        return self._surface(name, key).read_arrays()

    def array_paths(self, kind: str) -> list[Path]:
        """Find all files of arrays of a kind, whatever their keys."""
        return list(self.root.glob(f"{kind}-*.safetensors"))

    def has_arrays(self, kind: str, key: str) -> bool:
        """Return True if `read_arrays` would succeed."""
        return self._arrays(kind, key).is_valid()

    def write_arrays(self, kind: str, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Store arrays that belong to the whole scene, such as surface points.

        Args:
            kind: such as "points"; part of the file's name.
            key: `key_of(kind, ...)` of everything they were made from.
            arrays: arrays by name.
        """
        self._arrays(kind, key).write_arrays(arrays)

    def read_arrays(self, kind: str, key: str) -> dict[str, np.ndarray]:
        """Read what `write_arrays` stored.

        Raises:
            CacheError: if they are missing, damaged, or have other keys.
        """
        return self._arrays(kind, key).read_arrays()

    def _features(self, encoder: EncoderRecord, photo: PhotoRecord) -> TensorFile:
        keys = {"encoder": encoder.key, "photo": photo.key}
        return TensorFile(self.features_path(encoder, photo), "features", keys, self._hint)

    def _photo(self, photo: PhotoRecord) -> TensorFile:
        return TensorFile(self.photo_path(photo), "photo", {"photo": photo.key}, self._hint)

    def _surface(self, name: str, key: str) -> TensorFile:
        path = self.root / "surfaces" / f"{_surface_stem(name)}-{key[:8]}.safetensors"
        return TensorFile(path, "surface", {"surface": key}, self._hint)

    def _arrays(self, kind: str, key: str) -> TensorFile:
        return TensorFile(self.root / f"{kind}-{key[:8]}.safetensors", kind, {kind: key}, self._hint)

    def _encoder_files(self) -> list[Path]:
        return by_last_use(self.root.glob(f"feats/*/{_RECORD}"))


def _surface_stem(name: str) -> str:
    """Spell a photo's name as a file name that no other photo has."""
    return f"{slug(name, 'photo')}-{key_of('name', {'name': name})[:6]}"
