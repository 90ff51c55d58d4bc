"""Epipolar geometry: where a target ray projects in the source photos, as one affine form per source view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from lift3d_cli.geometry.cameras import Camera


@dataclass(frozen=True)
class EpipolarLines:
    """All epipolar lines of one target camera in V source views.

    The target pixel (u, v) at z-depth t is seen by source view i at the homogeneous pixel `t * H_i (u, v, 1) + e_i`:
    `H` is the homography of the plane at infinity and `e` the epipole (Hartley & Zisserman 2004, eq. 9.7).

    Several targets with the same number of sources each are stacked along leading dimensions, here *B.

    Args:
        H: [*B, V, 3, 3].
        e: [*B, V, 3].
        tgt_rays: [*B, 3, 3], inverse of the target's K: pixel (u, v, 1) to the ray with unit camera-z.
        centers: [*B, V, 3] source camera centres in the target's camera frame.
    """

    H: Tensor
    e: Tensor
    tgt_rays: Tensor
    centers: Tensor

    @classmethod
    def between(cls, target: Camera, sources: Sequence[Camera], device: torch.device | str = "cpu") -> EpipolarLines:
        """Compute the lines of `target` in `sources`.

        Computed in float64 and relative to the target, so that a scene far from its world's origin loses no precision.
        """
        rays = np.linalg.inv(target.K)
        src_from_tgt = [source.w2c @ target.c2w for source in sources]
        H = np.stack([s.K @ m[:3, :3] @ rays for s, m in zip(sources, src_from_tgt, strict=True)])
        e = np.stack([s.K @ m[:3, 3] for s, m in zip(sources, src_from_tgt, strict=True)])
        centers = np.stack([-m[:3, :3].T @ m[:3, 3] for m in src_from_tgt])
        return cls(*(torch.from_numpy(x).to(device, torch.float32) for x in (H, e, rays, centers)))

    @classmethod
    def stack(cls, lines: Sequence[EpipolarLines]) -> EpipolarLines:
        """Stack the lines of B targets."""
        return cls(*(torch.stack([getattr(x, f.name) for x in lines]) for f in fields(cls)))

    def to(self, device: torch.device | str) -> EpipolarLines:
        """Return a copy on another device."""
        return EpipolarLines(*(getattr(self, f.name).to(device) for f in fields(self)))

    def mirrored(self, width: float, source_widths: Sequence[float]) -> EpipolarLines:
        """Mirror the world: column u of each image becomes its width - u.

        Args:
            width: width of the target, in pixels.
            source_widths: widths of the V source images.
        """
        flip_target = torch.tensor([[-1.0, 0, width], [0, 1, 0], [0, 0, 1]], device=self.H.device)
        flips = torch.stack([torch.tensor([[-1.0, 0, w], [0, 1, 0], [0, 0, 1]]) for w in source_widths]).to(self.H)
        # The rays and the camera centres stay; only the pixel coordinates change.
        e = (flips @ self.e[..., None])[..., 0]
        return EpipolarLines(flips @ self.H @ flip_target, e, self.tgt_rays @ flip_target, self.centers)

    def project(
        self,
        uv: Tensor,  # [*B, R, 2] target pixels
        t: Tensor,  # [*B, R, S] z-depth in the target camera
    ) -> tuple[Tensor, Tensor]:  # [*B, V, R, S, 2] source pixels, [*B, V, R, S] z-depth in the source camera
        """Project the points at depths `t` on the target rays into every source view.

        Points at or behind a source camera get NaN pixels, never mirrored ones; their z-depth is not positive.
        """
        H, e = self.H[..., None, None], self.e[..., None, None]  # [*B, V, 3, 3, 1, 1] and [*B, V, 3, 1, 1]
        x, y, t = uv[..., None, :, :1], uv[..., None, :, 1:], t[..., None, :, :]  # [*B, 1, R, ...]

        def coordinate(i: int) -> Tensor:  # a matrix product of so few rows takes a CPU as long as all the rest
            row = H[..., i, :, :, :].unbind(-3)
            return (row[0] * x + row[1] * y + row[2]) * t + e[..., i, :, :]

        # K's last row is (0, 0, 1), so the third homogeneous coordinate is the z-depth itself.
        u, v, z = (coordinate(i) for i in range(3))
        before = torch.where(z > 0, z, torch.nan)
        # Pairs as complex numbers: to stack them takes a CPU seven times as long.
        return torch.view_as_real(torch.complex(u / before, v / before)), z


def ray_angles(
    lines: EpipolarLines,
    uv: Tensor,  # [*B, R, 2] target pixels
    t: Tensor,  # [*B, R, S] z-depth in the target camera
) -> Tensor:  # [*B, V, R, S] radians, 0 to pi
    """Return the angle at each point between its lines of sight from the target and from each source view.

    With the ray r and a source centre c, the two lines run along t r and t r - c; the cross and dot products of the
    two, divided by t, are |r x c| and t |r|^2 - r.c. atan2 keeps small angles, which matter most; arccos loses them.
    """
    # In the target camera's frame: [*B, 1, R, 3] and [*B, V, 1, 3].
    r, c = (homogeneous(uv) @ lines.tgt_rays.mT)[..., None, :, :], lines.centers[..., None, :]
    cross = torch.linalg.vector_norm(torch.linalg.cross(*torch.broadcast_tensors(r, c)), dim=-1)
    dot = t[..., None, :, :] * (r * r).sum(-1, keepdim=True) - (r * c).sum(-1)[..., None]  # [*B, V, R, S]
    return torch.atan2(cross[..., None].expand_as(dot), dot)


def homogeneous(uv: Tensor) -> Tensor:
    """Append a 1 to pixels: [..., 2] to [..., 3]."""
    return torch.cat([uv, torch.ones_like(uv[..., :1])], -1)
