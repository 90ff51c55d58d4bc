"""Train the shipped network of `style`: `python -m lift3d_cli.training.style --photos PHOTOS --models FOLDER`.

Perceptual losses as in Johnson et al. 2016, with a style picture that is drawn by this module. A run is a folder with
checkpoint and learning curves, see `loop`. No number tells which weights look best, so they are always written.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lift3d_cli.config import TrainConfig
from lift3d_cli.errors import ModelError
from lift3d_cli.lifting.precision import MixedPrecision, in_precision
from lift3d_cli.models.builtin.style_nets import TinyStyleNet
from lift3d_cli.training.command import command_of, learn, parse
from lift3d_cli.training.loop import TrainingTask, set_training
from lift3d_cli.training.photo_set import PhotoSet, crops, moved, to_tensor
from lift3d_cli.training.publish import publish_weights, shipped
from lift3d_cli.weights import load_weights

_VGG_FILE = "vgg19_relu3_1.safetensors"
_BATCH, _CROP_PX = 2, 128
# Share of the steps that sample features between cells, as lifting does.
_MOVED_SHARE = 0.3
_STYLE_WEIGHT, _SMOOTH_WEIGHT = 5.0, 0.5

# RGB colours from dark to light, then warm.
_PALETTE = ((18, 30, 74), (24, 84, 140), (62, 160, 176), (244, 226, 178), (240, 170, 44), (214, 78, 40))
# Width and length in pixels and number of strokes, for 512 x 512; later layers are drawn over earlier ones.
_STROKES = ((18, 84, 1000), (11, 54, 2100), (6, 32, 3600))


def style_picture(size_px: int = 512, seed: int = 0) -> np.ndarray:
    """Draw outlined brush strokes that follow swirls: uint8 [size_px, size_px, 3] RGB."""
    rng = np.random.default_rng(seed)
    swirls, tone = 2.2 * _smooth_noise(size_px, 3, rng), _smooth_noise(size_px, 5, rng)
    # Ranks instead of values, so that every colour covers the same area.
    tone = tone.ravel().argsort().argsort().reshape(tone.shape) / tone.size
    palette = np.array(_PALETTE, np.float64)
    image = np.full((size_px, size_px, 3), _PALETTE[0], np.uint8)
    for width, length, number in _STROKES:
        for _ in range(number * size_px**2 // 512**2):
            points = _stroke(rng.uniform(0, size_px, 2), length, swirls)
            x, y = points[0].astype(int)
            shade = int(np.clip(tone[y, x] + rng.normal(0, 0.07), 0, 0.999) * len(palette))
            color = palette[shade] + rng.normal(0, 12) + rng.normal(0, 6, 3)
            along = points[-1] - points[-2]
            light = points[1:-1] + 0.2 * width * np.array([-along[1], along[0]]) / np.linalg.norm(along)
            _draw(image, points, color * 0.45, width + 2)
            _draw(image, points, color, width)
            _draw(image, light, color * 1.2 + 12, max(1, width // 5))
    return image


def _smooth_noise(size_px: int, cells: int, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal((cells + 3, cells + 3)).astype(np.float32)
    return cv2.resize(noise, (size_px, size_px), interpolation=cv2.INTER_CUBIC)


def _stroke(point: np.ndarray, length_px: int, swirls: np.ndarray) -> np.ndarray:
    """Trace a stroke from `point` along the directions (radians) of `swirls`: [N, 2] (x, y), four pixels apart."""
    points = [point]
    for _ in range(length_px // 4 - 1):
        x, y = np.clip(points[-1], 0, len(swirls) - 1).astype(int)
        points.append(points[-1] + 4 * np.array([np.cos(swirls[y, x]), np.sin(swirls[y, x])]))
    return np.array(points)


def _draw(image: np.ndarray, points: np.ndarray, color: np.ndarray, width: int) -> None:
    sixteenths = np.round(points * 16).astype(np.int32)[None]
    cv2.polylines(image, sixteenths, False, np.clip(color, 0, 255).tolist(), width, cv2.LINE_AA, 4)


class Vgg(MixedPrecision):
    """VGG-19 up to relu3_1, with weights from a safetensors file `conv1_1.weight`, ..., `conv3_1.bias`.

    Raises:
        ModelError: if the file has other weights.
    """

    _MEAN = (103.939, 116.779, 123.68)  # BGR
    _WIDTHS = (("conv1_1", 3, 64), ("conv1_2", 64, 64), ("conv2_1", 64, 128), ("conv2_2", 128, 128),
               ("conv3_1", 128, 256))  # fmt: skip

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.convs = nn.ModuleDict({name: nn.Conv2d(a, b, 3, padding=1) for name, a, b in self._WIDTHS})
        try:
            self.convs.load_state_dict({name: t.float() for name, t in load_weights(path.name, path).items()})
        except RuntimeError as e:
            raise ModelError(f"{path}: not the weights of VGG-19 up to relu3_1") from e
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    @in_precision
    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map images [B, 3, H, W] in [0, 1] to relu1_2, relu2_2, relu3_1."""
        x, out = image.flip(1) * 255 - torch.tensor(self._MEAN)[:, None, None], []
        for name, conv in self.convs.items():
            x = F.relu(conv(x))
            if name in ("conv1_2", "conv2_2", "conv3_1"):
                out.append(x)
            x = F.max_pool2d(x, 2) if name.endswith("_2") else x
        return tuple(out)


