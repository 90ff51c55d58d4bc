"""The plane sweep in the target frustum: what the source views show at each voxel. No gradient runs through it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.geometry.epipolar import EpipolarLines, ray_angles
from lift3d_cli.geometry.grids import inside, pixel_centers, sample_map
from lift3d_cli.lifting.sources import SourceViews, box


@dataclass(frozen=True)
class VoxelViews:
    """R voxels, as V source views see them.

    Args:
        colors: [V, 3, R] sRGB.
        contrasts: [V, 3, R] the same after local normalisation: exposure and shading are gone.
        seen: [V, R] bool, True where the voxel projects onto a usable pixel.
        angle: [V, R] radians, between the lines of sight from the target and from the view.
    """

    colors: Tensor
    contrasts: Tensor
    seen: Tensor
    angle: Tensor


@torch.no_grad()
def plane_sweep(
    target: Camera,
    sources: SourceViews,
    depth_range: tuple[float, float],
    num_planes: int,
    step: int,
    memory_bytes: int,
    statistics: Callable[[VoxelViews], Tensor],
) -> Tensor:  # [N, D, h, w]
    """Compute N statistics over the source views at every voxel.

    Args:
        target: the camera.
        sources: the photos.
        depth_range: (near, far) z-depth; the D planes lie evenly in 1/z between them.
        num_planes: D.
        step: target pixels per voxel, in both directions.
        memory_bytes: rough bound on temporaries.
        statistics: of R voxels, as [N, R].
    """
    near, far = depth_range
    device = sources.images.device
    width, height = -(-target.width // step), -(-target.height // step)
    maps = _sweep_maps(sources, step)
    lines = EpipolarLines.between(target, sources.cameras, device)
    uv = pixel_centers(width, height, device) * step
    depths = 1 / torch.linspace(1 / near, 1 / far, num_planes, device=device)
    # Per ray and view: the sampled maps, and about as much again three times over while they are compared.
    chunk = max(1, memory_bytes // (4 * maps.shape[0] * maps.shape[1] * 4))
    if device.type == "cpu":
        chunk = min(chunk, 4096)  # then a plane's temporaries stay in the processor's cache: a fifth faster
    columns = []
    for rays in uv.split(chunk):
        planes = [statistics(_look(maps, lines, rays, depth, step)) for depth in depths]
        columns.append(torch.stack(planes, 1))
    return torch.cat(columns, 2).reshape(-1, num_planes, height, width)


def _sweep_maps(sources: SourceViews, step: int) -> Tensor:  # [V, 7, h, w]
    """Colour, locally normalised colour and validity, at the sweep's resolution."""
    images, valid = (_shrink(x, step) for x in (sources.images, sources.valid))
    mean = box(images)
    variance = (box(images**2) - mean**2).clamp(min=0).mean(1, keepdim=True)
    # 1e-3 is (8 levels of 255)^2: below it a patch is noise, which must not be blown up to contrast.
    return torch.cat([images, (images - mean) / (variance + 1e-3).sqrt(), valid], 1)


def _look(maps: Tensor, lines: EpipolarLines, rays: Tensor, depth: Tensor, step: int) -> VoxelViews:
    t = depth.expand(len(rays), 1)
    uv, _ = lines.project(rays, t)
    uv = uv[:, :, 0] / step
    values = sample_map(maps, uv)  # [V, 7, R]
    seen = inside(uv, maps.shape[3], maps.shape[2]) & (values[:, 6] > 0.99)
    return VoxelViews(values[:, :3], values[:, 3:6], seen, ray_angles(lines, rays, t)[..., 0])


def _shrink(maps: Tensor, step: int) -> Tensor:
    """Mean of each block of step x step pixels; a block cut off by the border is the mean of what there is."""
    return F.avg_pool2d(maps, step, ceil_mode=True, count_include_pad=False) if step > 1 else maps


def smooth_volume(volume: Tensor, passes: int) -> Tensor:  # [N, D, h, w]
    """Blur a volume with a 3x3x3 box, `passes` times."""
    for _ in range(passes):
        volume = F.avg_pool3d(F.pad(volume[None], (1,) * 6, mode="replicate"), 3, stride=1)[0]
    return volume
