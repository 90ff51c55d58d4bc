"""The inconsistency corrector: residual weights that bring lifted features close to the encoder's at the target.

Photos of one point do not have equal features: the encoder saw other surroundings, at another scale and another phase
of its grid. Stage II's weights, which suit colours, cannot account for that. The corrector compares what each photo
shows around the cells near the point (`CellDescriptor`) with what the rendered target shows around its own cell, and
measures how much the photos' features differ. It moves the blended feature G in two steps, each by scalar weights of
cells of the source maps, the same for every channel:

1. innovation: G += sum_j k_j (G_j - G) over the cells j around the point. Their descriptors differ from the blend's by
     D, the target's by e. The gain of a Kalman filter, k = P D' (D P D' + R)^-1 e, is the weights, of either sign, by
     which the same sum over the descriptors gives the target's; P are the weights' prior variances, R is a descriptor's
     noise, and both are learned.
2. regression: G += trust * W e', where e' is what step 1 leaves of the innovation, and W the regression of features on
     descriptors over all cells of the source maps. It accounts for what no cell nearby shows, such as the effect of an
     image's border.

So a constant map stays constant, the result does not depend on what a channel means, and it is linear in the features.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lift3d_cli.geometry.grids import FeatureGrid, sample_map
from lift3d_cli.lifting.correction.evidence import SKETCH_CHANNELS, TAPS, Blend, Evidence
from lift3d_cli.lifting.precision import MixedPrecision, in_precision
from lift3d_cli.lifting.sources import lightness

NUM_DESCRIPTORS = 48
"""Channels of a cell's descriptor."""
# Of these, a linear map of the cues; the others come from a small network over the cues of the cell and its neighbours.
_NUM_PLAIN = 24
# Window sizes in half cells, but at least one pixel: details and context.
_LEVELS = (1, 2, 4, 8)
_NUM_CUES = len(_LEVELS) * (len(TAPS) + 2 + 4)
_NUM_CELL_INPUTS, _NUM_RAY_INPUTS = 6, 6
# Rays whose covariances stay in a processor's cache: half the time of 512 at once.
_UPDATED_AT_ONCE = 48
BYTES_PER_RAY = 4 * len(TAPS) * 6 * (NUM_DESCRIPTORS + SKETCH_CHANNELS)
"""Temporary memory per ray and view: the cells' descriptors and sketches, their differences, and copies of these."""


