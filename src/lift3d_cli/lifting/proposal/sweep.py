"""The plane sweep in the target frustum: statistics of the source views at each voxel. No gradient runs through it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.geometry.epipolar import EpipolarLines, ray_angles
from lift3d_cli.geometry.grids import inside, pixel_centers, sample_map
from lift3d_cli.lifting.sources import SourceViews, contrast
from lift3d_cli.lifting.surfaces import SurfaceEvidence, surface_evidence
from lift3d_cli.machine.parallel import mapped, num_workers
from lift3d_cli.ops.windows import window_mean

# On a CPU: the temporaries of this many voxels stay in a processor's cache.
_VOXELS_AT_ONCE = 16384
# Target rays across and down, and depths per ray, for measuring disparity.
_PROBES, _PROBE_DEPTHS = 3, 33


@dataclass(frozen=True)
class VoxelViews:
    """R voxels of each of B targets (or of one, without *B), as seen by V source views.

    Args:
        appearance: [*B, V, 6, R] sRGB, and the same locally normalised (contrast), free of exposure and shading.
        seen: [*B, V, R] bool, True where the voxel projects onto a usable pixel.
        angle: [*B, V, R] radians, between the lines of sight from the target and from the view.
        evidence: of the views' own surfaces, or None without any.
    """

    appearance: Tensor
    seen: Tensor
    angle: Tensor
    evidence: SurfaceEvidence | None = None

    def deviation(self, reference: Tensor) -> tuple[Tensor, Tensor]:  # [*B, 6, R] to [*B, V, R], [*B, V, R]
        """Return the mean absolute difference of each view's colour, and of its contrast, from a reference."""
        apart = (self.appearance - reference[..., None, :, :]).abs_()
        return apart[..., :3, :].mean(-2), apart[..., 3:, :].mean(-2)


@dataclass(frozen=True)
class Frustum:
    """The voxels of a plane sweep: in front of a target, on planes spaced evenly in 1/z.

    Args:
        width, height: number of voxels across and down a plane.
        num_planes: D.
        step: target pixels per voxel, in both directions.
        near, far: z-depth of the first and last plane; [B] each for B targets at once.
    """

    width: int
    height: int
    num_planes: int
    step: int
    near: float | Tensor
    far: float | Tensor

    @classmethod
    def before(cls, target: Camera, depth_range: tuple[float, float], num_planes: int, step: int) -> Frustum:
        """Build the frustum of a whole target."""
        return cls(*sweep_size(target, step), num_planes, step, *depth_range)

    @property
    def inverse_step(self) -> float | Tensor:  # [*B]
        """From plane to plane in 1/z."""
        return (1 / self.near - 1 / self.far) / max(self.num_planes - 1, 1)

    def depths(self, device: torch.device) -> Tensor:  # [*B, D] z-depth
        """Return the planes' z-depths."""
        if not isinstance(self.near, Tensor):
            return 1 / torch.linspace(1 / self.near, 1 / self.far, self.num_planes, device=device)
        near, far = 1 / self.near[:, None], 1 / self.far[:, None]
        return 1 / (near + (far - near) * torch.linspace(0, 1, self.num_planes, device=device))


