"""`resshift`: super-resolution by diffusion (ResShift, Yue et al., NeurIPS 2023), split at the final latent.

Equation numbers are those of arXiv:2307.12348. The weights are non-commercial (S-Lab License 1.0).
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lift3d_cli.errors import ModelError
from lift3d_cli.models.base import FeatureMap, Model, ModelSpec, RenderedView
from lift3d_cli.models.builtin.diffusion import noise_field, number
from lift3d_cli.models.builtin.state_shapes import State
from lift3d_cli.models.builtin.swin_unet import SwinUNet
from lift3d_cli.models.builtin.tiles import tiled
from lift3d_cli.models.builtin.vq_autoencoder import VQAutoencoder
from lift3d_cli.models.pretrained import read_converted

AUTOENCODER = "autoencoder_vq_f4"
SUFFIXES = (".safetensors", ".pth")
# Tensors that follow from others, or are of the training only.
UNUSED = re.compile(r"\.relative_position_index$|^loss\.")
# By number of steps, the least noise that the published networks were trained with.
LEAST_NOISE = {4: 0.2, 15: 0.04}
# Strength of the noise, and how the schedule rises and where it ends, as published.
KAPPA, POWER, ETA_END = 2.0, 0.3, 0.99


class ResShift(Model):
    """Enlarges pictures four times: diffusion leads from the enlarged picture's latent to that of a sharp one.

    The features are the final latents, a cell per pixel of the small picture; they are blended before they are
    quantised. All photos begin from one field of noise, by cell of the photo, and have another for each step: the same
    cell has the same noise in all photos, whatever their size.

    Photos are mirrored to whole windows of the U-Net's coarsest level (64 pixels), as by the authors; only cells of the
    photo itself are features. The decoder normalises and attends over all that it sees: decode(encode(photo)) equals
    the unsplit model where the sides are such multiples; elsewhere, it misses the padding.
    """

    spec = ModelSpec(
        name="resshift",
        channels=3,
        stride=1,
        tasks=("superres",),
        version="1",
        license="LicenseRef-S-Lab-1.0",
        summary="ResShift: super-resolution x4 by diffusion; non-commercial weights, from files",
        max_size=512,
        scale=4,
        url="https://github.com/zsyOAOA/ResShift/releases/tag/v2.0",
    )

    def __init__(self, checkpoint: str = "", steps: str = "", seed: str = "0", tile: str = "256") -> None:
        """Load the published files. Settings are text, as in a reference.

        Args:
            checkpoint: a `resshift_*.pth`, with `autoencoder_vq_f4.pth` beside it, or a folder with one of each.
            steps: number of steps, 4 or 15, that the network was trained for; "" if the file's name says it.
            seed: seed of the noise.
            tile: largest side, in pixels of the small picture, that is computed at once.

        Raises:
            ModelError: if a file is missing or belongs to another network, or a setting is out of range.
        """
        super().__init__()
        network, autoencoder = _find_files(self.spec, checkpoint)
        self.steps = _steps(self.spec, steps, network)
        self.seed = int(number(self.spec.name, "seed", seed, int, 0, 2**63 - 1))
        tile_px = int(number(self.spec.name, "tile", tile, int, 64, 4096))
        self.unet = _load(self.spec, SwinUNet, network)
        self.vq = _load(self.spec, VQAutoencoder, autoencoder)
        channels = self.vq.quantize.embedding.weight.shape[1]
        if (self.unet.input_blocks[0][0].in_channels, self.unet.out[-1].out_channels) != (channels + 3, channels):
            raise ModelError(f"model {self.spec.name}: {network} is not for latents of {autoencoder} beside a picture")
        self.tile = math.ceil(tile_px / self.unet.multiple) * self.unet.multiple
        self.spec = dataclasses.replace(self.spec, channels=channels, scale=self.vq.stride)

    def preprocessing(self) -> dict[str, object]:
        """Return the settings."""
        return {"steps": self.steps, "seed": self.seed, "tile": self.tile}

    def noises(self, width: int, height: int) -> Iterator[Tensor]:
        """Yield the noise [1, C, height, width] of the beginning and of each step."""
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            yield noise_field(generator, self.spec.channels, width, height)

    def encode(self, image: Tensor) -> FeatureMap:
        """Sample the latent of the sharp picture of a photo [3, H, W] in [0, 1]."""
        height, width = image.shape[1:]
        small = 2 * _mirrored(image, self.unet.multiple)[None] - 1
        sides, times = small.shape[2:], self.vq.stride
        large = F.interpolate(small, scale_factor=times, mode="bicubic", align_corners=False)

        def encoded(rows: slice, columns: slice) -> Tensor:
            rows, columns = (slice(times * span.start, times * span.stop) for span in (rows, columns))
            return self.vq.encode(large[:, :, rows, columns])

        def predict(latent: Tensor, step: int) -> Tensor:
            return tiled(lambda r, c: self.unet(latent[:, :, r, c], step, small[:, :, r, c]), *sides, self.tile)

        start = tiled(encoded, *sides, self.tile)
        noises = (noise.to(start) for noise in self.noises(sides[1], sides[0]))
        (latent,) = deque(sample(predict, start, sqrt_etas(self.steps), noises), maxlen=1)
        return FeatureMap(latent[0, :, :height, :width], self.grid(width, height))

    def decode(self, features: FeatureMap, view: RenderedView, task: str) -> Tensor:
        """Quantise and decode to the enlarged view [3, scale * H, scale * W] in [0, 1].

        The decoder runs on the features' own cells; if these are not the view's pixels, its result is resampled.
        """
        scale = self.spec.scale
        latent = self.vq.quantised(features.data[None])
        colors = tiled(lambda r, c: self.vq.decode(latent[:, :, r, c]), *latent.shape[2:], self.tile)[0]
        colors = (colors / 2 + 0.5).clamp(0, 1)
        # Its grid is in pixels of the view; the result has `scale` times as many.
        grid = features.finer(colors).grid.rescaled(scale, scale)
        out = FeatureMap(colors, grid).at_pixels(scale * view.image.shape[2], scale * view.image.shape[1])
        return out.clamp(0, 1)  # again, since interpolation rounds


def sqrt_etas(steps: int) -> list[float]:
    """Return the square roots of eta, from the last step to the first."""
    first = min(LEAST_NOISE[steps] / KAPPA, LEAST_NOISE[steps])
    rise = (ETA_END / first) ** (1 / (steps - 1))
    return [first * rise ** ((steps - 1) * (k / (steps - 1)) ** POWER) for k in range(steps)]


def sample(
    predict: Callable[[Tensor, int], Tensor], start: Tensor, roots: list[float], noises: Iterable[Tensor]
) -> Iterator[Tensor]:
    """Yield the latent after each step; the last is the sharp picture's.

    Args:
        predict: returns the clean latent for a noisy one, divided by its standard deviation, and the step's number.
        start: [B, C, h, w] latent of the enlarged picture.
        roots: see `sqrt_etas`.
        noises: normal noise as large as the latent, for the beginning and each step but the last.
    """
    etas, noises = [root**2 for root in roots], iter(noises)
    latent = start + KAPPA * roots[-1] * next(noises)
    for k in reversed(range(len(etas))):
        before = etas[k - 1] if k else 0.0
        clean = predict(latent / math.sqrt(KAPPA**2 * etas[k] + 1), k)
        latent = (before * latent + (etas[k] - before) * clean) / etas[k]  # mean and variance: equation 7
        if k:
            latent = latent + KAPPA * math.sqrt(before * (etas[k] - before) / etas[k]) * next(noises)
        yield latent


def _mirrored(image: Tensor, multiple: int) -> Tensor:
    """Pad [3, H, W] at right and bottom to a multiple of pixels by reflection about the last pixel's centre."""
    for dim in (1, 2):
        last = image.shape[dim] - 1
        index = torch.arange(math.ceil((last + 1) / multiple) * multiple, device=image.device) % max(2 * last, 1)
        image = image.index_select(dim, torch.minimum(index, 2 * last - index))
    return image


