"""`tiny-colorizer`: a small network from lightness to colour, split at a stride-8 map. It ships with lift3d."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lift3d_cli.errors import ModelError
from lift3d_cli.models.base import FeatureMap, Model, ModelSpec, RenderedView
from lift3d_cli.models.builtin.color_space import lightness, rgb_from_lab
from lift3d_cli.weights import load_weights

STRIDE = 8
CHANNELS = 64
# The encoder goes down to stride 32 and back up, for context: images are padded to whole cells of that stride.
_DEEPEST_STRIDE = 32
# Stride of the decoder's map: from there to pixels, colour is interpolated, as the eye's resolution for colour is low.
CHROMA_STRIDE = 4
# The decoder classifies colours on a 9 x 9 grid of (a, b) instead of regressing a and b, by which an object that is
# either red or blue would become brown, their mean.
_AB_STEP = 20.0
_AB_LEVELS = torch.arange(-4, 5) * _AB_STEP
# Below 1, more likely colours outweigh the mean of all. 0.4 has the least error on held-out photos (1: 9 % more).
_TEMPERATURE = 0.4


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Build convolution, BatchNorm, ReLU. Kernels of stride 2 have even sizes, to be centred on their cells."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, (kernel - stride) // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _conv(channels, channels, 3)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.second(self.first(x))))


class _Encoder(nn.Module):
    """Maps lightness [B, 1, H, W], H and W multiples of 32, to features [B, 64, H/8, W/8]."""

    def __init__(self) -> None:
        super().__init__()
        self.to_4 = nn.Sequential(_conv(1, 24, 4, 2), _conv(24, 40, 4, 2), _Residual(40))
        self.to_8 = nn.Sequential(_conv(40, 72, 4, 2), _Residual(72), _Residual(72))
        # Dropout (in training only) at the deepest level: with few photos it would overfit.
        self.to_16 = nn.Sequential(_conv(72, 112, 2, 2), _Residual(112), _Residual(112), nn.Dropout2d(0.1))
        self.to_32 = nn.Sequential(_conv(112, 136, 2, 2), _Residual(136), _Residual(136), nn.Dropout2d(0.2))
        self.from_32 = _conv(136, 112, 1)
        self.at_16 = _Residual(112)
        self.from_16 = _conv(112, 72, 1)
        self.at_8 = _Residual(72)
        # No ReLU at the end: features of several views are averaged, and a clipped average is not the average.
        self.out = nn.Sequential(nn.Conv2d(72, CHANNELS, 1, bias=False), nn.BatchNorm2d(CHANNELS))

    def forward(self, x: Tensor) -> Tensor:
        at_8 = self.to_8(self.to_4(x))
        at_16 = self.to_16(at_8)
        at_16 = self.at_16(at_16 + _twice(self.from_32(self.to_32(at_16))))
        return self.out(self.at_8(at_8 + _twice(self.from_16(at_16))))


class _Decoder(nn.Sequential):
    """Maps features [B, 64, h, w] to logits [B, 81, 2h, 2w]. Small and local, as its inputs are rendered features."""

    def __init__(self) -> None:
        up = nn.Upsample(scale_factor=STRIDE // CHROMA_STRIDE, mode="bilinear", align_corners=False)
        last = nn.Conv2d(64, len(_AB_LEVELS) ** 2, 1)
        nn.init.zeros_(last.weight)  # training starts at "no colour", not at random colours
        nn.init.zeros_(last.bias)
        super().__init__(_conv(CHANNELS, 64, 3), up, _conv(64, 64, 3), last)


def color_shares(ab: Tensor) -> Tensor:
    """Express ab [B, 2, h, w] as shares [B, 81, h, w] of the grid's colours: bilinear, so their mean is ab again."""
    levels = _AB_LEVELS.to(ab)[:, None, None, None, None]
    limit = _AB_LEVELS[-1].item()
    shares = (1 - (ab.clamp(-limit, limit) - levels).abs() / _AB_STEP).clamp_min(0)  # [9, B, 2, h, w]
    return torch.einsum("ibhw,jbhw->bijhw", shares[:, :, 0], shares[:, :, 1]).flatten(1, 2)


