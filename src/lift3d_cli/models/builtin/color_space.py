"""sRGB <-> CIE Lab (D65), in torch: the colorizer keeps an image's L and replaces its ab."""

from __future__ import annotations

import torch
from torch import Tensor

# IEC 61966-2-1 primaries; each row is divided by its sum, the D65 white point, so that white is XYZ (1, 1, 1).
_XYZ_FROM_RGB = (
    (0.412453 / 0.950456, 0.357580 / 0.950456, 0.180423 / 0.950456),
    (0.212671, 0.715160, 0.072169),
    (0.019334 / 1.088754, 0.119193 / 1.088754, 0.950227 / 1.088754),
)
_EPSILON = (6 / 29) ** 3  # below it Lab is linear, so that its slope at black is finite
_KAPPA = (29 / 6) ** 2 / 3


def linear_from_srgb(rgb: Tensor) -> Tensor:
    """Convert sRGB in [0, 1] of any shape to linear light (IEC 61966-2-1)."""
    return torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4)


def _srgb_from_linear(rgb: Tensor) -> Tensor:
    return torch.where(rgb <= 0.0031308, rgb * 12.92, 1.055 * rgb.clamp_min(0.0031308) ** (1 / 2.4) - 0.055)


def _mix(matrix: Tensor, channels: Tensor) -> Tensor:
    return torch.einsum("ij,...jhw->...ihw", matrix, channels)


def lab_from_rgb(rgb: Tensor) -> Tensor:
    """Convert sRGB [..., 3, H, W] in [0, 1] to Lab: L in [0, 100], a and b about [-128, 127]."""
    xyz = _mix(rgb.new_tensor(_XYZ_FROM_RGB), linear_from_srgb(rgb))
    f = torch.where(xyz > _EPSILON, xyz.clamp_min(_EPSILON) ** (1 / 3), xyz * _KAPPA + 4 / 29)
    x, y, z = f.unbind(-3)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -3)


def rgb_from_lab(lab: Tensor) -> Tensor:
    """Convert Lab [..., 3, H, W] to sRGB in [0, 1]; out-of-gamut colours are clipped."""
    lightness, a, b = lab.unbind(-3)
    y = (lightness + 16) / 116
    f = torch.stack([y + a / 500, y, y - b / 200], -3)
    xyz = torch.where(f > 6 / 29, f**3, (f - 4 / 29) / _KAPPA)
    inverse = torch.linalg.inv(torch.tensor(_XYZ_FROM_RGB, dtype=torch.float64)).to(lab)
    return _srgb_from_linear(_mix(inverse, xyz)).clamp(0, 1)


def lightness(rgb: Tensor) -> Tensor:
    """Return L in [0, 100] of sRGB [..., 3, H, W] as [..., 1, H, W]; a grey pixel of the same L has the same value."""
    luminance = _mix(rgb.new_tensor(_XYZ_FROM_RGB[1:2]), linear_from_srgb(rgb))
    f = torch.where(luminance > _EPSILON, luminance.clamp_min(_EPSILON) ** (1 / 3), luminance * _KAPPA + 4 / 29)
    return 116 * f - 16
