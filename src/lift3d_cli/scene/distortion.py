"""Lens distortion: the camera models of COLMAP and nerfstudio, and the map that undoes their distortion. Needs no cv2.

All models are expressed in three: OpenCV's "opencv" (polynomial or rational, tangential) and "opencv_fisheye", and
"brown", a polynomial of one more degree, tangential.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from lift3d_cli.errors import SceneError
from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.scene.scene import Distortion

# Parameter names per camera model, in COLMAP's order.
CAMERA_MODELS = {
    "SIMPLE_PINHOLE": ("f", "cx", "cy"),
    "PINHOLE": ("fx", "fy", "cx", "cy"),
    "SIMPLE_RADIAL": ("f", "cx", "cy", "k1"),
    "RADIAL": ("f", "cx", "cy", "k1", "k2"),
    "OPENCV": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2"),
    "OPENCV_FISHEYE": ("fx", "fy", "cx", "cy", "k1", "k2", "k3", "k4"),
    "FULL_OPENCV": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"),
    "SIMPLE_RADIAL_FISHEYE": ("f", "cx", "cy", "k1"),
    "RADIAL_FISHEYE": ("f", "cx", "cy", "k1", "k2"),
    "SIMPLE_FISHEYE": ("f", "cx", "cy"),
    "FISHEYE": ("fx", "fy", "cx", "cy"),
    # Not COLMAP's: 1 + k1 r^2 + k2 r^4 + k3 r^6 + k4 r^8, as Metashape and nerfstudio have it.
    "BROWN": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3", "k4"),
}
# COLMAP's models that are not read, and how many parameters they have.
UNREAD_MODELS = {
    "FOV": 5, "THIN_PRISM_FISHEYE": 12, "RAD_TAN_THIN_PRISM_FISHEYE": 16, "SIMPLE_DIVISION": 4, "DIVISION": 5,
    "EUCM": 6, "EQUIRECTANGULAR": 2,
}  # fmt: skip
_OPENCV_ORDER = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
_FISHEYE_ORDER = ("k1", "k2", "k3", "k4")
# Steps of the fixed-point iteration that inverts a distortion, and the error that is left: a pixel in a thousand.
_UNBEND_STEPS, _UNBEND_TOLERANCE = 40, 1e-3
_BROWN_ORDER = ("k1", "k2", "p1", "p2", "k3", "k4")


def check_camera_model(model: str) -> str:
    """Return the model's name, or raise `SceneError` with it and the supported ones."""
    if model not in CAMERA_MODELS:
        raise SceneError(
            f"camera model {model} cannot be read. hint: undistort the photos (`colmap image_undistorter`), or use one "
            f"of {', '.join(CAMERA_MODELS)}"
        )
    return model


def distortion_from_coeffs(model: str, coeffs: dict[str, float]) -> Distortion | None:
    """Build the distortion of a camera model from its named coefficients (k1, p1, ...); absent ones are 0.

    A perspective model whose coefficients are all 0 has no distortion: None. A fisheye always has one.
    """
    if "FISHEYE" in check_camera_model(model):
        return Distortion("opencv_fisheye", tuple(float(coeffs.get(name, 0.0)) for name in _FISHEYE_ORDER))
    is_brown = model == "BROWN" and coeffs.get("k4")
    values = tuple(float(coeffs.get(name, 0.0)) for name in (_BROWN_ORDER if is_brown else _OPENCV_ORDER))
    if not any(values):
        return None
    return Distortion("brown" if is_brown else "opencv", values if any(values[4:]) else values[:4])


