"""Propagation: a cell of a photo's surface takes over the depth of a cell nearby that fits what the photos show better.

Stage I finds what is in front too wide, by all that its voxels look at around them, and does not look at the picture of
the photo itself, which shows where one thing ends and the next begins. As in PatchMatch stereo (Bleyer et al. 2011),
planes wander from cell to cell; which of them stays is learned.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lift3d_cli.lifting.proposal.network import zeroed
from lift3d_cli.ops.windows import window_mean

_DISTANCES = (1, 3, 7, 14)
OFFSETS = ((0, 0), *((d * y, d * x) for d in _DISTANCES for y, x in product((-1, 0, 1), repeat=2) if y or x))
"""(y, x) in cells from a cell to those whose planes it may take over, itself first."""
NUM_DEVIATIONS, NUM_MATCHES = 4, 2
"""Channels of `SurfaceClues.deviations` and `SurfaceClues.matches`."""
_NUM_INPUTS, _NUM_CANDIDATE_INPUTS = 9 + NUM_DEVIATIONS, 6 + NUM_MATCHES
_WIDTHS, _KEYS, _HIDDEN = (24, 32, 48, 64), 8, 8
# A plane's slope, in cells: how far apart depths are that it is told from, and the steepest, in planes of Stage I.
_SLOPE_SPAN, _STEEPEST = 4, 0.75
# Planes of Stage I around the likeliest one that are of the same peak.
_PEAK = 3


@dataclass(frozen=True)
class SurfaceClues:
    """What is known of the surfaces of B photos of equal size, in h x w cells.

    Args:
        inverse: [B, 1, h, w] 1/z.
        sure: [B, 1, h, w] see `lifting.surfaces`.
        image: [B, 3, h, w] the photo.
        deviations: [B, NUM_DEVIATIONS, h, w] of other photos from the photo, in locally normalised lightness, at that
            depth: of the best, the second, the third and the middle one.
        num_views: [B, 1, h, w] of other photos that it lies in.
        probability: [B, D, h', w'] of Stage I's planes, from the nearest to the farthest.
        matches: [B, NUM_MATCHES, D, h', w'] how far the best other photos deviate at each voxel.
        nearest, farthest: [B, 1, 1, 1] 1/z of the first and last plane.
        step: [B, 1, 1, 1] from plane to plane in 1/z.
    """

    inverse: Tensor
    sure: Tensor
    image: Tensor
    deviations: Tensor
    num_views: Tensor
    probability: Tensor
    matches: Tensor
    nearest: Tensor
    farthest: Tensor
    step: Tensor

    def at(self, inverse: Tensor) -> Tensor:  # [B, K, h, w] to [B, 1 + NUM_MATCHES, K, h, w]
        """Look up Stage I's probability and matches in each cell at depths in 1/z."""
        num_planes, *grid = self.probability.shape[1:]
        plane = ((self.nearest - inverse) / self.step).round().long().clamp(0, num_planes - 1)
        rows, columns = (
            ((torch.arange(n, device=inverse.device) + 0.5) * cells / n).long()
            for n, cells in zip(inverse.shape[-2:], grid, strict=True)
        )
        voxel = (plane * grid[0] + rows[:, None]) * grid[1] + columns
        values = torch.cat([self.probability[:, None], self.matches], 1).flatten(2)
        at = values.gather(2, voxel.flatten(1)[:, None].expand(-1, len(values[0]), -1))
        return at.unflatten(2, inverse.shape[1:])


class SurfacePropagation(nn.Module):
    """Choose for each cell between the planes of cells around it.

    A 2-D U-Net looks at the photo, the surface and how well the photos agree on it; its keys tell which cells belong
    together, and a small MLP how well each candidate fits what Stage I saw.
    """

    def __init__(self) -> None:
        super().__init__()
        self.guide = _UNet(_NUM_INPUTS)
        self.affinity = nn.Conv2d(_WIDTHS[0], 2 * _KEYS + len(OFFSETS), 1)
        self.fit = nn.Sequential(
            nn.Conv2d(_NUM_CANDIDATE_INPUTS, _HIDDEN, 1),
            nn.LeakyReLU(0.1, inplace=True),
            zeroed(nn.Conv2d(_HIDDEN, 1, 1)),
        )
        # As initialised, each cell keeps its own plane. Keys are not zero: nothing would ever move queries.
        with torch.no_grad():
            self.affinity.weight[:_KEYS], self.affinity.weight[2 * _KEYS :] = 0, 0
            self.affinity.bias[:] = 0
            self.affinity.bias[2 * _KEYS] = 1

    def forward(self, clues: SurfaceClues) -> tuple[Tensor, Tensor]:
        """Return the candidates of each cell and their logits, [B, len(OFFSETS), h, w]; 1/z."""
        query, key, bias = self.affinity(self.guide(_inputs(clues))).split([_KEYS, _KEYS, len(OFFSETS)], 1)
        slopes = _slopes(clues.inverse, clues.step)
        reach = max(_DISTANCES)
        maps = torch.cat([clues.inverse, slopes, clues.sure, clues.image, key], 1)
        around = F.pad(maps, (reach,) * 4, mode="replicate")
        height, width = clues.inverse.shape[-2:]
        there: list[tuple[Tensor, ...]] = []  # of each offset: candidate, sure, difference of colour, likeness
        for y, x in OFFSETS:
            maps = around[..., reach + y :, reach + x :][..., :height, :width]
            inverse, per_x, per_y, sure, image, key = maps.split([1, 1, 1, 1, 3, _KEYS], 1)
            candidate = (inverse - per_x * x - per_y * y).clamp(clues.farthest, clues.nearest)
            color = 4 * (image - clues.image).abs().mean(1, keepdim=True)
            there.append((candidate, sure, color, (query * key).sum(1, keepdim=True) / _KEYS**0.5))
        found, sure, color, alike = (torch.cat(maps, 1) for maps in zip(*there, strict=True))
        moved = (found - clues.inverse) / clues.step
        own = torch.zeros_like(found)
        own[:, 0] = 1
        probability, *matches = clues.at(found).unbind(1)
        seen = (probability + 1e-3).log() / 4 + 1, *matches
        inputs = torch.stack([*seen, sure, (moved / 8).clamp(-1, 1), moved.abs().clamp(max=1), color, own], 1)
        # One large picture: convolutions of 33 small ones take five times as long.
        return found, alike + bias + self.fit(inputs.flatten(2, 3)).view_as(found)

    def propagated(self, clues: SurfaceClues) -> Tensor:  # [B, 1, h, w]
        """Return 1/z of the candidate that fits best: a mean of some would lie between two surfaces."""
        candidates, logits = self(clues)
        return candidates.gather(1, logits.argmax(1, keepdim=True))


