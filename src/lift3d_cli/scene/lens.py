"""One calibrated lens: checked, and read from the keys of a `transforms.json` of nerfstudio and instant-ngp."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lift3d_cli.errors import SceneError
from lift3d_cli.scene.distortion import CAMERA_MODELS, distortion_from_coeffs
from lift3d_cli.scene.fields import angle, is_finite, number, short
from lift3d_cli.scene.scene import Distortion

_COEFFS = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
_FOCALS = ("fl_x", "fl_y", "camera_angle_x", "camera_angle_y", "x_fov", "y_fov")
_MODEL_KEYS = ("camera_model", "camera_type", "is_fisheye")
LENS_KEYS = frozenset((*_COEFFS, *_FOCALS, *_MODEL_KEYS, "w", "h", "cx", "cy"))
# What nerfstudio calls a pinhole camera with coefficients, by its CameraType, and instant-ngp by `is_fisheye`.
_ALIASES = {"PERSPECTIVE": "OPENCV", "FISHEYE": "OPENCV_FISHEYE", "BROWN_CONRADY": "BROWN"}
# Keys that bend, cut or smear a picture and that nothing here undoes: panoramas and f-theta lenses of instant-ngp,
# thin prisms, Metashape's affinity b1 b2, crops.
_REFUSED = re.compile(
    r"latlong|equirectangular|orthographic|panorama.*|ftheta_.*|rolling_shutter.*|[kpbs]\d+|s[xy]\d|skew|xi|omega|"
    r"distort.*|.*crop.*",
    re.IGNORECASE,
)
# A principal point farther from the middle, in image sizes, is rarely meant: crops reach a tenth.
_OFF_CENTRE = 0.25


@dataclass(frozen=True)
class Intrinsics:
    """Intrinsics of one calibrated camera, for a photo of `width` x `height` (not necessarily the size on disk)."""

    fx: float
    fy: float
    cx: float
    cy: float
    width: float
    height: float
    distortion: Distortion | None = None

    def matrix(self, photo_width: int, photo_height: int) -> np.ndarray:
        """Return K [3, 3] for a photo resized to this size."""
        sx, sy = photo_width / self.width, photo_height / self.height
        return np.array([[self.fx * sx, 0, self.cx * sx], [0, self.fy * sy, self.cy * sy], [0, 0, 1.0]])

    def check(self, where: str) -> None:
        """Raise a `SceneError` that names `where`, unless this is a lens."""
        numbers = (self.fx, self.fy, self.cx, self.cy, self.width, self.height)
        if not all(map(is_finite, [*numbers, *(self.distortion.coeffs if self.distortion else ())])):
            raise SceneError(f"{where}: the lens has a NaN or infinite number")
        if min(self.width, self.height) < 1:
            raise SceneError(f"{where}: its camera is for {self.width:g}x{self.height:g} pixels")
        if min(self.fx, self.fy) <= 0:
            raise SceneError(f"{where}: the focal length is {min(self.fx, self.fy):g}, needs pixels above 0")

    def doubt(self) -> str | None:
        """Say where the principal point is and why, if it is far from the middle of the picture; None otherwise."""
        x, y = self.cx / self.width, self.cy / self.height
        if max(abs(x - 0.5), abs(y - 0.5)) <= _OFF_CENTRE:
            return None
        place = f"({self.cx:g}, {self.cy:g}) of {self.width:g}x{self.height:g} pixels"
        if 0 < self.cx <= 1 and 0 < self.cy <= 1:
            return f"{place}. hint: it looks like parts of the size; write pixels, {self.cx * self.width:g} and so on"
        if max(x, y) > 0.75 and abs(x - y) < 0.2:
            return (
                f"{place}. hint: if the lens is that of photos of {2 * self.cx:.0f}x{2 * self.cy:.0f}, write that size"
            )
        return f"{place}. hint: is it of another photo, or of one before a crop or a turn?"


def lens_from_keys(values: dict[str, Any], size: tuple[float, float], where: str) -> Intrinsics:
    """Read a lens and its distortion from the keys of a `transforms.json`, see `pinhole_from_keys`."""
    lens = replace(pinhole_from_keys(values, size, where), distortion=_distortion(values, where))
    lens.check(where)
    return lens


def pinhole_from_keys(values: dict[str, Any], size: tuple[float, float], where: str) -> Intrinsics:
    """Read a lens without distortion from the keys of a `transforms.json`, for pictures of `size` (width, height).

    Args:
        values: the file's values, overridden by the frame's.
        size: in pixels.
        where: names the file and the frame in errors.

    Raises:
        SceneError: if a number or angle is impossible, there is no focal length, or a key means another picture than a
            pinhole camera with a known distortion gives.
    """
    for key, value in values.items():
        if key not in LENS_KEYS and _REFUSED.fullmatch(key) and _is_set(value):
            raise SceneError(
                f'{where}: "{key}" is {short(value)}, which cannot be undone. hint: use undistorted, uncropped photos '
                "of a pinhole camera, and delete the key"
            )
    (fx, fy), (width, height) = (_focal(values, i, size[i], where) for i in range(2)), size
    if fx is None and fy is None:
        near = sorted(key for key in values if re.fullmatch(r"f[xy]?|focal.*|K|.*intrinsic.*|.*fov.*", key, re.I))
        seen = f' (it has "{near[0]}")' if near else ""
        raise SceneError(f'{where}: no focal length{seen}. hint: the file needs "fl_x" or "camera_angle_x"')
    cx, cy = number(values, "cx", where), number(values, "cy", where)
    lens = Intrinsics(
        fx=fy if fx is None else fx,  # type: ignore[arg-type]
        fy=fx if fy is None else fy,  # type: ignore[arg-type]
        cx=width / 2 if cx is None else cx,
        cy=height / 2 if cy is None else cy,
        width=width,
        height=height,
    )
    lens.check(where)
    return lens


def unread_keys(items: Iterable[dict[str, Any]], known: Iterable[str]) -> tuple[str, ...]:
    """List the keys that are neither of a lens nor `known`, in the order that they first appear."""
    found = dict.fromkeys(key for item in items for key in item)
    return tuple(key for key in found if key not in LENS_KEYS and key not in known)


def _focal(values: dict[str, Any], axis: int, size: float, where: str) -> float | None:
    name = "xy"[axis]
    focal = number(values, f"fl_{name}", where)
    if focal is not None:
        return focal
    view = angle(values, f"camera_angle_{name}", where)
    if view is None:
        view = angle(values, f"{name}_fov", where, degrees=True)
    return None if view is None else 0.5 * size / math.tan(0.5 * view)


def _distortion(values: dict[str, Any], where: str) -> Distortion | None:
    coeffs = {name: number(values, name, where) or 0.0 for name in _COEFFS}
    stated = values.get("camera_model") or values.get("camera_type")
    is_fisheye = bool(values.get("is_fisheye"))
    model = str(stated or ("OPENCV_FISHEYE" if is_fisheye else "OPENCV")).upper().replace("-", "_")
    model = _ALIASES.get(model, model)
    if is_fisheye and "FISHEYE" not in model:
        raise SceneError(f'{where}: has "is_fisheye" and "camera_model" {stated}. hint: delete the one that is wrong')
    if model == "OPENCV" and (coeffs["k5"] or coeffs["k6"]):
        model = "FULL_OPENCV"  # nothing else has these
    if model == "OPENCV" and coeffs["k4"]:
        raise SceneError(
            f'{where}: "k4" is {coeffs["k4"]:g}, which has three meanings. hint: "camera_model": "BROWN" for '
            '1 + k1 r^2 + ... + k4 r^8 (Metashape, nerfstudio), "OPENCV_FISHEYE" for OpenCV\'s fisheye, or '
            '"FULL_OPENCV" for its division by 1 + k4 r^2'
        )
    names = (*CAMERA_MODELS.get(model, _COEFFS), "k3" if model == "OPENCV" else "")
    if foreign := [name for name in _COEFFS if coeffs[name] and name not in names]:
        raise SceneError(
            f'{where}: "{foreign[0]}" is {coeffs[foreign[0]]:g}, but camera model {model} has no such coefficient. '
            'hint: correct "camera_model"'
        )
    try:
        return distortion_from_coeffs(model, coeffs)
    except SceneError as e:
        raise SceneError(f"{where}: {e}") from e


def _is_set(value: Any) -> bool:
    """Return True unless the value is null, false, empty or nothing but zeros."""
    if isinstance(value, (list, tuple)):
        return any(_is_set(item) for item in value)
    return bool(value)
