"""The U-Net of ResShift (Yue et al., NeurIPS 2023), built to the names and shapes of a checkpoint.

It is that of guided diffusion (Dhariwal and Nichol, NeurIPS 2021), with windows of attention (Liu et al., ICCV 2021).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lift3d_cli.models.builtin.state_shapes import State, conv_like, listed, within


class SwinUNet(nn.Module):
    """Predicts a clean latent from a noisy one and the small picture; sides are multiples of its `multiple`."""

    def __init__(self, state: State) -> None:
        super().__init__()
        first, last = state["time_embed.0.weight"], state["time_embed.2.weight"]
        self.time_embed = nn.Sequential(nn.Linear(*first.shape[::-1]), nn.SiLU(), nn.Linear(*last.shape[::-1]))
        self.input_blocks = nn.ModuleList(map(_Stage, listed(state, "input_blocks")))
        self.middle_block = _Stage(within(state, "middle_block"))
        self.output_blocks = nn.ModuleList(map(_Stage, listed(state, "output_blocks")))
        out = state["out.2.weight"]
        self.out = nn.Sequential(_norm(out.shape[1]), nn.SiLU(), conv_like(out))
        halvings = sum(isinstance(layer, _Downsample) for layer in self.modules())
        windows = [layer.attn.window for layer in self.modules() if isinstance(layer, _SwinBlock)]
        self.multiple = max(windows, default=1) * 2**halvings

    def forward(self, latent: Tensor, step: int, picture: Tensor) -> Tensor:
        """Predict the clean latent.

        Args:
            latent: [B, C, h, w] noisy latent, divided by its standard deviation.
            step: number of the step, from 0 for the last.
            picture: [B, 3, h, w] the small picture in [-1, 1].
        """
        time = self.time_embed(_sinusoids(step, self.time_embed[0].in_features).to(latent))
        x = torch.cat([latent, picture], 1)
        skipped = []
        for stage in self.input_blocks:
            x = stage(x, time)
            skipped.append(x)
        x = self.middle_block(x, time)
        for stage in self.output_blocks:
            x = stage(torch.cat([x, skipped.pop()], 1), time)
        return self.out(x)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels)


class _Stage(nn.ModuleList):
    """Layers at one resolution, each of the kind that its names say."""

    def __init__(self, state: State) -> None:
        super().__init__(map(_layer, listed(state)))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        for layer in self:
            x = layer(x, time) if isinstance(layer, _ResBlock) else layer(x)
        return x


def _layer(state: State) -> nn.Module:
    if "in_layers.2.weight" in state:
        return _ResBlock(state)
    if "patch_embed.proj.weight" in state:
        return _SwinLayer(state)
    if "op.weight" in state:
        return _Downsample(state)
    if "conv.weight" in state:
        return _Upsample(state)
    return conv_like(state["weight"])


class _ResBlock(nn.Module):
    """A residual block, whose second half is scaled and shifted by the time."""

    def __init__(self, state: State) -> None:
        super().__init__()
        first, second = state["in_layers.2.weight"], state["out_layers.3.weight"]
        self.in_layers = nn.Sequential(_norm(first.shape[1]), nn.SiLU(), conv_like(first))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(*state["emb_layers.1.weight"].shape[::-1]))
        # The third is dropout, in training.
        self.out_layers = nn.Sequential(_norm(second.shape[1]), nn.SiLU(), nn.Identity(), conv_like(second))
        skip = state.get("skip_connection.weight")
        self.skip_connection = nn.Identity() if skip is None else conv_like(skip)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.emb_layers(time)[:, :, None, None].chunk(2, 1)
        y = self.out_layers[0](self.in_layers(x)) * (1 + scale) + shift
        return self.skip_connection(x) + self.out_layers[1:](y)


class _Downsample(nn.Module):
    def __init__(self, state: State) -> None:
        super().__init__()
        self.op = conv_like(state["op.weight"], stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class _Upsample(nn.Module):
    def __init__(self, state: State) -> None:
        super().__init__()
        self.conv = conv_like(state["conv.weight"])

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class _SwinLayer(nn.Module):
    """Swin blocks in a width of their own."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": conv_like(state["patch_embed.proj.weight"])})
        self.blocks = nn.Sequential(*map(_SwinBlock, listed(state, "blocks")))
        self.patch_unembed = nn.ModuleDict({"proj": conv_like(state["patch_unembed.proj.weight"])})

    def forward(self, x: Tensor) -> Tensor:
        return self.patch_unembed["proj"](self.blocks(self.patch_embed["proj"](x)))


