"""A render small enough for `lift3d doctor`: a textured wall, whose true picture is known."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lift3d_cli.config import RenderConfig
from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.lifting.sources import SourceViews
from lift3d_cli.machine.device import resolve_device
from lift3d_cli.pipeline.renderers import make_renderer

_WIDTH, _HEIGHT, _FOCAL, _WALL = 96, 72, 90.0, 4.0
# A right render has about 40 dB; one from the wrong depth or of the wrong photos is below 20.
_LEAST_PSNR = 28.0


@dataclass(frozen=True)
class SelfTest:
    """The result of `self_test`.

    Args:
        psnr: of the frame, in dB.
        seconds: of the frame, without loading the network.
        size: (width, height) of the frame.
    """

    psnr: float
    seconds: float
    size: tuple[int, int] = (_WIDTH, _HEIGHT)

    @property
    def is_right(self) -> bool:
        """True if the picture is what it must be."""
        return self.psnr > _LEAST_PSNR


def self_test(device: str) -> SelfTest:
    """Render a wall from four photos of it with the network that ships, and compare with what is there.

    Raises:
        ResourceError, ModelError: if there is no such device, or the weights are missing.
    """
    where = resolve_device(device)
    renderer = make_renderer(RenderConfig(memory="256MiB", planes=32), where)
    positions = [(-0.3, -0.2), (0.3, -0.2), (-0.3, 0.2), (0.3, 0.2)]
    cameras = [_camera(*position) for position in positions]
    images = [_photo(camera) for camera in cameras]
    valid = [torch.ones(_HEIGHT, _WIDTH, dtype=torch.bool) for _ in cameras]
    sources = SourceViews.stack(cameras, images, valid, where)
    target = _camera(0.0, 0.0)
    begun = time.monotonic()
    image = renderer.render(target, sources, (0.5 * _WALL, 2 * _WALL)).image.cpu()
    seconds = time.monotonic() - begun
    error = float((image - _photo(target)).square().mean())
    return SelfTest(-10 * float(np.log10(max(error, 1e-10))), seconds)


def _camera(x: float, y: float) -> Camera:
    w2c = np.eye(4)
    w2c[:2, 3] = -x, -y
    K = np.array([[_FOCAL, 0, _WIDTH / 2], [0, _FOCAL, _HEIGHT / 2], [0, 0, 1.0]])
    return Camera(K, w2c, _WIDTH, _HEIGHT)


def _photo(camera: Camera) -> Tensor:  # [3, H, W]
    """Compute what a camera sees of the wall: waves of three directions."""
    v, u = torch.meshgrid(torch.arange(_HEIGHT) + 0.5, torch.arange(_WIDTH) + 0.5, indexing="ij")
    x = (u - _WIDTH / 2) / _FOCAL * _WALL + camera.position[0]
    y = (v - _HEIGHT / 2) / _FOCAL * _WALL + camera.position[1]
    waves = [torch.sin(9 * x + 2 * y), torch.sin(3 * x - 8 * y), torch.sin(5 * x + 6 * y) * torch.sin(2 * x)]
    return (0.5 + 0.4 * torch.stack(waves)).float()
