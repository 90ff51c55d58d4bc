"""Networks of a user's own, scripted."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn


class Encoder(nn.Module):
    """Stride 4, 6 channels; with a BatchNorm, whose averages a run in training mode would change."""

    def __init__(self, stride: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 6, stride, stride)
        self.norm = nn.BatchNorm2d(6)
        self.near = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return self.near(torch.tanh(self.norm(self.patches(image))))


class Decoder(nn.Module):
    """To twice as many pixels as cells."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(6, 3, 2, 2)

    def forward(self, features: Tensor) -> Tensor:
        return torch.sigmoid(self.up(features))


class Refiner(nn.Module):
    """To as many pixels as the image has; needs features and image to lie on each other."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(6, 3, 4, 4)

    def forward(self, features: Tensor, image: Tensor) -> Tensor:
        return 0.5 * torch.sigmoid(self.up(features)) + 0.5 * image


def save_torchscript(folder: Path, decoder: str = "decoder") -> str:
    """encoder.pt, decoder.pt and refiner.pt, in training mode, as `script` leaves them; the encoder and one of them."""
    folder.mkdir(parents=True, exist_ok=True)
    for network in (Encoder, Decoder, Refiner):
        torch.manual_seed(0)
        torch.jit.script(network()).save(folder / f"{network.__name__.lower()}.pt")
    return f"{folder}/encoder.pt,{folder}/{decoder}.pt"
