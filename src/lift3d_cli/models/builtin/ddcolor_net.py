"""The network of DDColor (Kang et al., ICCV 2023), with the parameter names of the official checkpoints.

A ConvNeXt encoder (Liu et al., CVPR 2022) reads a grey image, a U-Net of pixel shuffles upsamples its maps to strides
16, 8 and 4, and then a transformer turns 100 queries into colours, by attention to the three maps in turn. A pixel's
affinity to each query times the query's colour, learned as one matrix, is its ab.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEADS = 8
# The input's sides must be multiples of this.
DEEPEST_STRIDE = 32
SPLIT_STRIDE = 4
# Matches one tensor of each block of the encoder, and of each layer of the colour decoder.
_BLOCK = re.compile(r"encoder\.arch\.stages\.(\d)\.\d+\.gamma")
_LAYER = re.compile(r"decoder\.color_decoder\.transformer_ffn_layers\.\d+\.norm\.weight")


@dataclass(frozen=True)
class Sizes:
    """The sizes in which the published variants differ, and which a test can make small.

    Args:
        depths: number of blocks in each of the encoder's four levels.
        widths: channels of these levels.
        width: channels of the U-Net at strides 16 and 8; half of it at stride 4 and in the colour decoder.
        queries: number of colour queries.
        layers: number of layers of the colour decoder.
        inner: channels inside its feed-forward layers.
    """

    depths: Sequence[int]
    widths: Sequence[int]
    width: int = 512
    queries: int = 100
    layers: int = 9
    inner: int = 2048

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> Sizes:
        """Read the sizes of the network from its state dict.

        Raises:
            KeyError: if a tensor that determines a size is missing.
        """
        colors = "decoder.color_decoder."
        blocks = [int(found[1]) for key in state if (found := _BLOCK.match(key))]
        return cls(
            depths=[blocks.count(stage) for stage in range(4)],
            widths=[len(state[f"encoder.arch.norm{i}.weight"]) for i in range(4)],
            width=len(state["decoder.layers.0.conv.0.weight_orig"]),
            queries=len(state[f"{colors}query_feat.weight"]),
            layers=sum(bool(_LAYER.match(key)) for key in state),
            inner=len(state[f"{colors}transformer_ffn_layers.0.linear1.weight"]),
        )


class DDColorNet(nn.Module):
    """The whole network; `encode` and `decode` are its two halves, split at the maps that the queries attend to."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.arch = _ConvNeXt(sizes.depths, sizes.widths)
        self.decoder = _Decoder(sizes)
        self.refine_net = nn.Sequential(nn.Sequential(_SpectralConv(sizes.queries + 3, 2, 1, bias=True)))
        # ImageNet's, which the checkpoints contain as well.
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def encode(self, rgb: Tensor) -> list[Tensor]:
        """Map grey RGB [B, 3, H, W] in [0, 1], H and W multiples of 32, to maps at strides 16, 8 and 4."""
        maps = self.encoder.arch((rgb - self.mean) / self.std)
        out = [maps.pop()]
        for layer in self.decoder.layers:
            out.append(layer(out[-1], maps.pop()))
        return out[1:]

    def decode(self, maps: Sequence[Tensor], rgb: Tensor) -> Tensor:
        """Map the three maps, with the same RGB [B, 3, H, W], to ab [B, 2, H, W] in Lab units."""
        affinity = self.decoder.color_decoder(maps, self.decoder.last_shuf(maps[-1]))
        return self.refine_net(torch.cat([affinity, (rgb - self.mean) / self.std], 1))

    def forward(self, rgb: Tensor) -> Tensor:
        """Run the unsplit network: RGB [B, 3, H, W] in [0, 1] to ab [B, 2, H, W]."""
        return self.decode(self.encode(rgb), rgb)


