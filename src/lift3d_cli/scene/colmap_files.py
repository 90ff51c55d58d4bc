"""Readers of COLMAP's model files, binary and text: cameras, images and points3D. Files in, plain records out.

Format: https://colmap.github.io/format.html. `frames` and `rigs`, which newer versions add, are not needed: `images`
still holds every image's own pose.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lift3d_cli.errors import SceneError
from lift3d_cli.machine.reading import read_file
from lift3d_cli.scene.distortion import CAMERA_MODELS, UNREAD_MODELS

# Index = the model's number in the binary format.
_MODEL_NUMBERS = (
    "SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE", "FULL_OPENCV", "FOV",
    "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "THIN_PRISM_FISHEYE", "RAD_TAN_THIN_PRISM_FISHEYE", "SIMPLE_DIVISION",
    "DIVISION", "SIMPLE_FISHEYE", "FISHEYE", "EUCM", "EQUIRECTANGULAR",
)  # fmt: skip

# Ten thousand photos of ten thousand keypoints have a quarter of this.
_MAX_BYTES = 2**33
_SAVE_AS_TEXT = "hint: undistort the photos with `colmap image_undistorter`, or `colmap model_converter` to text"


@dataclass(frozen=True)
class ColmapCamera:
    """Intrinsics; `params` are named as in `CAMERA_MODELS`, in pixels with the image's corner at (0, 0).

    A model that is not there may be in a file all the same, unused; its params are numbered.
    """

    model: str
    width: int
    height: int
    params: dict[str, float]


@dataclass(frozen=True)
class ColmapImage:
    """A posed image. `uv` [M, 2] are its keypoints, and `point_ids` [M] their 3D points, -1 for none."""

    name: str
    camera_id: int
    w2c: np.ndarray
    uv: np.ndarray
    point_ids: np.ndarray


@dataclass(frozen=True)
class ColmapPoints:
    """All 3D points: `xyz` [N, 3], `ids` [N], mean reprojection `errors` [N] in pixels, `track_lengths` [N]."""

    ids: np.ndarray
    xyz: np.ndarray
    errors: np.ndarray
    track_lengths: np.ndarray


def read_cameras(folder: Path) -> dict[int, ColmapCamera]:
    """Read cameras.bin or cameras.txt of a model folder."""
    path = _model_file(folder, "cameras")
    cameras = {}
    if path.suffix == ".bin":
        reader = _Reader(path)
        for _ in range(reader.take("Q")[0]):
            camera_id, number, width, height = reader.take("iiQQ")
            if not 0 <= number < len(_MODEL_NUMBERS):
                raise SceneError(f"{path}: camera {camera_id} is of an unknown model, number {number}. {_SAVE_AS_TEXT}")
            model = _MODEL_NUMBERS[number]
            names = _param_names(model)
            cameras[camera_id] = ColmapCamera(
                model, width, height, dict(zip(names, reader.take(f"{len(names)}d"), strict=True))
            )
        return cameras
    for number, words in _text_rows(path):
        with _line(path, number):
            model = words[1]
            names = _param_names(model, len(words) - 4)
            if len(words) != 4 + len(names):
                raise ValueError(f"{model} has {len(names)} parameters, found {len(words) - 4}")
            params = dict(zip(names, map(float, words[4:]), strict=True))
            cameras[int(words[0])] = ColmapCamera(model, int(words[2]), int(words[3]), params)
    return cameras


def read_images(folder: Path) -> list[ColmapImage]:
    """Read images.bin or images.txt of a model folder."""
    path = _model_file(folder, "images")
    images = []
    if path.suffix == ".bin":
        reader = _Reader(path)
        for _ in range(reader.take("Q")[0]):
            values = reader.take("i7di")
            name = reader.take_string()
            keypoints = reader.take_array([("uv", "<f8", 2), ("point_id", "<i8")], reader.take("Q")[0])
            w2c = _w2c(values[1:5], values[5:8], f"{path}: {name}")
            images.append(ColmapImage(name, values[8], w2c, keypoints["uv"], keypoints["point_id"]))
        return images
    rows = list(_text_rows(path, keep_empty=True))
    for index, (number, words) in enumerate(rows):
        if not _is_image(words):
            continue
        with _line(path, number):
            values = [float(word) for word in words[1:8]]
            name = " ".join(words[9:])
            # Some exporters leave the line of keypoints out.
            keypoint_words = next((w for _, w in rows[index + 1 : index + 2] if not _is_image(w)), [])
            table = np.array(keypoint_words, dtype=np.float64).reshape(-1, 3)
            w2c = _w2c(values[:4], values[4:], f"{path}: {name}")
            images.append(ColmapImage(name, int(words[8]), w2c, table[:, :2], table[:, 2].astype(np.int64)))
    return images


def read_points(folder: Path) -> ColmapPoints:
    """Read points3D.bin or points3D.txt of a model folder; no points if neither exists."""
    rows = []
    if not any((folder / f"points3D{suffix}").is_file() for suffix in (".bin", ".txt")):
        path = folder
    else:
        path = _model_file(folder, "points3D")
    if path.suffix == ".bin":
        reader = _Reader(path)
        for _ in range(reader.take("Q")[0]):
            point_id, x, y, z, _, _, _, error, length = reader.take("Q3d3BdQ")
            reader.skip(8 * length)
            rows.append((point_id, x, y, z, error, length))
    elif path.suffix == ".txt":
        for number, words in _text_rows(path):
            with _line(path, number):
                rows.append((float(int(words[0])), *map(float, words[1:4]), float(words[7]), (len(words) - 8) // 2))
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    return ColmapPoints(table[:, 0].astype(np.int64), table[:, 1:4], table[:, 4], table[:, 5].astype(np.int64))


class _Reader:
    """Reads little-endian values from a file in order; a file that ends early is a `SceneError` that names it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.data = read_file(path, _MAX_BYTES)
        except OSError as e:
            raise SceneError(f"{path}: cannot be read ({e.strerror or e})") from e
        self.offset = 0

    def take(self, layout: str) -> tuple:
        try:
            values = struct.unpack_from("<" + layout, self.data, self.offset)
        except struct.error as e:
            raise self._cut_off() from e
        self.offset += struct.calcsize("<" + layout)
        return values

    def take_string(self) -> str:
        end = self.data.find(b"\0", self.offset)
        if end < 0:
            raise self._cut_off()
        text = self.data[self.offset : end].decode("utf-8", errors="replace")
        self.offset = end + 1
        return text

    def take_array(self, fields: list, count: int) -> np.ndarray:
        dtype = np.dtype(fields)
        start = self.offset
        self.skip(dtype.itemsize * count)
        return np.frombuffer(self.data, dtype=dtype, count=count, offset=start)

    def skip(self, size: int) -> None:
        if self.offset + size > len(self.data):
            raise self._cut_off()
        self.offset += size

    def _cut_off(self) -> SceneError:
        return SceneError(f"{self.path}: ends after {len(self.data)} bytes, before its last entry. hint: copy it again")