@torch.no_grad()
def plane_sweep(
    sources: SourceViews,
    lines: EpipolarLines,
    frustum: Frustum,
    memory_bytes: int,
    statistics: Callable[[VoxelViews], Tensor],
    out: Tensor,
) -> None:
    """Compute N statistics over the source views at every voxel.

    Args:
        sources: the photos.
        lines: epipolar lines of the target in them.
        frustum: the voxels.
        memory_bytes: rough bound on temporaries.
        statistics: computes [*B, N, R] of R voxels.
        out: [*B, N, D, h, w] where they are stored, in any order of the axes but the last two.
    """
    device = sources.images.device
    maps = _sweep_maps(sources, frustum.step)
    uv = pixel_centers(frustum.width, frustum.height, device) * frustum.step
    depths = frustum.depths(device)[..., None, :]
    # Per voxel and view: the sampled maps, and about three times as much while they are compared.
    chunk = memory_bytes // (4 * math.prod(maps.shape[:-2]) * 4 * num_workers(device))
    if device.type == "cpu":
        chunk = min(chunk, _VOXELS_AT_ONCE)

    columns, num_rays = out.view(*out.shape[:-2], -1), max(1, chunk // frustum.num_planes)

    def store(first: int) -> None:
        part = slice(first, first + num_rays)
        rays = uv[part]
        t = depths.expand(*depths.shape[:-2], len(rays), -1)
        of_rays = statistics(_voxel_views(maps, sources.surfaces, lines, rays, t, frustum))
        columns[..., part] = of_rays.unflatten(-1, t.shape[-2:]).mT

    for _ in mapped(store, range(0, len(uv), num_rays), device):
        pass


def disparity(target: Camera, cameras: Sequence[Camera], depth_range: tuple[float, float]) -> float:
    """Measure how many pixels a point moves in the photos between near and far: the median photo's, or 0 without any.

    Where a photo shows only a part of that path, the rest is extrapolated.
    """
    lines = EpipolarLines.between(target, cameras)
    rays = pixel_centers(_PROBES, _PROBES) * torch.tensor([target.width / _PROBES, target.height / _PROBES])
    near, far = depth_range
    uv, _ = lines.project(rays, 1 / torch.linspace(1 / near, 1 / far, _PROBE_DEPTHS).expand(len(rays), -1))
    of_photos = []
    for points, camera in zip(uv, cameras, strict=True):  # [rays, depths, 2]
        seen = inside(points, camera.width, camera.height)
        steps = points.diff(dim=1).norm(dim=-1)[seen[:, 1:] & seen[:, :-1]]
        if len(steps):
            of_photos.append(float(steps.mean()) * (_PROBE_DEPTHS - 1))
    return statistics.median(of_photos or [0.0])


def sweep_size(target: Camera, step: int) -> tuple[int, int]:
    """Return the number of voxels across and down a plane."""
    return -(-target.width // step), -(-target.height // step)


def _sweep_maps(sources: SourceViews, step: int) -> Tensor:  # [*B, V, 7, h, w]
    """Return colour, locally normalised colour and validity, at the sweep's resolution."""
    images, valid = (_shrink(x, step) for x in (sources.images, sources.valid))
    return torch.cat([images, contrast(images), valid], -3)


def _voxel_views(
    maps: Tensor, surfaces: Tensor | None, lines: EpipolarLines, rays: Tensor, t: Tensor, frustum: Frustum
) -> VoxelViews:
    """Sample the maps at the voxels at z-depths `t` [*B, R, D] on `rays` [R, 2], flattened to R * D."""
    pixels, z = lines.project(rays, t)
    uv = pixels.flatten(-3, -2) / frustum.step
    values = sample_map(maps, uv)  # [*B, V, 7, R * D]
    seen = inside(uv, maps.shape[-1], maps.shape[-2]) & (values[..., 6, :] > 0.99)
    evidence = None
    if surfaces is not None:
        evidence = surface_evidence(surfaces, pixels, z, t, frustum.inverse_step).flattened()
    return VoxelViews(values[..., :6, :], seen, ray_angles(lines, rays, t).flatten(-2), evidence)


def _shrink(maps: Tensor, step: int) -> Tensor:
    """Average blocks of step x step pixels; a block cut off by the border is the mean of its remaining pixels."""
    if step == 1:
        return maps
    small = F.avg_pool2d(maps.flatten(0, -4), step, ceil_mode=True, count_include_pad=False)
    return small.reshape(*maps.shape[:-2], *small.shape[-2:])


def smooth_volume(volume: Tensor, passes: int) -> Tensor:  # [*B, N, D, h, w]
    """Blur a volume with a 3x3x3 box, `passes` times."""
    volume = volume.contiguous()  # its voxels may lie apart, between those of other channels
    for _ in range(passes):
        volume = window_mean(volume, 3, num_axes=3)
    return volume
