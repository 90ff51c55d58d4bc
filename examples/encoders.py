"""2D models for training and evaluating the renderer: `--model examples/encoders.py:Vgg19` and so on.

The networks are other people's, and their weights are not included: they are safetensors files of these names in the
folder of the environment variable `LIFT3D_MODELS`.

| class | network | file | for |
|---|---|---|---|
| `Vgg19`, `Vgg19Relu1`, `Vgg19Relu2` | VGG-19 up to relu3_1, relu1_2, relu2_2 | `vgg19_relu3_1` | training |
| `SqueezeNet4`, `SqueezeNet8`, `SqueezeNet9` | SqueezeNet 1.0 up to fire4, 8, 9 | `squeezenet_imagenet` | training |
| `Colorizer` | a colorizer on the first half of ResNet-18 | `colorizer_resnet18_ab` | evaluation |
| `Rlfn` | RLFN x4 super-resolution | `rlfn_x4` | evaluation |
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lift3d_cli import Model, ModelSpec
from lift3d_cli.errors import ModelError
from lift3d_cli.geometry.grids import FeatureGrid
from lift3d_cli.models.base import FeatureMap, RenderedView
from lift3d_cli.models.builtin.color_space import lightness, rgb_from_lab
from lift3d_cli.weights import load_weights


def load_network(network: nn.Module, file: str) -> nn.Module:
    """Fill a network with the weights of `LIFT3D_MODELS/file`; weights without a layer are ignored."""
    folder = os.environ.get("LIFT3D_MODELS")
    if not folder:
        raise ModelError(f"{file}: where is it? hint: set LIFT3D_MODELS to the folder of its weights")
    state = load_weights(file, Path(folder) / file)
    own = network.state_dict()
    try:
        network.load_state_dict({name: state[name].float() for name in own})
    except (KeyError, RuntimeError) as e:
        raise ModelError(f"{file}: not the weights of this network") from e
    return network


def principal_colors(features: FeatureMap, view: RenderedView) -> Tensor:
    """Show the map's three leading principal components as red, green and blue: [3, H, W]."""
    rows = features.data.flatten(1).T
    rows = rows - rows.mean(0)
    rows = rows @ torch.linalg.svd(rows, full_matrices=False)[2][:3].T
    low, high = rows.quantile(0.02, 0), rows.quantile(0.98, 0)
    colors = ((rows - low) / (high - low).clamp(min=1e-6)).clamp(0, 1).T.reshape(3, *features.data.shape[1:])
    return FeatureMap(colors, features.grid).at_pixels(view.image.shape[2], view.image.shape[1])


class Vgg19(Model):
    """VGG-19 up to relu3_1."""

    spec = ModelSpec(name="vgg19", channels=256, stride=4, tasks=("features",), summary="VGG-19, relu3_1")
    _LAST = "conv3_1"
    _MEAN = (103.939, 116.779, 123.68)  # BGR

    def __init__(self) -> None:
        super().__init__()
        widths = {"conv1_1": (3, 64), "conv1_2": (64, 64), "conv2_1": (64, 128), "conv2_2": (128, 128)}
        widths["conv3_1"] = (128, 256)
        self.net = nn.ModuleDict({name: nn.Conv2d(a, b, 3, padding=1) for name, (a, b) in widths.items()})
        load_network(self.net, "vgg19_relu3_1.safetensors")

    def encode(self, image: Tensor) -> FeatureMap:
        """Encode to features on `grid`, which pads to whole strides."""
        height, width = image.shape[1:]
        x = image.flip(0) * 255 - torch.tensor(self._MEAN, device=image.device)[:, None, None]
        x = F.pad(x[None], (0, -width % 4, 0, -height % 4), mode="replicate")
        for name, layer in self.net.items():
            x = F.relu(layer(x))
            if name == self._LAST:
                break
            if name.endswith("_2"):
                x = F.max_pool2d(x, 2)
        grid = self.grid(width, height)
        return FeatureMap(x[0, :, : grid.height, : grid.width], grid)

    def decode(self, features: FeatureMap, view: RenderedView, task: str) -> Tensor:
        """Show the features as a picture."""
        return principal_colors(features, view)