class _SpectralConv(nn.Module):
    """A convolution whose weight is divided by its largest singular value u^T W v, the vectors as trained."""

    def __init__(self, inputs: int, outputs: int, kernel: int, bias: bool = False) -> None:
        super().__init__()
        self.weight_orig = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
        nn.init.kaiming_normal_(self.weight_orig)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.register_buffer("weight_u", F.normalize(torch.ones(outputs), dim=0))
        self.register_buffer("weight_v", F.normalize(torch.ones(inputs * kernel**2), dim=0))

    def forward(self, x: Tensor) -> Tensor:
        largest = self.weight_u @ self.weight_orig.flatten(1) @ self.weight_v
        return F.conv2d(x, self.weight_orig / largest, self.bias, padding=self.weight_orig.shape[2] // 2)


class _ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of [B, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _ConvNeXtBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.pwconv2 = nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return x + y.permute(0, 3, 1, 2)


class _ConvNeXt(nn.Module):
    """Maps an image to four maps, at strides 4, 8, 16 and 32, each normalised only at the output."""

    def __init__(self, depths: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        downs = [nn.Sequential(nn.Conv2d(3, widths[0], 4, 4), _ChannelNorm(widths[0]))]
        for before, after in pairwise(widths):
            downs.append(nn.Sequential(_ChannelNorm(before), nn.Conv2d(before, after, 2, 2)))
        self.downsample_layers = nn.ModuleList(downs)
        stages = [[_ConvNeXtBlock(width) for _ in range(depth)] for depth, width in zip(depths, widths, strict=True)]
        self.stages = nn.ModuleList(nn.Sequential(*blocks) for blocks in stages)
        for i, width in enumerate(widths):
            self.add_module(f"norm{i}", _ChannelNorm(width))
        self.norm = nn.LayerNorm(widths[-1], eps=1e-6)  # a classifier's: in the checkpoints, but not used

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for i, (down, stage) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            x = stage(down(x))
            maps.append(getattr(self, f"norm{i}")(x))
        return maps


class _PixelShuffle(nn.Module):
    """Upsampling by pixel shuffle, then a 2x2 mean (left and up) against checkerboard patterns."""

    def __init__(self, inputs: int, outputs: int, times: int, bias: bool) -> None:
        super().__init__()
        conv = _SpectralConv(inputs, outputs * times**2, 1, bias)
        self.conv = nn.Sequential(conv) if bias else nn.Sequential(conv, nn.BatchNorm2d(outputs * times**2))
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        x = F.pixel_shuffle(F.relu(self.conv(x)), self.times)
        return F.avg_pool2d(F.pad(x, (1, 0, 1, 0), mode="replicate"), 2, stride=1)


class _UNetBlock(nn.Module):
    """Doubles the resolution, and adds the encoder's map of that resolution."""

    def __init__(self, inputs: int, skipped: int, outputs: int) -> None:
        super().__init__()
        self.shuf = _PixelShuffle(inputs, outputs, 2, bias=False)
        self.bn = nn.BatchNorm2d(skipped)
        conv = _SpectralConv(outputs + skipped, outputs, 3)
        self.conv = nn.Sequential(conv, nn.ReLU(), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor, skipped: Tensor) -> Tensor:
        return self.conv(F.relu(torch.cat([self.shuf(x), self.bn(skipped)], 1)))


class _Decoder(nn.Module):
    """A container only: `DDColorNet` runs its parts, on both sides of the split."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        outputs = [sizes.width, sizes.width, sizes.width // 2]
        inputs = [sizes.widths[3], *outputs[:2]]
        skipped = sizes.widths[2::-1]
        self.layers = nn.ModuleList(map(_UNetBlock, inputs, skipped, outputs))
        self.last_shuf = _PixelShuffle(outputs[2], outputs[2], SPLIT_STRIDE, bias=True)
        self.color_decoder = _ColorDecoder(sizes, outputs)


class _Attention(nn.Module):
    """Attention of the queries to themselves (`self_attn`) or to a map (`multihead_attn`), added and normalised."""

    def __init__(self, channels: int, name: str) -> None:
        super().__init__()
        self.add_module(name, nn.MultiheadAttention(channels, HEADS, batch_first=True))
        self.norm = nn.LayerNorm(channels)
        self.name = name

    def forward(self, queries: Tensor, where: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        out, _ = getattr(self, self.name)(queries + where, keys, values, need_weights=False)
        return self.norm(queries + out)


class _FeedForward(nn.Module):
    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(channels, inner)
        self.linear2 = nn.Linear(inner, channels)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.linear2(F.relu(self.linear1(x))))


class _ColorDecoder(nn.Module):
    """Maps the three maps and the image's features [B, C, H, W] to each pixel's affinity to each query [B, Q, H, W]."""

    def __init__(self, sizes: Sizes, inputs: Sequence[int]) -> None:
        super().__init__()
        channels = sizes.width // 2
        self.query_feat = nn.Embedding(sizes.queries, channels)
        self.query_embed = nn.Embedding(sizes.queries, channels)
        self.level_embed = nn.Embedding(len(inputs), channels)
        self.input_proj = nn.ModuleList(nn.Conv2d(n, channels, 1) for n in inputs)
        layers = range(sizes.layers)
        self.transformer_self_attention_layers = nn.ModuleList(_Attention(channels, "self_attn") for _ in layers)
        self.transformer_cross_attention_layers = nn.ModuleList(_Attention(channels, "multihead_attn") for _ in layers)
        self.transformer_ffn_layers = nn.ModuleList(_FeedForward(channels, sizes.inner) for _ in layers)
        self.decoder_norm = nn.LayerNorm(channels)
        self.color_embed = nn.Module()
        self.color_embed.layers = nn.ModuleList(nn.Linear(channels, channels) for _ in range(3))

    def forward(self, maps: Sequence[Tensor], image_features: Tensor) -> Tensor:
        values, keys = [], []
        for x, project, level in zip(maps, self.input_proj, self.level_embed.weight, strict=True):
            value = project(x).flatten(2).mT + level
            values.append(value)
            keys.append(value + _positions(x.shape[2], x.shape[3], value))
        batch = len(image_features)
        x, where = (e.weight.expand(batch, -1, -1) for e in (self.query_feat, self.query_embed))
        for i, feed_forward in enumerate(self.transformer_ffn_layers):
            scale = i % len(maps)
            x = self.transformer_cross_attention_layers[i](x, where, keys[scale], values[scale])
            x = self.transformer_self_attention_layers[i](x, where, x + where, x)
            x = feed_forward(x)
        first, second, last = self.color_embed.layers
        colors = last(F.relu(second(F.relu(first(self.decoder_norm(x))))))
        return torch.einsum("bqc,bchw->bqhw", colors, image_features)


def _positions(height: int, width: int, like: Tensor) -> Tensor:
    """Return sines and cosines of each cell's position, down and across: [height * width, C], with C of `like`."""
    channels = like.shape[-1] // 2
    period = 10000 ** (2 * torch.arange(channels // 2, device=like.device) / channels)

    def waves(n: int) -> Tensor:  # [n, channels], sine and cosine of a period side by side
        angle = 2 * math.pi * torch.arange(1, n + 1, device=like.device)[:, None] / (n + 1e-6) / period
        return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)

    down = waves(height)[:, None].expand(-1, width, -1)
    across = waves(width)[None].expand(height, -1, -1)
    return torch.cat([down, across], -1).flatten(0, 1).to(like)