def distort(
    distortion: Distortion,
    x: np.ndarray,  # any shapes that broadcast to one, on the pinhole image plane z = 1
    y: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Apply the distortion: map a pinhole ray (x, y, 1) to the plane z = 1 before K. OpenCV's formulas."""
    r2 = x * x + y * y
    if distortion.model == "opencv_fisheye":
        r = np.sqrt(r2)
        # theta / r -> 1 on the axis; the guard avoids 0 / 0.
        scale = np.where(r > 1e-8, _fisheye_radius(distortion.coeffs, r) / np.maximum(r, 1e-8), 1.0)
        return x * scale, y * scale
    p1, p2 = distortion.coeffs[2:4]
    scale = _radial_factor(distortion, r2)
    if not (p1 or p2):
        return x * scale, y * scale
    xy2 = 2 * x * y
    return x * scale + p1 * xy2 + p2 * (r2 + 2 * x * x), y * scale + p1 * (r2 + 2 * y * y) + p2 * xy2


def pinhole_rays(uv: np.ndarray, K: np.ndarray, distortion: Distortion | None) -> np.ndarray:  # [M, 3]
    """Return the ray (x, y, 1) of each pixel uv [M, 2] of a distorted photo; NaN where the lens shows no such ray."""
    y = (uv[:, 1] - K[1, 2]) / K[1, 1]
    x = (uv[:, 0] - K[0, 2] - K[0, 1] * y) / K[0, 0]
    rays = np.stack([x, y, np.ones_like(x)], axis=1)
    if distortion is None:
        return rays
    goal = rays[:, :2].T
    with np.errstate(all="ignore"):  # what diverges is NaN in the end
        bent = goal
        for _ in range(_UNBEND_STEPS):
            bent = bent + goal - np.stack(distort(distortion, *bent))
        missed = np.abs(goal - np.stack(distort(distortion, *bent))).max(axis=0)
    rays[:, :2] = np.where(missed < _UNBEND_TOLERANCE, bent, np.nan).T
    return rays


def undistortion_map(camera: Camera, distortion: Distortion) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find, for each pixel of the pinhole image, its position in the distorted photo. Cached by the camera's values.

    Returns:
        source_x, source_y: [H, W] float32, positions in the photo in OpenCV pixels (first centre at 0), for cv2.remap.
        has_source: [H, W] bool, False where the photo does not show the pixel.
    """
    K = tuple(float(value) for value in camera.K.ravel())
    return _undistortion_map(K, camera.width, camera.height, distortion)


# 9 bytes per pixel: four 12-megapixel cameras take 430 MB, and most scenes have one.
@lru_cache(maxsize=4)
def _undistortion_map(
    K_values: tuple[float, ...], width: int, height: int, distortion: Distortion
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    K = np.array(K_values).reshape(3, 3)
    v = np.arange(height)[:, None] + 0.5
    u = np.arange(width)[None, :] + 0.5
    y = (v - K[1, 2]) / K[1, 1]
    x = (u - K[0, 2] - K[0, 1] * y) / K[0, 0]
    bent_x, bent_y = distort(distortion, x, y)
    source_u = K[0, 0] * bent_x + K[0, 1] * bent_y + K[0, 2]
    source_v = K[1, 1] * bent_y + K[1, 2]
    has_source = (source_u >= 0) & (source_u <= width) & (source_v >= 0) & (source_v <= height)
    fold = _fold_radius(distortion, float(np.hypot(np.abs(x).max(), np.abs(y).max())))
    if np.isfinite(fold):
        has_source &= x * x + y * y <= fold**2
    source_x = opencv_from_corner_pixels(source_u).astype(np.float32)
    source_y = opencv_from_corner_pixels(source_v).astype(np.float32)
    maps = (source_x, source_y, has_source)
    for array in maps:
        array.setflags(write=False)  # shared by all callers with this camera
    return maps


def opencv_from_corner_pixels(uv: np.ndarray) -> np.ndarray:
    """Convert our pixels, with the image's corner at (0, 0), to OpenCV's, with the first pixel's centre there."""
    return uv - 0.5


def corner_from_opencv_pixels(uv: np.ndarray) -> np.ndarray:
    """Convert OpenCV's pixels, with the first pixel's centre at (0, 0), to ours, with the image's corner there."""
    return uv + 0.5


def _radial_factor(distortion: Distortion, r2: np.ndarray) -> np.ndarray:
    coeffs = distortion.coeffs
    k1, k2 = coeffs[:2]
    if distortion.model == "brown":
        k3, k4 = coeffs[4:]
        return 1 + r2 * (k1 + r2 * (k2 + r2 * (k3 + r2 * k4)))
    k3, k4, k5, k6 = coeffs[4:] if len(coeffs) > 4 else (0.0, 0.0, 0.0, 0.0)
    factor = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    if k4 or k5 or k6:
        factor = factor / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    return factor


def _fisheye_radius(coeffs: tuple[float, ...], r: np.ndarray) -> np.ndarray:
    k1, k2, k3, k4 = coeffs
    theta = np.arctan(r)
    t2 = theta * theta
    return theta * (1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4))))


def _fold_radius(distortion: Distortion, r_max: float) -> float:
    """Return the radius on the plane z = 1 from which the polynomial decreases, or infinity.

    Beyond the angles that it was fitted to, a polynomial may decrease and show parts of the photo twice.
    """
    r = np.linspace(0.0, max(r_max, 1e-6), 2049)
    if distortion.model == "opencv_fisheye":
        bent = _fisheye_radius(distortion.coeffs, r)
    else:
        bent = r * _radial_factor(distortion, r * r)
    folds = np.flatnonzero(np.diff(bent) <= 0)
    return float(r[folds[0]]) if len(folds) else float("inf")
