"""Tasks that need no model: a render's own colour, depth and normals, as numbers and as pictures."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.cache.renders import Render
from lift3d_cli.geometry.cameras import Camera

DEPTH_COLORS = cv2.COLORMAP_TURBO
# Of the pixels of all frames; what lies beyond is shown in the colour of the end.
_SHOWN = (0.01, 0.99)
_PIXELS = 2**20  # that are looked at for it


def colored(values: np.ndarray, colors: int) -> np.ndarray:
    """Colour [h, w] in [0, 1] by a colour map of OpenCV: [h, w, 3] uint8."""
    gray = (np.clip(values, 0, 1) * 255).round().astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(gray, colors), cv2.COLOR_BGR2RGB)


def shown_depths(render: Render) -> tuple[float, float]:
    """Return the (near, far) z-depth that pictures of depth span: one range for all frames, so that none flickers."""
    inverse, pixels = [], max(1, _PIXELS // render.num_frames)
    for index in range(render.num_frames):
        maps = render.read_maps(index)
        found = 1 / maps.depth[maps.coverage > 127]
        inverse.append(found[:: max(1, len(found) // pixels)][:pixels])
    values = torch.cat(inverse)
    if not len(values):
        return render.depth_range(0)
    far, near = (float(1 / values.quantile(share)) for share in _SHOWN)
    return near, max(far, near * (1 + 1e-6))


def depth_picture(depth: Tensor, shown: tuple[float, float]) -> Tensor:
    """Colour z-depth [H, W] evenly in 1/z, from red (near) to blue (far): [3, H, W] in [0, 1]."""
    near, far = shown
    share = (1 / depth - 1 / far) / (1 / near - 1 / far)
    return torch.from_numpy(colored(share.numpy(), DEPTH_COLORS)).permute(2, 0, 1).float() / 255


def normals(depth: Tensor, camera: Camera) -> Tensor:  # [3, H, W]
    """Compute the unit normals of the surface that z-depth [H, W] shows, in the camera's OpenGL axes.

    +X is right, +Y up, +Z towards the camera. 1/z is linear in the pixels of a plane, and its gradient is the normal,
    so planes are exact; at an edge of depth the flatter side counts.
    """
    height, width = depth.shape
    inverse = _blurred(1 / depth[None, None].float())
    along_u, along_v = (_flatter_slope(inverse, axis) for axis in (3, 2))
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    offset = inverse[0, 0] - along_u * u - along_v * v
    plane = torch.stack([along_u, along_v, offset])  # plane . (u, v, 1) = 1 / z
    normal = torch.einsum("ji,jhw->ihw", torch.tensor(camera.K, dtype=torch.float32), plane)
    facing_opengl = torch.tensor([-1.0, 1.0, 1.0])[:, None, None]  # minus, and from OpenCV's axes
    return F.normalize(normal * facing_opengl, dim=0)


def _blurred(inverse: Tensor) -> Tensor:
    """Blur [1, 1, H, W] by a Gaussian of a pixel, which differences of neighbours need."""
    weights = torch.exp(-(torch.arange(-2.0, 3.0) ** 2) / 2)
    weights /= weights.sum()
    padded = F.pad(inverse, (2, 2, 2, 2), mode="replicate")
    return F.conv2d(F.conv2d(padded, weights[None, None, None]), weights[None, None, :, None])


def _flatter_slope(inverse: Tensor, axis: int) -> Tensor:  # [H, W]
    """Return the smaller of the differences to the next and to the previous pixel."""
    if inverse.shape[axis] < 2:
        return torch.zeros_like(inverse[0, 0])
    difference = inverse.diff(dim=axis)
    first, last = difference.narrow(axis, 0, 1), difference.narrow(axis, -1, 1)
    ahead, behind = torch.cat([difference, last], axis), torch.cat([first, difference], axis)
    return torch.where(ahead.abs() < behind.abs(), ahead, behind)[0, 0]
