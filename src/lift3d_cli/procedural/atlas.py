"""Square textures with mip levels in one table, sampled trilinearly for many points with different textures."""

from __future__ import annotations

import torch
from torch import Tensor

# Trilinear sampling blurs by about half a level more than a pixel does; this keeps pictures sharp with little aliasing.
_LOD_BIAS = -0.3


class TextureAtlas:
    """T textures of S x S texels, S a power of two.

    Args:
        textures: [T, 3, S, S] sRGB in [0, 1]; stored as linear light, which averages correctly.
    """

    def __init__(self, textures: Tensor) -> None:
        count, _, size, width = textures.shape
        if size != width or size & (size - 1):
            raise ValueError(f"textures are {size}x{width}, need a square with a power of two as side")
        self.size = size
        self.count = count
        level, levels = textures.clamp(0, 1) ** 2.2, []
        while True:
            levels.append(level.permute(0, 2, 3, 1).reshape(-1, 3))
            if level.shape[-1] == 1:
                break
            level = torch.nn.functional.avg_pool2d(level, 2)
        self._table = torch.cat(levels)
        starts = torch.tensor([0, *(len(part) for part in levels[:-1])], device=textures.device)
        self._starts = starts.cumsum(0)

    def replace(self, index: int, texture: Tensor) -> None:
        """Replace one texture by another one [3, S, S]."""
        single = TextureAtlas(texture[None])
        for level, (ours, theirs) in enumerate(zip(self._starts.tolist(), single._starts.tolist(), strict=True)):
            texels = (self.size >> level) ** 2
            self._table[ours + index * texels : ours + (index + 1) * texels] = single._table[theirs : theirs + texels]

    def sample(
        self,
        texture: Tensor,  # [P] int64
        uv: Tensor,  # [P, 2] in repeats; v grows upwards
        footprint: Tensor,  # [P] side of a pixel on the surface, in repeats
        mirrored: Tensor,  # [P] bool
    ) -> Tensor:  # [P, 3] linear light
        """Look up a colour per point."""
        lod = (torch.log2(footprint.clamp_min(1e-9) * self.size) + _LOD_BIAS).clamp(0, len(self._starts) - 1.001)
        level = lod.floor()
        fine = self._bilinear(texture, uv, level.long(), mirrored)
        coarse = self._bilinear(texture, uv, level.long() + 1, mirrored)
        return torch.lerp(fine, coarse, (lod - level)[:, None])

    def _bilinear(self, texture: Tensor, uv: Tensor, level: Tensor, mirrored: Tensor) -> Tensor:
        side = self.size >> level
        # Row 0 is the top of the picture, and texel centres are at half-integers.
        x = torch.stack([uv[:, 0], 1 - uv[:, 1]]) * side - 0.5
        low = x.floor()
        fraction = (x - low)[:, :, None]
        low = low.long()
        left, right = (self._wrap(low[0] + step, side, mirrored) for step in (0, 1))
        above, below = (self._wrap(low[1] + step, side, mirrored) * side for step in (0, 1))
        start = self._starts[level] + texture * side * side
        upper = torch.lerp(self._table[start + above + left], self._table[start + above + right], fraction[0])
        lower = torch.lerp(self._table[start + below + left], self._table[start + below + right], fraction[0])
        return torch.lerp(upper, lower, fraction[1])

    @staticmethod
    def _wrap(index: Tensor, side: Tensor, mirrored: Tensor) -> Tensor:
        inside = index.remainder(side)
        odd = torch.div(index, side, rounding_mode="floor").remainder(2) == 1
        return torch.where(mirrored & odd, side - 1 - inside, inside)
