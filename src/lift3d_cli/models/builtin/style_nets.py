"""The networks of `style`, each split at a feature map: our own, that of Johnson et al. 2016, and AdaIN."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class StyleNetwork(nn.Module):
    """A split network: from images [1, 3, H, W] in [0, 1] to features, and to images of whole cells.

    Output pixel (0, 0) corresponds to the image's pixel (0, 0), whatever the offset.
    """

    channels: int
    stride: int
    offset = 0.0
    """Offset of the cells, as in `FeatureGrid`."""

    def encode(self, image: Tensor) -> Tensor:
        """Map images [B, 3, H, W] to features [B, channels, ceil(H / stride), ceil(W / stride)]."""
        raise NotImplementedError

    def decode(self, features: Tensor) -> Tensor:
        """Map features [B, channels, h, w] to images [B, 3, stride * h, stride * w] in [0, 1]."""
        raise NotImplementedError


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """Build convolution and BatchNorm. Kernels of stride 2 have even sizes, to be centred on their cells."""
    padding = (kernel - stride) // 2
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, padding_mode="replicate", bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class _Residual(nn.Sequential):
    def __init__(self, channels: int) -> None:
        super().__init__(*_conv(channels, channels, 3), nn.ReLU(), *_conv(channels, channels, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class TinyStyleNet(StyleNetwork):
    """The architecture of Johnson et al. 2016 with fewer channels, and with BatchNorm instead of InstanceNorm.

    InstanceNorm subtracts the frame's mean: the look of a wall would depend on what else is in the frame, and change as
    the camera turns. BatchNorm is the same everywhere in every frame.
    """

    channels, stride = 64, 4

    def __init__(self) -> None:
        super().__init__()
        # No ReLU at the end: features of several views are averaged, and a clipped average is not the average.
        self.encoder = nn.Sequential(
            *_conv(3, 16, 5), nn.ReLU(), *_conv(16, 32, 4, 2), nn.ReLU(), *_conv(32, 64, 4, 2), nn.ReLU(),
            _Residual(64), _Residual(64),
        )  # fmt: skip
        # Interpolation before convolution: transposed convolutions would leave a checkerboard pattern.
        twice = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        last = nn.Conv2d(16, 3, 5, padding=2, padding_mode="replicate")
        self.decoder = nn.Sequential(
            twice, *_conv(64, 32, 3), nn.ReLU(), twice, *_conv(32, 16, 3), nn.ReLU(), last, nn.Sigmoid()
        )

    def encode(self, image: Tensor) -> Tensor:
        """See `StyleNetwork`; right and bottom are padded by replication to whole cells."""
        padding = (0, -image.shape[3] % self.stride, 0, -image.shape[2] % self.stride)
        return self.encoder(F.pad(2 * image - 1, padding, mode="replicate"))

    def decode(self, features: Tensor) -> Tensor:
        """See `StyleNetwork`."""
        return self.decoder(features)


def _reflected(x: Tensor, pad: int) -> Tensor:
    """Pad `x` by reflection, or by replication where it is too small for that."""
    return F.pad(x, (pad,) * 4, mode="reflect" if min(x.shape[2:]) > pad else "replicate")


class _Conv(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, times: int = 1) -> None:
        super().__init__()
        self.conv2d = nn.Conv2d(inputs, outputs, kernel, stride)
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=self.times, mode="nearest") if self.times > 1 else x
        return self.conv2d(_reflected(x, self.conv2d.kernel_size[0] // 2))


class _InstanceResidual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.in1 = _Conv(channels, channels, 3), nn.InstanceNorm2d(channels, affine=True)
        self.conv2, self.in2 = _Conv(channels, channels, 3), nn.InstanceNorm2d(channels, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + _normed(self.in2, self.conv2(F.relu(_normed(self.in1, self.conv1(x)))))


def _normed(norm: nn.InstanceNorm2d, x: Tensor) -> Tensor:
    """Apply InstanceNorm, also to a single cell, which equals its mean; torch refuses that, as useless in training."""
    variance, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
    x = (x - mean) * torch.rsqrt(variance + norm.eps)
    return x * norm.weight[:, None, None] + norm.bias[:, None, None]


class TransformerNet(StyleNetwork):
    """The network of Johnson et al. 2016 with InstanceNorm, as in many checkpoints: [0, 255] in and out.

    Args:
        widths: channels of the first three convolutions; 32, 64, 128 in those checkpoints.
    """

    stride = 4
    # Two 3x3 convolutions of stride 2: cell i is centred on pixel 4i, which is at 4i + 0.5.
    offset = 0.5 - 0.5 / 4

    def __init__(self, widths: tuple[int, int, int] = (32, 64, 128)) -> None:
        super().__init__()
        a, b, c = widths
        self.channels = c
        layers = {"1": _Conv(3, a, 9), "2": _Conv(a, b, 3, 2), "3": _Conv(b, c, 3, 2)}
        for name, layer in layers.items():
            self.add_module(f"conv{name}", layer)
        for name in range(1, 6):
            self.add_module(f"res{name}", _InstanceResidual(c))
        self.deconv1, self.deconv2 = _Conv(c, b, 3, times=2), _Conv(b, a, 3, times=2)
        self.deconv3 = _Conv(a, 3, 9)
        for name, width in enumerate((a, b, c, b, a), 1):
            self.add_module(f"in{name}", nn.InstanceNorm2d(width, affine=True))

    def encode(self, image: Tensor) -> Tensor:
        """See `StyleNetwork`."""
        x = image * 255
        for conv, norm in ((self.conv1, self.in1), (self.conv2, self.in2), (self.conv3, self.in3)):
            x = F.relu(_normed(norm, conv(x)))
        for block in (self.res1, self.res2, self.res3, self.res4, self.res5):
            x = block(x)
        return x

    def decode(self, features: Tensor) -> Tensor:
        """See `StyleNetwork`."""
        x = F.relu(_normed(self.in4, self.deconv1(features)))
        x = F.relu(_normed(self.in5, self.deconv2(x)))
        return (self.deconv3(x) / 255).clamp(0, 1)


class _ReflectedConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(_reflected(x, self.kernel_size[0] // 2))


# Indices of the convolutions in the `nn.Sequential`s of the published checkpoints, with their channels.
_VGG = {0: (3, 3), 2: (3, 64), 5: (64, 64), 9: (64, 128), 12: (128, 128), 16: (128, 256), 19: (256, 256),
        22: (256, 256), 25: (256, 256), 29: (256, 512)}  # fmt: skip
_VGG_POOLS_BEFORE = (9, 16, 29)
_DECODER = {1: (512, 256), 5: (256, 256), 8: (256, 256), 11: (256, 256), 14: (256, 128), 18: (128, 128),
            21: (128, 64), 25: (64, 64), 28: (64, 3)}  # fmt: skip
_DECODER_DOUBLES_BEFORE = (5, 18, 25)


class AdaInNet(StyleNetwork):
    """Adaptive instance normalisation, Huang & Belongie 2017: VGG-19 up to relu4_1, and a mirrored decoder.

    The pools take pixels in pairs, an odd last one alone, so that cells are on the default grid.
    """

    channels, stride = 512, 8

    def __init__(self) -> None:
        super().__init__()
        first = {0: nn.Conv2d(3, 3, 1)}  # converts RGB in [0, 1] to VGG's input
        convs = {place: _ReflectedConv(*widths, 3) for place, widths in _VGG.items()} | first
        self.encoder = nn.Sequential(OrderedDict((str(place), convs[place]) for place in _VGG))
        convs = {place: _ReflectedConv(*widths, 3) for place, widths in _DECODER.items()}
        self.decoder = nn.Sequential(OrderedDict((str(place), convs[place]) for place in _DECODER))

    def encode(self, image: Tensor) -> Tensor:
        """See `StyleNetwork`."""
        x = image
        for name, conv in self.encoder.named_children():
            x = F.max_pool2d(x, 2, ceil_mode=True) if int(name) in _VGG_POOLS_BEFORE else x
            x = conv(x) if name == "0" else F.relu(conv(x))
        return x

    def decode(self, features: Tensor) -> Tensor:
        """See `StyleNetwork`; the features must have the style's statistics."""
        x = features
        for name, conv in self.decoder.named_children():
            x = F.interpolate(x, scale_factor=2, mode="nearest") if int(name) in _DECODER_DOUBLES_BEFORE else x
            x = conv(x) if name == "28" else F.relu(conv(x))
        return x.clamp(0, 1)
