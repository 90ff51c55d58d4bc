"""Readers of files with depth, one per format: what is stored, whatever its unit and meaning. Files in, numbers out."""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from lift3d_cli.errors import ResourceError, SceneError
from lift3d_cli.machine.reading import read_file

# Blender stores 1e10 where a ray hits nothing; no unit of length makes a surface as far as this.
_NOTHING_HIT = 1e9
# The largest 16-bit value: sensors store it where they measured nothing, and nothing else reaches it.
_SATURATED_UINT16 = 65535
_ARRAY_NAMES = ("depth", "depths", "z", "arr_0")
# A surface has 480 cells across: more pixels of depth would only cost time.
_MAX_PIXELS = 50_000_000
# Of so many pixels, the largest numbers, and several channels of them.
_MAX_BYTES = 2**32
# Standard error is the whole process's.
_stderr_lock = threading.Lock()


def read_stored_depth(path: Path) -> tuple[np.ndarray, bool]:
    """Read a file of any of `DEPTH_SUFFIXES`.

    Returns:
        values: [h, w] float32 as stored, 0 where there is none (NaN, infinite, negative, saturated).
        is_integer: True if the file holds whole numbers, whose unit is then a small one, such as a millimetre.

    Raises:
        SceneError: if it is no such file, cut off, or a picture.
        ResourceError: if a library for its format is not installed.
    """
    read = _READERS[depth_suffix(path)]
    try:
        if not path.is_file():  # opening a pipe of this name would block
            raise FileNotFoundError
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("it is too large")
        stored = np.asarray(read(path))
        _check_pixels(stored.size, path)
    except (ResourceError, SceneError):
        raise
    except FileNotFoundError as e:
        raise SceneError(f"{path}: is not there. hint: add it, or leave this photo's depth out") from e
    except Exception as e:  # numpy, zipfile and OpenEXR let out whatever a damaged file makes them stumble over
        raise SceneError(f"{path}: cannot be read as depth ({_one_line(e)}). hint: it may be cut off; copy it") from e
    if stored.ndim == 3 and 1 in (stored.shape[0], stored.shape[2]):
        stored = stored[0] if stored.shape[0] == 1 else stored[..., 0]
    if stored.ndim != 2 or not stored.size or stored.dtype.kind not in "fiu":
        raise SceneError(
            f"{path}: holds {stored.dtype} of shape {stored.shape}, not one depth per pixel. hint: [height, width]"
        )
    if stored.dtype.itemsize == 1:
        raise SceneError(
            f"{path}: has 8 bits per pixel, which is a picture of depth. hint: save the depth itself, as 16-bit PNG, "
            "EXR or NPY"
        )
    is_integer = stored.dtype.kind in "iu"
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit float32 is unknown like what is infinite
        values = stored.astype(np.float32)
        known = np.isfinite(values) & (values > 0) & (values < _NOTHING_HIT)
    if stored.dtype == np.uint16:
        known &= stored != _SATURATED_UINT16
    return np.where(known, values, np.float32(0)), is_integer


def depth_suffix(path: Path) -> str:
    """Return the ending of `path` among `DEPTH_SUFFIXES`, or "" if it has none of them."""
    name = path.name.lower()
    return next((suffix for suffix in DEPTH_SUFFIXES if name.endswith(suffix)), "")


def _check_pixels(number: int, path: Path) -> None:
    if number > _MAX_PIXELS:
        raise SceneError(
            f"{path}: has {number} numbers, too many for a depth map (the limit is {_MAX_PIXELS // 10**6} million). "
            "hint: save it smaller; 1000 across are plenty"
        )


def _read_npy(path: Path) -> np.ndarray:
    return np.load(path, allow_pickle=False)