def _inputs(clues: SurfaceClues) -> Tensor:  # [B, _NUM_INPUTS, h, w]
    def relief(window: int, planes: float) -> Tensor:  # how far before its surroundings
        return ((clues.inverse - window_mean(clues.inverse, window)) / (planes * clues.step)).clamp(-4, 4) / 4

    second = F.interpolate(_second_peak(clues.probability), clues.inverse.shape[-2:], mode="nearest")
    seen = clues.deviations.clamp(max=3) / 3, clues.num_views / 8
    return torch.cat([clues.image - 0.5, clues.sure, relief(7, 1), relief(31, 4), *seen, second], 1)


def _second_peak(probability: Tensor) -> Tensor:  # [B, D, h, w] to [B, 2, h, w]
    """Return how many planes the second likeliest peak is behind the likeliest one, over 16, and its probability."""
    mass = probability.clone()
    mass[:, 1:] += probability[:, :-1]
    mass[:, :-1] += probability[:, 1:]
    first = mass.argmax(1, keepdim=True)
    for offset in range(-_PEAK, _PEAK + 1):
        mass.scatter_(1, (first + offset).clamp(0, mass.shape[1] - 1), 0.0)
    share, second = mass.max(1, keepdim=True)
    return torch.cat([((second - first) / 16).clamp(-2, 2), share], 1)


def _slopes(inverse: Tensor, step: Tensor) -> Tensor:  # [B, 1, h, w] to [B, 2, h, w]
    """Return how 1/z, which is linear on a plane, changes per cell along x and y: the lesser change of both sides."""
    height, width = inverse.shape[-2:]
    around = F.pad(inverse, (_SLOPE_SPAN,) * 4, mode="replicate")
    rows, columns = around[..., _SLOPE_SPAN : _SLOPE_SPAN + width], around[..., _SLOPE_SPAN : _SLOPE_SPAN + height, :]

    def lesser(before: Tensor, after: Tensor) -> Tensor:
        one, other = (inverse - before) / _SLOPE_SPAN, (after - inverse) / _SLOPE_SPAN
        least = torch.where(one.abs() < other.abs(), one, other)
        return torch.where(one * other > 0, least, 0.0).clamp(-_STEEPEST * step, _STEEPEST * step)

    along_x = lesser(columns[..., :width], columns[..., 2 * _SLOPE_SPAN :])
    along_y = lesser(rows[..., :height, :], rows[..., 2 * _SLOPE_SPAN :, :])
    return torch.cat([along_x, along_y], 1)


class _UNet(nn.Module):
    """A 2-D U-Net, of any size of maps."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(_convs(a, b) for a, b in zip((inputs, *_WIDTHS), _WIDTHS, strict=False))
        self.up = nn.ModuleList(_convs(a + b, a) for a, b in reversed(list(pairwise(_WIDTHS))))

    def forward(self, maps: Tensor) -> Tensor:
        finer = []
        for convs in self.down[:-1]:
            maps = convs(maps)
            finer.append(maps)
            maps = F.max_pool2d(maps, 2, ceil_mode=True)
        maps = self.down[-1](maps)
        for convs in self.up:
            fine = finer.pop()
            coarse = F.interpolate(maps, fine.shape[-2:], mode="bilinear", align_corners=False)
            maps = convs(torch.cat([coarse, fine], 1))
        return maps


def _convs(inputs: int, outputs: int) -> nn.Sequential:
    first, second = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
    return nn.Sequential(
        first, nn.LeakyReLU(0.1, inplace=True), second, nn.LeakyReLU(0.1, inplace=True), _ChannelNorm()
    )


class _ChannelNorm(nn.Module):
    """Scale each cell's channels to at most about one: without it they grow without end in a training."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps * (1 + maps.square().mean(1, keepdim=True)).rsqrt()