def _find_files(spec: ModelSpec, checkpoint: str) -> tuple[Path, Path]:
    """Return the files of the network and of the autoencoder beside it."""
    path = Path(checkpoint)
    hint = f"hint: get them from {spec.url}"
    if not checkpoint or not path.exists():
        missing = f"there is no file {checkpoint}" if checkpoint else "it needs its files: --model resshift:FOLDER"
        raise ModelError(f"model {spec.name}: {missing}. {hint}")
    folder, networks = path.parent, [path]
    if path.is_dir():
        folder = path
        networks = sorted(file for file in folder.glob("resshift_*") if file.suffix in SUFFIXES)
    if len(networks) != 1:
        found = f"{len(networks)} networks, such as {networks[0].name}" if networks else "no resshift_*.pth"
        choose = f"hint: choose one: --model {spec.name}:{networks[0]}" if networks else hint
        raise ModelError(f"model {spec.name}: {path} has {found}. {choose}")
    beside = [folder / (AUTOENCODER + suffix) for suffix in SUFFIXES]
    for file in beside:
        if file.is_file():
            return networks[0], file
    raise ModelError(f"model {spec.name}: there is no {beside[-1].name} beside {networks[0]}. {hint}")


def _steps(spec: ModelSpec, text: str, path: Path) -> int:
    """Return the number of steps that the user or the file's name says."""
    named = re.search(r"_s(\d+)(?!\d)", path.stem)
    text = text or (named[1] if named else "")
    if text not in map(str, LEAST_NOISE):
        known = " or ".join(map(str, LEAST_NOISE))
        what = f"steps is {text!r}" if text else f"{path.name} does not say how many steps"
        raise ModelError(f"model {spec.name}: {what}, needs {known}. hint: 'resshift:FILE?steps={max(LEAST_NOISE)}'")
    return int(text)


def _load(spec: ModelSpec, network: Callable[[State], nn.Module], path: Path) -> nn.Module:
    """Build and fill one of the networks.

    Raises:
        ModelError: if the file cannot be read, or holds another network.
    """
    state = read_converted(spec, path)
    try:
        with torch.device("meta"):  # no memory or random numbers for weights that are replaced
            net = network(state)
        net.load_state_dict({key: value for key, value in state.items() if not UNUSED.search(key)}, assign=True)
    except (KeyError, IndexError, RuntimeError, TypeError, ValueError) as e:
        # torch's own message names every tensor: kept as the cause, not shown.
        raise ModelError(
            f"model {spec.name}: {path} does not hold the weights of a {network.__name__}. hint: get it from {spec.url}"
        ) from e
    return net.float()