class _line:
    """Context that turns an error in one line of a text file into a `SceneError` with file and line number."""

    def __init__(self, path: Path, number: int) -> None:
        self.path = path
        self.number = number

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, traceback) -> None:
        if isinstance(error, (ValueError, IndexError, OverflowError)):
            raise SceneError(f"{self.path}: line {self.number} is not as COLMAP writes it ({error})") from error


def _model_file(folder: Path, stem: str) -> Path:
    for suffix in (".bin", ".txt"):
        path = folder / f"{stem}{suffix}"
        if path.is_file():
            return path
    raise SceneError(f"{folder}: has no {stem}.bin or {stem}.txt. hint: a COLMAP model has cameras and images")


def _is_image(words: list[str]) -> bool:
    """Tell the line of an image, which ends in a name, from that of its keypoints, which are numbers."""
    if not words or len(words) % 3 == 0:
        try:
            list(map(float, words))
        except ValueError:
            return True
        return False
    return True


def _text_rows(path: Path, keep_empty: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Yield each line's number and words, without comments."""
    try:
        lines = read_file(path, _MAX_BYTES).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise SceneError(f"{path}: cannot be read ({e})") from e
    for number, text in enumerate(lines, start=1):
        words = text.split()
        if not text.startswith("#") and (words or keep_empty):
            yield number, words


def _param_names(model: str, count: int = 0) -> tuple[str, ...]:
    """Name a model's parameters: those of one that is not read by their numbers, `count` if it is unknown."""
    return CAMERA_MODELS.get(model) or tuple(map(str, range(UNREAD_MODELS.get(model, count))))


def _w2c(qvec: tuple | list, tvec: tuple | list, where: str) -> np.ndarray:
    """Build w2c [4, 4] from a quaternion (w, x, y, z) and a translation, both world to camera."""
    q = np.array(qvec, dtype=np.float64)
    norm = np.linalg.norm(q)
    if not np.isfinite(q).all() or not np.isfinite(tvec).all() or norm < 1e-6:
        raise SceneError(f"{where}: the pose has a NaN or a zero quaternion")
    w, x, y, z = q / norm
    w2c = np.eye(4)
    w2c[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    w2c[:3, 3] = tvec
    return w2c
