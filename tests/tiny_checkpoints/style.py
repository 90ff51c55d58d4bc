"""Style networks, as their authors save them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn


def save_johnson(folder: Path) -> str:
    """TransformerNet of fast_neural_style, as old versions of torch saved it."""
    folder.mkdir(parents=True, exist_ok=True)
    state = johnson_state() | {"in1.running_mean": torch.zeros(4), "res3.in2.running_var": torch.ones(8)}
    torch.save(state, folder / "candy.pth")
    return str(folder / "candy.pth")


def johnson_state(a: int = 4, b: int = 6, c: int = 8) -> dict[str, Tensor]:
    """Weights of a TransformerNet whose first convolutions have `a`, `b` and `c` channels."""
    random = torch.Generator().manual_seed(1)
    state = {}
    convs = {"conv1": (a, 3, 9), "conv2": (b, a, 3), "conv3": (c, b, 3)}
    convs |= {f"res{i}.conv{j}": (c, c, 3) for i in range(1, 6) for j in (1, 2)}
    convs |= {"deconv1": (b, c, 3), "deconv2": (a, b, 3), "deconv3": (3, a, 9)}
    for name, (outputs, inputs, kernel) in convs.items():
        weight = torch.randn(outputs, inputs, kernel, kernel, generator=random)
        gain = 60 if name == "deconv3" else 1  # a picture in [0, 255]
        state[f"{name}.conv2d.weight"] = gain * weight / (inputs * kernel**2) ** 0.5
        state[f"{name}.conv2d.bias"] = torch.full((outputs,), 128.0 if name == "deconv3" else 0.1)
    norms = {"in1": a, "in2": b, "in3": c, "in4": b, "in5": a}
    norms |= {f"res{i}.in{j}": c for i in range(1, 6) for j in (1, 2)}
    for name, width in norms.items():
        state[f"{name}.weight"] = torch.rand(width, generator=random) + 0.5
        state[f"{name}.bias"] = torch.randn(width, generator=random) / 4
    return state


def save_adain(folder: Path, names: tuple[str, str] = ("vgg.pth", "decoder.pth")) -> str:
    """AdaIN: VGG and decoder."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in names]
    for path, part in zip(paths, adain_parts(), strict=True):
        torch.save(part.state_dict(), path)
    return ",".join(map(str, paths))


def adain_parts() -> tuple[nn.Sequential, nn.Sequential]:
    """VGG with more layers than are used, and decoder, as index-keyed `nn.Sequential`s."""
    convs = [(3, 64), (64, 64), "pool", (64, 128), (128, 128), "pool", (128, 256), (256, 256), (256, 256), (256, 256),
             "pool", (256, 512), (512, 8)]  # fmt: skip
    vgg: list[nn.Module] = [nn.Conv2d(3, 3, 1)]
    for conv in convs:
        vgg += [nn.MaxPool2d(2, 2, 0, ceil_mode=True)] if conv == "pool" else [*_padded(*conv), nn.ReLU()]
    widths = [(512, 256), "up", (256, 256), (256, 256), (256, 256), (256, 128), "up", (128, 128), (128, 64), "up",
              (64, 64), (64, 3)]  # fmt: skip
    decoder: list[nn.Module] = []
    for conv in widths:
        decoder += [nn.UpsamplingNearest2d(scale_factor=2)] if conv == "up" else [*_padded(*conv), nn.ReLU()]
    torch.manual_seed(2)
    parts = nn.Sequential(*vgg), nn.Sequential(*decoder[:-1])
    for part in parts:
        for name, parameter in part.named_parameters():
            if parameter.dim() == 4:
                nn.init.kaiming_normal_(parameter)
            else:
                nn.init.constant_(parameter, 0.5 if name == "28.bias" else 0.05)
    parts[1][-1].weight.data *= 0.2
    return parts[0].eval().requires_grad_(False), parts[1].eval().requires_grad_(False)


def _padded(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.ReflectionPad2d(1), nn.Conv2d(inputs, outputs, 3)]