class _SwinBlock(nn.Module):
    def __init__(self, state: State) -> None:
        super().__init__()
        first, last = state["mlp.fc1.weight"], state["mlp.fc2.weight"]
        self.norm1, self.norm2 = _norm(first.shape[1]), _norm(first.shape[1])
        self.attn = _WindowAttention(within(state, "attn"))
        self.mlp = nn.ModuleDict({"fc1": conv_like(first), "fc2": conv_like(last)})
        # Blocks whose maps were one window in training were never shifted: they have no mask.
        mask = state.get("attn_mask")
        self.register_buffer("attn_mask", None if mask is None else torch.empty(mask.shape))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attended(self.norm1(x))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))

    def _attended(self, x: Tensor) -> Tensor:
        if self.attn_mask is None:
            return self.attn(x, None)
        shift = self.attn.window // 2
        x = self.attn(x.roll((-shift, -shift), (2, 3)), self._mask(x))
        return x.roll((shift, shift), (2, 3))

    def _mask(self, x: Tensor) -> Tensor:
        """Return what is added to the attention in each window of the shifted map: [windows, 1, n * n, n * n].

        For a map of another size than in training, too: only the last row and column of windows have masks of their
        own. They are the checkpoint's, as the official code makes others than Swin's.
        """
        trained = math.isqrt(len(self.attn_mask))
        rows, columns = (x.new_zeros(n // self.attn.window, dtype=torch.long) for n in x.shape[2:])
        rows[-1] = columns[-1] = trained - 1
        return self.attn_mask[(trained * rows[:, None] + columns).flatten()][:, None]


class _WindowAttention(nn.Module):
    """Attention within windows of n x n cells, with a learned bias for each relative position."""

    def __init__(self, state: State) -> None:
        super().__init__()
        table = state["relative_position_bias_table"]
        self.heads = table.shape[1]
        self.window = (math.isqrt(len(table)) + 1) // 2
        self.relative_position_bias_table = nn.Parameter(torch.empty(table.shape))
        self.qkv = nn.Linear(*state["qkv.weight"].shape[::-1])
        self.proj = nn.Linear(*state["proj.weight"].shape[::-1])

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        batch, channels, height, width = x.shape
        n = self.window
        qkv = self.qkv(_windows(x, n)).unflatten(3, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)
        bias = self._bias() if mask is None else self._bias() + mask
        y = F.scaled_dot_product_attention(*qkv, attn_mask=bias)  # [B, windows, heads, n * n, C / heads]
        y = self.proj(y.transpose(2, 3).flatten(3))
        y = y.reshape(batch, height // n, width // n, n, n, channels)
        return y.permute(0, 5, 1, 3, 2, 4).reshape(x.shape)

    def _bias(self) -> Tensor:  # [heads, n * n, n * n]
        n = self.window
        place = torch.arange(n, device=self.relative_position_bias_table.device)
        apart = place[:, None] - place + n - 1
        index = (2 * n - 1) * apart[:, None, :, None] + apart[None, :, None, :]
        return self.relative_position_bias_table[index.reshape(n * n, n * n)].movedim(2, 0)


def _windows(x: Tensor, n: int) -> Tensor:
    """Cut [B, C, H, W] into windows: [B, windows, n * n, C]."""
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, height // n, n, width // n, n)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, n * n, channels)


def _sinusoids(step: int, channels: int) -> Tensor:
    """Return the sinusoidal embedding [1, channels] of a step."""
    half = channels // 2
    angles = step * torch.exp(-math.log(10_000) * torch.arange(half) / half)
    return torch.cat([angles.cos(), angles.sin()])[None]