def gram(features: Tensor) -> Tensor:
    """Return the Gram matrices of features [B, C, h, w]: [B, C, C]."""
    rows = features.flatten(2)
    return rows @ rows.transpose(1, 2) / rows.shape[2]


class StyleTask(TrainingTask):
    """Training of the network of `style`; see `TrainingTask`.

    Args:
        photos: uint8 [H, W, 3] to train on.
        held_out: photos to score on.
        vgg: network of the perceptual losses.
        steps: number of steps of the whole training.
    """

    def __init__(self, photos: Sequence[np.ndarray], held_out: Sequence[np.ndarray], vgg: nn.Module, steps: int):
        self.network = TinyStyleNet().to(memory_format=torch.channels_last)
        self._photos = [photo for photo in photos if min(photo.shape[:2]) > _CROP_PX + TinyStyleNet.stride]
        self._held_out = held_out
        self._vgg = vgg
        self._steps = steps
        picture = to_tensor(style_picture())[None]
        with torch.inference_mode():
            grams = [gram(x).clone() for x in vgg(picture)]
        self._grams = [g.clone() for g in grams]

    def loss(self, rng: random.Random, step: int) -> Tensor:
        """Return the loss of a batch of crops: content, and weighted, style and total variation."""
        set_training(self.network, step, self._steps)
        stride = TinyStyleNet.stride
        is_moved = rng.random() < _MOVED_SHARE
        x, y = (rng.randrange(stride), rng.randrange(stride)) if is_moved else (0, 0)
        large = crops(self._photos, _BATCH, _CROP_PX + stride, rng)
        features = self.network.encode(large[..., :_CROP_PX, :_CROP_PX])
        if is_moved:
            features = moved(features, (x / stride, y / stride))
        content, style, smooth = self.errors(
            self.network.decode(features), large[..., y : y + _CROP_PX, x : x + _CROP_PX]
        )
        return content + _STYLE_WEIGHT * style + _SMOOTH_WEIGHT * smooth

    def errors(self, painted: Tensor, photo: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return content and style errors of pictures [B, 3, H, W], relative to their targets, and total variation.

        Content is compared at relu2_2, which represents brightness, and relu3_1, which represents shapes.
        """
        with torch.no_grad():
            want = self._vgg(photo)[1:]
        have = self._vgg(painted)
        content = sum((x - y).square().mean() / y.square().mean() for x, y in zip(have[1:], want, strict=True)) / 2
        pairs = zip(have, self._grams, strict=True)
        style = sum((gram(x) - g).square().mean() / g.square().mean() for x, g in pairs) / len(self._grams)
        across, down = (painted.diff(dim=dim).abs().mean() for dim in (2, 3))
        return content, style, across + down

    @torch.inference_mode()
    def scores(self) -> dict[str, float]:
        """Return errors on the held-out photos; `style_of_photo` is the style error of the photos themselves."""
        self.network.eval()
        rows = []
        for photo in self._held_out:
            image = to_tensor(photo)[None]
            image = image[..., : image.shape[2] // 4 * 4, : image.shape[3] // 4 * 4]
            content, style, _ = self.errors(self.network.decode(self.network.encode(image)), image)
            rows.append([content.item(), style.item(), self.errors(image, image)[1].item()])
        return dict(zip(("content", "style", "style_of_photo"), np.mean(rows, 0).tolist(), strict=True))


def train(folder: Path, vgg: Path, config: TrainConfig, dataset: str) -> None:
    """Train and publish; print progress as JSON lines."""
    photos = PhotoSet.read(folder, dataset)
    torch.manual_seed(config.seed)
    network = Vgg(vgg)
    network.precision = "bf16"  # it takes most of a step, and its weights have half precision anyway
    task = StyleTask(photos.learned, photos.held_out[::10], network, config.steps)
    scores = learn(config, task)
    publish_weights(
        shipped(task.network),
        config.output,
        command=command_of(config, "--models FOLDER"),
        data=f"{photos.about}; a style picture drawn by code; losses of VGG-19",
        scores=scores,
    )


def main() -> None:
    """Parse the command line and train."""
    defaults = {"steps": 1200, "learning_rate": 3e-3, "evaluate_every": 200}
    defaults = {"output": Path("weights/style.safetensors"), **defaults}
    config, data = parse("style", __doc__, defaults, models=f"folder that has {_VGG_FILE}")
    train(data["photos"], data["models"] / _VGG_FILE, config, data["dataset"])


if __name__ == "__main__":
    main()
