"""Importance sampling: a few depths per ray, where Stage I expects the surface (method step 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from lift3d_cli.geometry.grids import sample_map
from lift3d_cli.lifting.proposal.protocol import DepthDistribution


def sample_depths(
    distribution: DepthDistribution,
    uv: Tensor,  # [*B, R, 2] target pixels
    num_samples: int,
) -> Tensor:  # [*B, R, S] z-depth, ascending
    """Draw the S quantile midpoints of each ray's depth distribution, by the inverse CDF, linear within a plane's bin.

    Each sample stands for the same probability 1/S. The samples are deterministic.
    """
    num_planes = distribution.probability.shape[-3]
    scale = torch.tensor(distribution.scale, device=uv.device)
    planes = distribution.probability[..., None, :, :, :]
    probability = sample_map(planes, (uv * scale)[..., None, :, :])[..., 0, :, :].mT  # [*B, R, D]
    cdf = probability.cumsum(-1)
    cdf = (cdf / cdf[..., -1:]).contiguous()
    quantiles = (torch.arange(num_samples, device=uv.device) + 0.5) / num_samples
    plane = torch.searchsorted(cdf, quantiles.expand(*cdf.shape[:-1], -1).contiguous()).clamp(max=num_planes - 1)
    above = cdf.gather(-1, plane)
    below = torch.where(plane > 0, cdf.gather(-1, (plane - 1).clamp(min=0)), 0.0)
    # 1e-6 guards bins without probability, where every position is equally good.
    within = ((quantiles - below) / (above - below).clamp(min=1e-6)).clamp(0, 1)
    # A plane's bin extends half a plane to each side.
    position = ((plane + within - 0.5) / max(num_planes - 1, 1)).clamp(0, 1)
    near, far = distribution.inverse_range()
    return 1 / (near + position * (far - near))