def color_mean(shares: Tensor) -> Tensor:
    """Return the mean ab [B, 2, h, w] of the grid's colours by shares [B, 81, h, w]."""
    a, b = torch.meshgrid(_AB_LEVELS, _AB_LEVELS, indexing="ij")
    return torch.einsum("bkhw,ck->bchw", shares, torch.stack([a.flatten(), b.flatten()]).to(shares))


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class ColorizerNet(nn.Module):
    """The network that is trained, without Lab, photos or grids."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = _Encoder()
        self.decoder = _Decoder()

    def encode(self, light: Tensor) -> Tensor:
        """Map lightness [B, 1, H, W] in [0, 100], any size, to features [B, 64, ceil(H/8), ceil(W/8)]."""
        height, width = light.shape[2:]
        padding = (0, -width % _DEEPEST_STRIDE, 0, -height % _DEEPEST_STRIDE)
        features = self.encoder(F.pad(light / 50 - 1, padding, mode="replicate"))
        return features[:, :, : math.ceil(height / STRIDE), : math.ceil(width / STRIDE)]

    def decode(self, features: Tensor) -> Tensor:
        """Map features [B, 64, h, w] to ab [B, 2, 2h, 2w] in Lab units."""
        return color_mean(torch.softmax(self.decoder(features) / _TEMPERATURE, 1))

    def forward(self, light: Tensor) -> Tensor:
        """Run the unsplit model: lightness [B, 1, H, W] in [0, 100] to ab [B, 2, H, W] in Lab units."""
        ab = self.decode(self.encode(light))
        ab = F.interpolate(ab, scale_factor=CHROMA_STRIDE, mode="bilinear", align_corners=False)
        return ab[:, :, : light.shape[2], : light.shape[3]]


class TinyColorizer(Model):
    """Gives a grey photo plausible colours. Reads lightness only, so colour and grey photos have the same features."""

    spec = ModelSpec(
        name="tiny-colorizer",
        channels=CHANNELS,
        stride=STRIDE,
        tasks=("colorize",),
        version="1",
        license="Apache-2.0",
        summary="colorizes grey photos; ships with lift3d, no download",
        max_size=640,
    )

    def __init__(self, checkpoint: str = "") -> None:
        """Load the shipped weights, or those of the file `checkpoint`."""
        super().__init__()
        self.net = ColorizerNet()
        tensors = load_weights("tiny-colorizer.safetensors", Path(checkpoint) if checkpoint else None)
        try:
            self.net.load_state_dict({name: t.float() for name, t in tensors.items()})
        except RuntimeError as e:
            # torch's own message names every tensor: kept as the cause, not shown.
            raise ModelError(f"weights {checkpoint or 'of lift3d'} do not fit the network of tiny-colorizer") from e

    def encode(self, image: Tensor) -> FeatureMap:
        """Encode the lightness of a photo [3, H, W]; right and bottom are padded by replication to whole cells."""
        features = self.net.encode(lightness(image)[None])[0]
        return FeatureMap(features, self.grid(image.shape[2], image.shape[1]))

    def decode(self, features: FeatureMap, view: RenderedView, task: str) -> Tensor:
        """Combine the view's lightness with the features' colour: [3, H, W] in [0, 1]."""
        light = lightness(view.image)
        ab = features.finer(self.net.decode(features.data[None])[0])
        return rgb_from_lab(torch.cat([light, ab.at_pixels(light.shape[2], light.shape[1])]))

    def colorize(self, image: Tensor) -> Tensor:
        """Run the unsplit model on one photo [3, H, W], for comparison: [3, H, W] in [0, 1]."""
        light = lightness(image)
        return rgb_from_lab(torch.cat([light, self.net(light[None])[0]]))
