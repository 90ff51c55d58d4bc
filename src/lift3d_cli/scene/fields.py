"""Reads JSON and checks the values in it: numbers, angles and poses. The same for every format.

`where` names the file and the view for the error message.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from lift3d_cli.errors import SceneError
from lift3d_cli.machine.reading import read_file

# Columns of c2w: OpenGL looks along -Z with +Y up, OpenCV along +Z with +Y down.
OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0])
# Largest deviation of a rotation in a file from a scaled rotation. Rounded digits cost 1e-4, a wrong matrix 1e-1.
_RIGID_TOLERANCE = 1e-3
# No lens sees less, and the tangent of a smaller angle may be 0.
_LEAST_ANGLE = 1e-7


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        SceneError: with the line of the syntax error.
    """
    try:
        data = parse_json(read_file(path, 2**30), str(path))
    except OSError as e:
        raise SceneError(f"{path}: cannot be read ({e.strerror or e})") from e
    if not isinstance(data, dict):
        raise SceneError(f"{path}: is a {type(data).__name__}, not a JSON object")
    return data


def parse_json(text: str | bytes, where: str) -> Any:
    """Parse JSON; of bytes, the encoding is found out: UTF-8, 16 or 32, with a byte order mark or without.

    Raises:
        SceneError: if it is none, or ends early.
    """
    try:
        return json.loads(text.lstrip("\ufeff") if isinstance(text, str) else text)
    except json.JSONDecodeError as e:
        if not e.doc.strip():
            raise SceneError(f"{where}: is empty. hint: copy or export it again") from e
        # Brackets that are still open at the end of the text: it was written or copied only in part.
        if e.pos >= len(e.doc.rstrip()) or e.msg.startswith("Unterminated string"):
            raise SceneError(
                f"{where}: is cut off at line {e.lineno} column {e.colno} ({e.msg}). hint: copy or export it again"
            ) from e
        raise SceneError(f"{where}: is not valid JSON (line {e.lineno} column {e.colno}: {e.msg})") from e
    except UnicodeDecodeError as e:
        raise SceneError(f"{where}: is not text. hint: give a JSON file") from e
    except (ValueError, RecursionError) as e:
        raise SceneError(f"{where}: is not valid JSON ({type(e).__name__})") from e


def number(item: dict[str, Any], key: str, where: str) -> float | None:
    """Return a finite number; None if the key is absent or null."""
    value = item.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not is_finite(value):
        raise SceneError(f'{where}: "{key}" is {short(value)}, needs a finite number')
    return float(value)


def needed_number(item: dict[str, Any], key: str, where: str) -> float:
    """Return a finite number that must be there."""
    value = number(item, key, where)
    if value is None:
        raise SceneError(f'{where}: lacks "{key}"' if key not in item else f'{where}: "{key}" is null, needs a number')
    return value


def angle(item: dict[str, Any], key: str, where: str, degrees: bool = False) -> float | None:
    """Return a full angle of view in radians, or None.

    Raises:
        SceneError: if it is none; radians above pi are probably degrees.
    """
    value = number(item, key, where)
    if value is None:
        return None
    limit, unit = (180.0, "degrees between 0 and 180") if degrees else (math.pi, "radians between 0 and pi")
    if not _LEAST_ANGLE < value < limit:
        looks = not degrees and 0 < value < 180
        hint = f". hint: if these are degrees, write {math.radians(value):.6g}" if looks else ""
        raise SceneError(f'{where}: "{key}" is {value:g}, needs {unit}{hint}')
    return math.radians(value) if degrees else value