class CellDescriptor(MixedPrecision):
    """Descriptors of the photo around each cell of a feature map, from lightness and colour in windows."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        # Initialised as a random projection, which preserves the distances between cues.
        self.plain = nn.Conv2d(_NUM_CUES, _NUM_PLAIN, 1)
        nn.init.orthogonal_(self.plain.weight)
        nn.init.zeros_(self.plain.bias)
        self.context = nn.Sequential(
            nn.Conv2d(_NUM_CUES, width, 1),
            nn.LeakyReLU(0.1),
            _conv(width, width),
            nn.LeakyReLU(0.1),
            _conv(width, NUM_DESCRIPTORS - _NUM_PLAIN),
        )

    @in_precision
    def forward(self, cues: Tensor) -> Tensor:  # [N, cues, h, w] to [N, NUM_DESCRIPTORS, h, w]
        """Return the descriptors of every cell."""
        return torch.cat([self.plain(cues), self.context(4 * cues)], 1)


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="replicate")


@torch.no_grad()
def cell_cues(
    image: Tensor,  # [3, H, W] in [0, 1] sRGB
    grid: FeatureGrid,
) -> Tensor:  # [cues, h, w]
    """Sample the image around each cell's centre, at distances and in windows that scale with the cell."""
    stride = 2 / (grid.scale[0] + grid.scale[1])
    light = lightness(image)
    maps = [torch.cat([light - 0.5, image[:1] - light, image[2:] - light])[None]]
    centers = grid.cell_centers().to(image.device)
    cues = []
    for level in _LEVELS:
        distance = max(1.0, stride / 2) * level
        halvings = int(math.log2(distance))
        while len(maps) <= halvings:
            # Blocks of 2, also at an odd border.
            padding = (0, maps[-1].shape[3] % 2, 0, maps[-1].shape[2] % 2)
            maps.append(F.avg_pool2d(F.pad(maps[-1], padding, mode="replicate"), 2))
        uv = centers + torch.tensor(TAPS, device=image.device)[:, None] * distance
        around = sample_map(maps[halvings], uv[None] / 2**halvings)[0]  # [3, taps, cells]
        # How far the windows at the left, right, top and bottom are inside the image: encoders pad, which shows in
        # features.
        size = torch.tensor([image.shape[2], image.shape[1]], device=image.device)
        margins = torch.cat([centers, size - centers], 1).T / distance - 0.5
        cues += [around[0], around[1:, len(TAPS) // 2], margins.clamp(0, 1) - 1]
    return torch.cat(cues).reshape(-1, grid.height, grid.width)


class Corrector(Protocol):
    """The interface of the inconsistency corrector.

    Attributes:
        by_channel: each channel is corrected independently of the others, apart from `SourceCells.sketches`.
    """

    by_channel: bool

    def describe(self, image: Tensor, grid: FeatureGrid) -> Tensor:
        """Describe an image [3, H, W] around each cell of a grid in it: [D, h, w]."""

    def correct(self, blend: Blend) -> Tensor:
        """Return the corrected features [R, C] of blended ones."""


class InconsistencyCorrector(nn.Module):
    """Residual weights of the cells around a ray's surface point, computed from `Evidence`."""

    by_channel = True

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.descriptor = CellDescriptor()
        inputs = _NUM_CELL_INPUTS + _NUM_RAY_INPUTS
        self.cell_head = nn.Sequential(nn.Linear(inputs, width), nn.ELU(), nn.Linear(width, 1))
        self.ray_head = nn.Sequential(nn.Linear(_NUM_RAY_INPUTS, width), nn.ELU(), nn.Linear(width, 2))
        for head in (self.cell_head, self.ray_head):
            nn.init.zeros_(head[-1].weight)
            nn.init.zeros_(head[-1].bias)
        # Initialised where hand-made cues work best.
        self.log_noise = nn.Parameter(torch.full((NUM_DESCRIPTORS,), math.log(3e-3)))
        self.log_ridge = nn.Parameter(torch.tensor(math.log(0.1)))

    def describe(self, image: Tensor, grid: FeatureGrid) -> Tensor:  # [NUM_DESCRIPTORS, h, w]
        """Return the descriptors of the cells of `grid`, which lies in `image` [3, H, W]."""
        return self.descriptor(cell_cues(image, grid)[None])[0]

    def correct(self, blend: Blend) -> Tensor:  # [R, C]
        """Correct the blended features of some rays."""
        evidence = blend.evidence()
        weights, left_over = self(evidence)
        moved = blend.gather.moved(blend.features, evidence.cells.rows, weights)
        return moved + left_over @ blend.cells.slopes(self.log_ridge.exp())

    def forward(self, evidence: Evidence) -> tuple[Tensor, Tensor]:  # [V, R, T], [R, D]
        """Return the weights k_j of step 1, for features (1 - sum k) G + sum_j k_j G_j, and trust * e' of step 2."""
        innovation = evidence.target - evidence.blended  # [R, D]
        rays = _ray_inputs(evidence, innovation)
        log_noise, trust = self.ray_head(rays).unbind(-1)  # [R]
        log_variance = self._log_variance(_cell_inputs(evidence, innovation), rays)
        # A priori, near cells of photos with large weights in Stage II vary most.
        prior = ((evidence.share + 0.03) * evidence.seen).T[..., None] * torch.exp(-evidence.cells.distance).transpose(
            0, 1
        )
        prior = prior / prior.sum((1, 2), keepdim=True).clamp(min=1e-9)
        variance = (prior * torch.exp(log_variance.clamp(-6, 6))).flatten(1)
        noise = torch.exp(self.log_noise + log_noise.clamp(-6, 6)[:, None])
        inputs = (evidence.differences.flatten(1, 2), innovation, variance, noise)
        at_once = _UPDATED_AT_ONCE if innovation.device.type == "cpu" else max(1, len(innovation))
        parts = [_kalman_update(*part) for part in zip(*(x.split(at_once) for x in inputs), strict=True)]
        weights, left_over = (torch.cat(x) for x in zip(*parts, strict=True))
        return weights.view_as(prior).transpose(0, 1), torch.sigmoid(trust)[:, None] * left_over

    def _log_variance(self, cells: Tensor, rays: Tensor) -> Tensor:  # [R, V, T, inputs], [R, inputs] to [R, V, T]
        """Apply the head of cells; what its first layer makes of a ray's inputs is the same in all of its cells."""
        first, nonlinear, last = self.cell_head
        of_cell, of_ray = first.weight.split((cells.shape[-1], rays.shape[-1]), 1)
        hidden = F.linear(cells, of_cell) + F.linear(rays, of_ray, first.bias)[:, None, None]
        return last(nonlinear(hidden))[..., 0]


def _kalman_update(
    differences: Tensor,  # [R, N, D]
    innovation: Tensor,  # [R, D]
    variance: Tensor,  # [R, N]
    noise: Tensor,  # [R, D]
) -> tuple[Tensor, Tensor]:  # [R, N], [R, D]
    """Return the weights k of the differences that explain the innovation e, and what they leave of it.

    With the differences as the rows of D, k = P D (D' P D + R)^-1 e. As D' P D + R times the solution is e, what is
    left, e - D' k, is R times the solution.
    """
    weighted = differences * variance[..., None]
    covariance = weighted.transpose(1, 2) @ differences
    covariance.diagonal(dim1=1, dim2=2).add_(noise)
    solved = torch.cholesky_solve(innovation[..., None], torch.linalg.cholesky(covariance))
    return (weighted @ solved)[..., 0], noise * solved[..., 0]


def _ray_inputs(evidence: Evidence, innovation: Tensor) -> Tensor:  # [R, _NUM_RAY_INPUTS]
    disagreement = (evidence.disagreement.mean(2) * evidence.share.T).sum(1)
    rays = [
        torch.full_like(evidence.spread, math.log2(evidence.stride) / 4),
        torch.log(innovation.square().mean(-1) + 1e-4) + 6,
        torch.log(disagreement + 1e-3) + 3,
        torch.log(evidence.spread + 0.05),
        evidence.share.amax(0) * 2 - 1,
        evidence.seen.sum(0) / 8,
    ]
    return torch.stack(rays, -1)


def _cell_inputs(evidence: Evidence, innovation: Tensor) -> Tensor:  # [R, V, T, _NUM_CELL_INPUTS]
    differences, size = evidence.differences, innovation.shape[1]
    from_blend = torch.linalg.vector_norm(differences, dim=-1).square() / size
    # (d - e)^2 = d^2 - 2 d e + e^2; rounding can make it negative.
    along = (differences.flatten(1, 2) @ innovation[..., None]).view_as(from_blend) / size
    from_target = (from_blend - 2 * along + innovation.square().mean(-1)[:, None, None]).clamp(min=0)
    per_view = torch.log(evidence.share + 0.01) / 2 + 1, evidence.angle.clamp(max=2) * 3
    share, angle = (x.T[..., None].expand_as(from_blend) for x in per_view)
    cells = [
        share,
        evidence.cells.distance.transpose(0, 1),
        torch.log(from_target + 1e-4) + 6,
        torch.log(from_blend + 1e-4) + 6,
        torch.log(evidence.disagreement + 1e-3) + 3,
        angle,
    ]
    return torch.stack(cells, -1) * evidence.seen.T[..., None, None]
