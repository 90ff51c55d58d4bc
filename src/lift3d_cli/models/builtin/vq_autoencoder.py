"""The autoencoder with a code book of Latent Diffusion (Rombach et al., CVPR 2022), as ResShift takes it.

It is a VQ-GAN (Esser et al., CVPR 2021) without attention in the levels, built to the names and shapes of a checkpoint.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lift3d_cli.models.builtin.state_shapes import State, conv_like, listed, within

# Cells whose distances to all codes are in memory at once.
_CELLS_AT_ONCE = 4096


class VQAutoencoder(nn.Module):
    """Maps pictures [B, 3, s * h, s * w] in [-1, 1] to latents [B, C, h, w] and back; s is its `stride`."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self.encoder = _Encoder(within(state, "encoder"))
        self.decoder = _Decoder(within(state, "decoder"))
        self.quantize = nn.Module()
        self.quantize.embedding = nn.Module()  # not nn.Embedding: its random numbers on "meta" load half of torch
        self.quantize.embedding.weight = nn.Parameter(torch.empty(state["quantize.embedding.weight"].shape))
        self.quant_conv = conv_like(state["quant_conv.weight"])
        self.post_quant_conv = conv_like(state["post_quant_conv.weight"])
        self.stride = 2 ** (len(self.encoder.down) - 1)

    def encode(self, picture: Tensor) -> Tensor:
        """Map a picture, whose sides are multiples of the stride, to a latent that is not quantised yet."""
        return self.quant_conv(self.encoder(picture))

    def quantised(self, latent: Tensor) -> Tensor:
        """Replace each cell of a latent [B, C, h, w] by the nearest code."""
        codes = self.quantize.embedding.weight
        rows = latent.movedim(1, -1).reshape(-1, latent.shape[1])
        parts = rows.split(_CELLS_AT_ONCE)
        # Without the matrix product, which loses the digits that decide between near codes.
        nearest = [torch.cdist(part, codes, compute_mode="donot_use_mm_for_euclid_dist").argmin(1) for part in parts]
        return codes[torch.cat(nearest)].reshape(latent.movedim(1, -1).shape).movedim(-1, 1)

    def decode(self, latent: Tensor) -> Tensor:
        """Map a latent, quantised or not, to a picture."""
        return self.decoder(self.post_quant_conv(latent))


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, 1e-6)


class _Block(nn.Module):
    def __init__(self, state: State) -> None:
        super().__init__()
        first, second = state["conv1.weight"], state["conv2.weight"]
        self.norm1, self.conv1 = _norm(first.shape[1]), conv_like(first)
        self.norm2, self.conv2 = _norm(second.shape[1]), conv_like(second)
        shortcut = state.get("nin_shortcut.weight")
        self.nin_shortcut = nn.Identity() if shortcut is None else conv_like(shortcut)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(y)))


class _Attention(nn.Module):
    """Attention of one head between all cells."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self.norm = _norm(len(state["norm.weight"]))
        self.q, self.k, self.v, self.proj_out = (conv_like(state[f"{n}.weight"]) for n in ("q", "k", "v", "proj_out"))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        rows = [part(y).flatten(2).transpose(1, 2)[:, None] for part in (self.q, self.k, self.v)]
        y = F.scaled_dot_product_attention(*rows)[:, 0].transpose(1, 2).reshape(x.shape)
        return x + self.proj_out(y)


class _Middle(nn.Module):
    def __init__(self, state: State) -> None:
        super().__init__()
        self.block_1 = _Block(within(state, "block_1"))
        self.attn_1 = _Attention(within(state, "attn_1"))
        self.block_2 = _Block(within(state, "block_2"))

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class _Level(nn.Module):
    """Blocks at one resolution, and the step to the next one."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self.block = nn.ModuleList(map(_Block, listed(state, "block")))
        if (weight := state.get("downsample.conv.weight")) is not None:
            self.downsample = nn.ModuleDict({"conv": conv_like(weight, stride=2, padding=0)})
        if (weight := state.get("upsample.conv.weight")) is not None:
            self.upsample = nn.ModuleDict({"conv": conv_like(weight)})

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        if hasattr(self, "downsample"):
            x = self.downsample["conv"](F.pad(x, (0, 1, 0, 1)))
        if hasattr(self, "upsample"):
            x = self.upsample["conv"](F.interpolate(x, scale_factor=2, mode="nearest"))
        return x


class _Encoder(nn.Module):
    def __init__(self, state: State) -> None:
        super().__init__()
        self.conv_in, self.conv_out = conv_like(state["conv_in.weight"]), conv_like(state["conv_out.weight"])
        self.down = nn.ModuleList(map(_Level, listed(state, "down")))
        self.mid = _Middle(within(state, "mid"))
        self.norm_out = _norm(self.conv_out.in_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class _Decoder(nn.Module):
    def __init__(self, state: State) -> None:
        super().__init__()
        self.conv_in, self.conv_out = conv_like(state["conv_in.weight"]), conv_like(state["conv_out.weight"])
        self.up = nn.ModuleList(map(_Level, listed(state, "up")))
        self.mid = _Middle(within(state, "mid"))
        self.norm_out = _norm(self.conv_out.in_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.conv_in(x))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))