def matrix(item: dict[str, Any], key: str, where: str) -> np.ndarray:
    """Read a camera-to-world matrix [4, 4] from nested lists or 16 (or 12) numbers, row by row."""
    if key not in item:
        raise SceneError(f'{where}: lacks "{key}"')
    rows = item[key]
    try:
        flat = [value for row in rows for value in row] if isinstance(rows[0], list) else list(rows)
    except (TypeError, KeyError, IndexError) as e:
        raise SceneError(f'{where}: "{key}" is {short(rows)}, needs a 4x4 matrix') from e
    ragged = isinstance(rows[0], list) and any(len(row) != 4 for row in rows)
    if ragged or len(flat) not in (12, 16):
        raise SceneError(f'{where}: "{key}" has {len(flat)} numbers, needs a 4x4 matrix')
    if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in flat):
        raise SceneError(f'{where}: "{key}" holds something that is not a number')
    if not all(is_finite(value) for value in flat):
        raise SceneError(f'{where}: "{key}" has a NaN or infinite number')
    values = np.eye(4)
    values[: len(flat) // 4] = np.array(flat, dtype=np.float64).reshape(-1, 4)
    if np.abs(values[3] - [0, 0, 0, 1]).max() > 1e-6:
        is_transposed = np.abs(values[:, 3] - [0, 0, 0, 1]).max() <= 1e-6
        hint = ". hint: it is written column by column; transpose it" if is_transposed else ""
        raise SceneError(f'{where}: "{key}" has the last row {short(flat[12:])}, needs [0, 0, 0, 1]{hint}')
    return values


def matrices(items: Sequence[dict[str, Any]], key: str, wheres: Sequence[str]) -> np.ndarray:
    """Read a matrix of each item as [N, 4, 4], see `matrix`; at once if all are written as they usually are."""
    usual = _stacked([item.get(key) for item in items])
    if usual is not None:
        return usual
    return np.stack([matrix(item, key, where) for item, where in zip(items, wheres, strict=True)])


def _stacked(values: list[Any]) -> np.ndarray | None:
    """Stack lists of 4 x 4 or 16 finite numbers as [N, 4, 4]; None if one is anything else, which may be an error."""
    try:
        stacked = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    if stacked.shape[1:] not in ((4, 4), (16,)):
        return None
    flat = chain.from_iterable(values)
    # Booleans and texts of digits are converted too, and are no numbers.
    if not set(map(type, chain.from_iterable(flat) if stacked.ndim == 3 else flat)) <= {int, float}:
        return None
    stacked = stacked.reshape(-1, 4, 4)
    is_usual = np.isfinite(stacked).all() and np.abs(stacked[:, 3] - [0, 0, 0, 1]).max() <= 1e-6
    return stacked if is_usual else None


def w2c_from_c2w(c2w: np.ndarray, where: str, opengl: bool = False) -> np.ndarray:
    """Invert a pose [3 or 4, 4], see `w2cs_from_c2ws`."""
    return w2cs_from_c2ws(c2w[None], [where], opengl)[0]


def w2cs_from_c2ws(c2w: np.ndarray, wheres: Sequence[str], opengl: bool = False) -> np.ndarray:
    """Invert poses to rigid w2c [N, 4, 4] with OpenCV axes; a uniform scale of their axes is removed.

    Args:
        c2w: [N, 3 or 4, 4] camera to world.
        wheres: what an error calls them.
        opengl: True for OpenGL axes (+Y up, looking along -Z), False for OpenCV's.

    Raises:
        SceneError: if a pose is not finite, or not a scaled rotation and a translation.
    """
    finite = np.isfinite(c2w).all((1, 2))
    if not finite.all():
        raise SceneError(f"{wheres[int(finite.argmin())]}: the pose has a NaN or infinite number")
    axes = c2w[:, :3, :3] @ OPENCV_FROM_OPENGL if opengl else c2w[:, :3, :3]
    with np.errstate(all="ignore"):  # huge numbers overflow, and are then rejected as not rigid
        det = np.linalg.det(axes)
        unscaled = axes @ axes.swapaxes(1, 2) / np.cbrt(det)[:, None, None] ** 2
        rigid = (det > 0) & (np.abs(unscaled - np.eye(3)).max((1, 2)) <= _RIGID_TOLERANCE)
    if not rigid.all():
        first = int(rigid.argmin())
        raise SceneError(
            f"{wheres[first]}: the pose is not a rotation and a translation (its 3x3 part is singular, mirrored or "
            f"sheared, determinant {det[first]:.3g}). hint: export the poses again"
        )
    # The nearest rotation (Procrustes) removes the scale and the rounding of printed digits.
    u, _, vt = np.linalg.svd(axes)
    inverse = (u @ vt).swapaxes(1, 2)
    w2c = np.tile(np.eye(4), (len(c2w), 1, 1))
    w2c[:, :3, :3] = inverse
    w2c[:, :3, 3:] = -inverse @ c2w[:, :3, 3:]
    return w2c


def short(value: Any) -> str:
    """Return a value as it is shown in an error."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def is_finite(value: Any) -> bool:
    """Tell if a value is a number that fits a float."""
    try:
        return math.isfinite(value)
    except (TypeError, OverflowError):  # an integer too large for a float
        return False