def _read_npz(path: Path) -> np.ndarray:
    with np.load(path, allow_pickle=False) as file:
        names = [name for name in _ARRAY_NAMES if name in file.files] or file.files
        if len(names) > 1 and names[0] not in _ARRAY_NAMES:
            raise ValueError(f"it has {', '.join(names[:5])}, none of them named depth")
        if any(entry.file_size > _MAX_BYTES for entry in file.zip.infolist()):
            raise ValueError("it is too large when it is unpacked")
        return file[names[0]]


def _read_image(path: Path) -> np.ndarray:
    """Read a PNG or TIFF of one channel: 16 bits, or 32 in TIFF."""
    from PIL import Image

    with Image.open(path, formats=("PNG", "TIFF")) as image:
        _check_pixels(image.width * image.height, path)
        image.load()  # a truncated file fails here and not silently half-way down
        if image.mode not in ("F", "I", "L") and not image.mode.startswith("I;16"):
            raise ValueError(f"its pixels are {image.mode}, not one number each")
        return np.asarray(image)


def _read_pfm(path: Path) -> np.ndarray:
    """Read a portable float map: "Pf", the size, a scale whose sign tells the byte order, rows from the bottom."""
    with path.open("rb") as file:
        kind, size, scale = (file.readline().split() for _ in range(3))
        if kind != [b"Pf"]:
            raise ValueError("it is no gray PFM")
        width, height = map(int, size)
        data = file.read()
    order = "<" if float(scale[0]) < 0 else ">"
    return np.frombuffer(data, f"{order}f4", width * height).reshape(height, width)[::-1]


def _read_colmap(path: Path) -> np.ndarray:
    """Read COLMAP's dense map: "width&height&channels&" and float32, channel after channel, each row by row."""
    data = read_file(path, 2**32)
    words = data[:64].split(b"&", 3)
    if len(words) < 4:
        raise ValueError("it does not begin as COLMAP's maps do")
    width, height, channels = map(int, words[:3])
    start = sum(len(word) + 1 for word in words[:3])
    if channels != 1 or len(data) - start != 4 * width * height:
        raise ValueError(f"{len(data)} bytes are not {channels} channel of {width}x{height}")
    return np.frombuffer(data, "<f4", offset=start).reshape(height, width)


def _read_exr(path: Path) -> np.ndarray:
    try:
        import OpenEXR
    except ImportError as e:
        raise ResourceError(f"{path}: OpenEXR is not installed. hint: pip install 'lift3d-cli[depth]'") from e
    with contextlib.redirect_stdout(io.StringIO()), _silent_stderr():  # it prints what it raises, also from C
        channels = {name: c.pixels for name, c in OpenEXR.File(str(path), separate_channels=True).channels().items()}
    return channels[_depth_channel(channels)]


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Drop what a C library writes to standard error."""
    with _stderr_lock, contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # there is no standard error
            kept = os.dup(2)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, 2)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            stack.callback(os.close, nowhere)
            os.dup2(nowhere, 2)
        yield


def _depth_channel(channels: Mapping[str, np.ndarray]) -> str:
    """Choose the channel with the depth: Z, also of a layer, else one named depth, else the only or first colour."""
    for fits in (
        lambda name: name.split(".")[-1] == "Z",
        lambda name: "depth" in name.lower(),
        lambda name: name in ("Y", "R", "V") or len(channels) == 1,
    ):
        found = sorted(filter(fits, channels))
        if found:
            return found[0]
    raise ValueError(f"its channels are {', '.join(channels)}, none of them depth")


def _one_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:120] if lines else type(error).__name__


# Among files for one photo the first of these is read: a PNG beside a file of floats is mostly a picture of it.
_READERS: dict[str, Callable[[Path], np.ndarray]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".exr": _read_exr,
    ".tiff": _read_image,
    ".tif": _read_image,
    ".pfm": _read_pfm,
    ".geometric.bin": _read_colmap,
    ".photometric.bin": _read_colmap,
    ".png": _read_image,
}
DEPTH_SUFFIXES = tuple(_READERS)
"""Endings of files with depth, by which the format is told."""
