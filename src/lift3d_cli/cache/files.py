"""One file of the cache: written atomically, and read only if its keys match. Imports torch on first use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safetensors import SafetensorError, safe_open

from lift3d_cli.cache.checksum import check_bytes, check_file, sealed
from lift3d_cli.cache.format import OtherVersionError, check_map, file_metadata, grid_json, parse_file_metadata
from lift3d_cli.errors import CacheError, ModelError, OutdatedError
from lift3d_cli.machine.atomic import Later, at_once, storage_error, write_atomic
from lift3d_cli.machine.reading import read_file

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from lift3d_cli.geometry.grids import FeatureGrid

T = TypeVar("T")

_MAX_TEXT_BYTES = 2**30
"""A manifest holds up to 2 kB a frame; a larger file is not one of ours and is not read into memory."""


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file and its expected keys. Nothing is read until a method is called.

    Args:
        path: the file.
        kind: "features", "frame", "photo", ...
        keys: identity of its inputs; a file with other keys is not read.
        hint: the command that makes the file, for error messages.
    """

    path: Path
    kind: str
    keys: Mapping[str, object]
    hint: str

    def is_valid(self) -> bool:
        """Return True if the file can be read: it is whole and has the right keys."""
        try:
            with self._open("np"):
                return True
        except CacheError:
            return False

    def write_map(
        self,
        data: Tensor,  # [C, h, w]
        grid: FeatureGrid,
        dtype: str,
        extra: Mapping[str, Tensor] | None = None,
        later: Later = at_once,
        **facts: object,
    ) -> None:
        """Write a feature map.

        Args:
            data: features of the cells.
            grid: grid of the cells in the image.
            dtype: storage type of the features, a key of `DTYPES`.
            extra: other tensors of the same image, stored unchanged.
            later: writes the file, whose bytes are made now: the caller may reuse the tensors.
            facts: JSON values for people and later versions; not part of the identity.

        Raises:
            ModelError: if a value does not fit `dtype`.
        """
        import torch
        from safetensors.torch import save

        target = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
        features = data.detach().to("cpu", target)
        # The extremes are NaN if any value is; computing them is ten times faster than isfinite of every value.
        if not torch.isfinite(torch.stack(features.aminmax())).all():
            peak = float(data.detach().abs().max())
            raise ModelError(f"features up to {peak:.3g} do not fit {dtype}. hint: --dtype bf16 or --dtype fp32")
        tensors = {**(extra or {}), "features": features}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        metadata = file_metadata(self.kind, self.keys, dtype=dtype, grid=grid_json(grid), **facts)
        later(write_atomic, self.path, sealed(save(tensors, metadata)))

    def read_map(self, device: str = "cpu") -> tuple[Tensor, FeatureGrid, dict[str, Tensor]]:
        """Read the features as stored, their grid, and the other tensors of the file.

        Raises:
            CacheError: if the file is missing, damaged, or has other keys.
        """
        from lift3d_cli.geometry.grids import FeatureGrid

        with self._open("pt", str(device)) as (file, grid):
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is not a dict
        return tensors.pop("features"), FeatureGrid(**grid), tensors

    def write_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Write named numpy arrays."""
        import numpy as np
        from safetensors.numpy import save

        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        write_atomic(self.path, sealed(save(contiguous, file_metadata(self.kind, self.keys))))

    def read_arrays(self) -> dict[str, np.ndarray]:
        """Read the arrays that `write_arrays` wrote.

        Raises:
            CacheError: if the file is missing, damaged, or has other keys.
        """
        with self._open("np") as (file, _):
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    @contextmanager
    def _open(self, framework: str, device: str = "cpu") -> Iterator[tuple[Any, dict[str, Any]]]:
        """Open the file memory-mapped, check it, and yield it with the arguments of its feature grid, if it has one.

        safetensors itself rejects inconsistent headers: offsets must cover the file exactly, without gaps.
        """
        with _cache_errors(self.path, self.hint):
            if not self.path.is_file():  # opening a pipe of this name would block
                raise FileNotFoundError
            with safe_open(self.path, framework=framework, device=device) as file:
                document = parse_file_metadata(file.metadata(), self.kind, self.keys)
                grid: dict[str, Any] = {}
                if self.kind in ("features", "frame"):
                    if "features" not in file.keys():  # noqa: SIM118
                        raise ValueError("damaged: has no features")
                    features = file.get_slice("features")
                    grid = check_map(document, features.get_dtype(), features.get_shape())
                check_file(self.path)
                yield file, grid


def read_document(path: Path, parse: Callable[[str], T], hint: str) -> T:
    """Read what `write_document` wrote, and apply `parse` to its text.

    Raises:
        OutdatedError: if another version of lift3d made it.
        CacheError: if the file cannot be read, is damaged, or `parse` raises ValueError.
    """
    with _cache_errors(path, hint):
        data = read_file(path, _MAX_TEXT_BYTES)
        document = parse(data.decode())
        check_bytes(data)
        return document


def write_document(path: Path, text: str) -> None:
    """Write the text of `document_json` to a file.

    Raises:
        ResourceError, CacheError: if the disk is full or the folder cannot be written.
    """
    write_atomic(path, sealed(text.encode()))


@contextmanager
def _cache_errors(path: Path, hint: str) -> Iterator[None]:
    """Convert errors of reading a file to one line with its path and a hint."""
    try:
        yield
    except FileNotFoundError as error:
        raise CacheError(f"{path}: not there. hint: {hint}") from error
    except UnicodeDecodeError as error:
        raise CacheError(f"{path}: damaged: not a text file. hint: {hint}") from error
    except RecursionError as error:
        raise CacheError(f"{path}: damaged: nested too deep. hint: {hint}") from error
    except OtherVersionError as error:
        raise OutdatedError(f"{path}: {error}. hint: {hint}") from error
    except ValueError as error:
        raise CacheError(f"{path}: {error}. hint: {hint}") from error
    except SafetensorError as error:
        raise CacheError(f"{path}: damaged or cut short ({str(error)[:100]}). hint: {hint}") from error
    except OSError as error:
        raise storage_error(path, error) from error