class Vgg19Relu1(Vgg19):
    """VGG-19 up to relu1_2, before its pooling."""

    spec = ModelSpec(name="vgg19-relu1", channels=64, stride=1, tasks=("features",), summary="VGG-19, relu1_2")
    _LAST = "conv1_2"


class Vgg19Relu2(Vgg19):
    """VGG-19 up to relu2_2, before its pooling."""

    spec = ModelSpec(name="vgg19-relu2", channels=128, stride=2, tasks=("features",), summary="VGG-19, relu2_2")
    _LAST = "conv2_2"


class _Fire(nn.Module):
    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze1x1 = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze1x1(x))
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], 1)


class SqueezeNet4(Model):
    """SqueezeNet 1.0 up to fire4."""

    spec = ModelSpec(name="squeezenet4", channels=256, stride=4, tasks=("features",), summary="SqueezeNet 1.0, fire4")
    _MEAN = (104.0, 117.0, 123.0)  # BGR
    _FIRES = ((2, 96, 16, 64), (3, 128, 16, 64), (4, 128, 32, 128))
    _POOL_BEFORE = ()

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.ModuleDict({"conv1": nn.Conv2d(3, 96, 7, 2)})
        self.net.update({f"fire{n}": _Fire(*sizes) for n, *sizes in self._FIRES})
        load_network(self.net, "squeezenet_imagenet.safetensors")

    def grid(self, width: int, height: int) -> FeatureGrid:
        """Return the grid without padding: the first cell sees pixels 0 to 10, and the last one may lack some."""
        (w, h), stride, first = ((n - 7) // 2 + 1 for n in (width, height)), 2, 3.5
        for _ in range(1 + len(self._POOL_BEFORE)):
            w, h = (-(-(n - 3) // 2) + 1 for n in (w, h))
            first, stride = first + stride, 2 * stride
        return FeatureGrid(w, h, (1 / stride,) * 2, (0.5 - first / stride,) * 2)

    def encode(self, image: Tensor) -> FeatureMap:
        """Encode to features on `grid`."""
        x = image.flip(0) * 255 - torch.tensor(self._MEAN, device=image.device)[:, None, None]
        for name, layer in self.net.items():
            if name in self._POOL_BEFORE:
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
            x = layer(x[None])[0] if x.dim() == 3 else layer(x)
            if name == "conv1":
                x = F.max_pool2d(F.relu(x)[None], 3, 2, ceil_mode=True)
        return FeatureMap(x[0], self.grid(image.shape[2], image.shape[1]))

    def decode(self, features: FeatureMap, view: RenderedView, task: str) -> Tensor:
        """Show the features as a picture."""
        return principal_colors(features, view)


class SqueezeNet8(SqueezeNet4):
    """SqueezeNet 1.0 up to fire8, before its pooling."""

    spec = ModelSpec(name="squeezenet8", channels=512, stride=8, tasks=("features",), summary="SqueezeNet 1.0, fire8")
    _FIRES = (
        *SqueezeNet4._FIRES,
        (5, 256, 32, 128),
        (6, 256, 48, 192),
        (7, 384, 48, 192),
        (8, 384, 64, 256),
    )
    _POOL_BEFORE = ("fire5",)


class SqueezeNet9(SqueezeNet4):
    """SqueezeNet 1.0 up to fire9."""

    spec = ModelSpec(name="squeezenet9", channels=512, stride=16, tasks=("features",), summary="SqueezeNet 1.0, fire9")
    _FIRES = (*SqueezeNet8._FIRES, (9, 512, 64, 256))
    _POOL_BEFORE = ("fire5", "fire9")


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        skip = self.downsample(x) if hasattr(self, "downsample") else x
        return F.relu(skip + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Colorizer(Model):
    """A colorizer: ResNet-18's first layers on grey, then upsampling to ab at stride 2."""

    spec = ModelSpec(name="colorizer", channels=128, stride=8, tasks=("colorize",), summary="ResNet-18 colorizer")
    _GRAY = (0.2125, 0.7154, 0.0721)

    def __init__(self) -> None:
        super().__init__()
        stem = (nn.Conv2d(1, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        stages = [nn.Sequential(_Block(a, b, s), _Block(b, b, 1)) for a, b, s in ((64, 64, 1), (64, 128, 2))]
        self.midlevel_resnet = nn.Sequential(*stem, *stages)
        layers = []
        for inputs, outputs, is_last in ((128, 128, True), (128, 64, False), (64, 64, True), (64, 32, False)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
            layers += [nn.Upsample(scale_factor=2)] if is_last else []
        self.upsample = nn.Sequential(*layers, nn.Conv2d(32, 2, 3, padding=1), nn.Upsample(scale_factor=2))
        load_network(self, "colorizer_resnet18_ab.safetensors")

    def grid(self, width: int, height: int) -> FeatureGrid:
        """Return the grid of odd kernels of stride 2: a cell's centre is the first pixel of its 8, not their middle."""
        return FeatureGrid(-(-width // 8), -(-height // 8), (1 / 8,) * 2, (0.5 - 0.5 / 8,) * 2)

    def encode(self, image: Tensor) -> FeatureMap:
        """Encode to features [128, ceil(H / 8), ceil(W / 8)], not negative."""
        gray = (image * torch.tensor(self._GRAY, device=image.device)[:, None, None]).sum(0)
        height, width = gray.shape
        x = F.pad(gray[None, None], (0, -width % 8, 0, -height % 8), mode="replicate")
        return FeatureMap(self.midlevel_resnet(x)[0], self.grid(width, height))

    def decode(self, features: FeatureMap, view: RenderedView, task: str) -> Tensor:
        """Combine the view's lightness with the features' colour."""
        light = lightness(view.image)
        ab = self.upsample(features.data[None])[0] * 255 - 128
        # The decoder repeats pixels, so its cells begin at the map's corner: at `grid` with the plain stride.
        whole = FeatureGrid(features.grid.width, features.grid.height, features.grid.scale)
        ab = FeatureMap(features.data, whole).finer(ab)
        return rgb_from_lab(torch.cat([light, ab.at_pixels(light.shape[2], light.shape[1])]))


class _Attention(nn.Module):
    """Enhanced spatial attention, 16 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv_f, self.conv4 = nn.Conv2d(46, 16, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 46, 1)
        self.conv2, self.conv3 = nn.Conv2d(16, 16, 3, 2), nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        short = self.conv1(x)
        wide = self.conv3(F.max_pool2d(self.conv2(short), 7, 3))
        wide = F.interpolate(wide, x.shape[2:], mode="bilinear", align_corners=False)
        return x * torch.sigmoid(self.conv4(wide + self.conv_f(short)))


class _RlfnBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c1_r, self.c2_r = nn.Conv2d(46, 48, 3, padding=1), nn.Conv2d(48, 48, 3, padding=1)
        self.c3_r, self.c5 = nn.Conv2d(48, 46, 3, padding=1), nn.Conv2d(46, 46, 1)
        self.esa = _Attention()

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in (self.c1_r, self.c2_r, self.c3_r):
            y = F.leaky_relu(layer(y), 0.05)
        return self.esa(self.c5(y + x))


class Rlfn(Model):
    """RLFN super-resolution: the photo is the small picture, and its features have one cell per pixel."""

    spec = ModelSpec(name="rlfn", channels=46, stride=1, tasks=("superres",), summary="RLFN x4 super-resolution")

    def __init__(self) -> None:
        super().__init__()
        self.fea_conv, self.LR_conv = nn.Conv2d(3, 46, 3, padding=1), nn.Conv2d(46, 46, 3, padding=1)
        self.B1, self.B2, self.B3, self.B4 = (_RlfnBlock() for _ in range(4))
        self.upsampler = nn.Sequential(nn.Conv2d(46, 48, 3, padding=1), nn.PixelShuffle(4))
        load_network(self, "rlfn_x4.safetensors")

    def encode(self, image: Tensor) -> FeatureMap:
        """Encode to features [46, H, W]."""
        first = self.fea_conv(image[None] * 255)
        x = self.B4(self.B3(self.B2(self.B1(first))))
        return FeatureMap((self.LR_conv(x) + first)[0], self.grid(image.shape[2], image.shape[1]))

    def decode(self, features: FeatureMap, view: RenderedView, task: str) -> Tensor:
        """Return the enlarged picture, at the view's size: render the view larger than the photos were encoded."""
        large = features.finer(self.upsampler(features.data[None])[0] / 255)
        return large.at_pixels(view.image.shape[2], view.image.shape[1]).clamp(0, 1)
