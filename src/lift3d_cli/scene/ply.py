"""Reader of the points of a PLY file, ASCII or binary little-endian; only x, y, z are used."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lift3d_cli.errors import SceneError
from lift3d_cli.geometry.cameras import MAX_DISTANCE
from lift3d_cli.machine.reading import read_file

_NUMPY_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1",
    "short": "<i2", "int16": "<i2", "ushort": "<u2", "uint16": "<u2",
    "int": "<i4", "int32": "<i4", "uint": "<u4", "uint32": "<u4",
    "float": "<f4", "float32": "<f4", "double": "<f8", "float64": "<f8",
}  # fmt: skip


def read_ply_points(path: Path) -> np.ndarray:  # [N, 3]
    """Read the vertices' positions; those that are not finite, or farther than any scene, are left out.

    Raises:
        SceneError: if the file is not a PLY of this kind, or ends early.
    """
    data = _read(path)
    end = data.find(b"end_header")
    if not data.startswith(b"ply") or end < 0:
        raise SceneError(f"{path}: is not a PLY file")
    body = data[end:].partition(b"\n")[2]
    try:
        kind, count, fields = _parse_header(data[:end].decode("ascii", errors="replace"), path, len(body))
    except (ValueError, IndexError) as e:
        raise SceneError(f"{path}: its PLY header cannot be read ({e})") from e
    try:
        if kind == "ascii":
            rows = body.decode("ascii").split("\n")[:count]
            table = np.array([row.split()[: len(fields)] for row in rows], dtype=np.float64).reshape(count, len(fields))
            names = [name for name, _ in fields]
            xyz = table[:, [names.index(axis) for axis in "xyz"]]
        else:
            vertices = np.frombuffer(body, dtype=np.dtype(fields), count=count)
            xyz = np.stack([vertices[axis].astype(np.float64) for axis in "xyz"], axis=1)
    except (ValueError, IndexError, OverflowError) as e:
        raise SceneError(f"{path}: its {count} points cannot be read ({e}). hint: the file may be cut off") from e
    with np.errstate(invalid="ignore"):
        return xyz[(np.abs(xyz) < MAX_DISTANCE).all(axis=1)]


def _read(path: Path) -> bytes:
    try:
        return read_file(path, 2**32)
    except OSError as e:
        raise SceneError(f"{path}: cannot be read ({e.strerror or e})") from e


def _parse_header(header: str, path: Path, size: int) -> tuple[str, int, list[tuple[str, str]]]:
    """Parse the format's name, the number of vertices and their (name, numpy type) fields.

    Args:
        header: the text before the vertices.
        path: for messages.
        size: bytes after the header.
    """
    kind, count, fields, element = "", -1, [], ""
    for line in header.splitlines():
        words = line.split()
        if not words:
            continue
        if words[0] == "format":
            kind = words[1]
        elif words[0] == "element":
            if count < 0 and words[1] != "vertex":
                raise SceneError(f"{path}: its first element is {words[1]}, not vertex")
            element = words[1]
            count = int(words[2]) if element == "vertex" else count
        elif words[0] == "property" and element == "vertex":
            if words[1] not in _NUMPY_TYPES:
                raise SceneError(f"{path}: vertices have a property of type {words[1]}, which is not supported")
            fields.append((words[-1], _NUMPY_TYPES[words[1]]))
    if kind not in ("ascii", "binary_little_endian"):
        raise SceneError(f"{path}: format {kind!r} is not supported. hint: save it as ascii or binary_little_endian")
    if count > size:
        raise SceneError(f"{path}: has fewer bytes than points. hint: the file may be cut off")
    if count < 0 or not {"x", "y", "z"} <= {name for name, _ in fields}:
        raise SceneError(f"{path}: has no vertices with x, y and z")
    return kind, count, fields
