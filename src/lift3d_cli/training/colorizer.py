"""Train `tiny-colorizer` on a folder of photos: `python -m lift3d_cli.training.colorizer --photos PHOTOS`.

A run is a folder with checkpoint and learning curves, see `loop`. The weights are written to `--output` if they beat
the existing ones on the held-out photos.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.config import TrainConfig
from lift3d_cli.models.builtin.color_space import lab_from_rgb
from lift3d_cli.models.builtin.tiny_colorizer import CHROMA_STRIDE, STRIDE, ColorizerNet, TinyColorizer, color_shares
from lift3d_cli.training.command import command_of, learn, parse
from lift3d_cli.training.loop import TrainingTask, set_training
from lift3d_cli.training.photo_set import PhotoSet, moved, random_crop, to_tensor
from lift3d_cli.training.publish import publish_if_better

_BATCH, _CROP_PX = 8, 192
# Share of the steps that sample features between cells, as lifting does.
_MOVED_SHARE = 0.5


def to_lab(photo: np.ndarray) -> Tensor:
    """Convert an sRGB uint8 image [H, W, 3] to Lab [3, H, W]."""
    return lab_from_rgb(to_tensor(photo))


def make_batch(photos: Sequence[np.ndarray], rng: random.Random) -> tuple[Tensor, Tensor]:
    """Draw crops of random photos: lightness [B, 1, S, S] and ab [B, 2, S, S], in Lab units."""
    chosen = rng.choices(photos, k=_BATCH)
    lab = torch.stack([to_lab(random_crop(photo, _CROP_PX, rng)) for photo in chosen])

    def factors(spread: float) -> Tensor:
        return torch.tensor([math.exp(rng.uniform(-spread, spread)) for _ in chosen])[:, None, None, None]

    # Another exposure and contrast change lightness, but colours only slightly in strength.
    light = (lab[:, :1] / 100).clamp(0, 1) ** factors(0.4) * 100
    light = ((light - 50) * factors(0.15) + 50).clamp(0, 100)
    return light.contiguous(memory_format=torch.channels_last), lab[:, 1:] * factors(0.15)


def color_weights(photos: Sequence[np.ndarray]) -> Tensor:
    """Return the loss weight of each of the grid's colours, [81]: larger for rarer colours, with a mean of 1.

    Without it, everything that is not clearly green or blue becomes brown. The form is that of Zhang et al. 2016,
    "Colorful Image Colorization", section 2.2, with a square root, as a few photos estimate rare colours poorly.
    """
    shares = [color_shares(F.avg_pool2d(to_lab(photo)[None, 1:], CHROMA_STRIDE)).mean((0, 2, 3)) for photo in photos]
    frequency = torch.stack(shares).mean(0)
    weights = (0.5 * frequency + 0.5 / len(frequency)) ** -0.5
    return weights / (frequency * weights).sum()


def loss_on(net: ColorizerNet, light: Tensor, ab: Tensor, shift_px: tuple[int, int], weights: Tensor) -> Tensor:
    """Return the cross-entropy over colours weighted by `weights` [81], with features shifted by `shift_px`.

    The shift imitates lifting, which samples features between the cells.
    """
    features = net.encode(light)
    if shift_px != (0, 0):
        features = moved(features, (shift_px[0] / STRIDE, shift_px[1] / STRIDE))
    margin = STRIDE  # the shift brings in what lies outside of the crop
    height, width = ab.shape[2] - 2 * margin, ab.shape[3] - 2 * margin
    x, y = margin + shift_px[0], margin + shift_px[1]
    truth = color_shares(F.avg_pool2d(ab[:, :, y : y + height, x : x + width], CHROMA_STRIDE))
    inner = slice(margin // CHROMA_STRIDE, -margin // CHROMA_STRIDE)
    guess = torch.log_softmax(net.decoder(features)[:, :, inner, inner], 1)
    cross_entropy = -(truth * guess).sum(1)
    return (cross_entropy * torch.einsum("bkhw,k->bhw", truth, weights)).mean()


@torch.inference_mode()
def held_out_scores(net: ColorizerNet, photos: Sequence[np.ndarray]) -> dict[str, float]:
    """Return means over pixels in Lab units: |ab - true ab| of the network and of "no colour", and chroma."""
    net.eval()
    rows = []
    for photo in photos:
        lab = to_lab(photo)
        ab, true_ab = net(lab[None, :1])[0], lab[1:]
        errors = (ab - true_ab).abs().mean(), true_ab.abs().mean()
        rows.append([t.item() for t in (*errors, ab.norm(dim=0).mean(), true_ab.norm(dim=0).mean())])
    names = ("ab_error", "ab_error_of_no_colour", "chroma", "true_chroma")
    return {name: float(mean) for name, mean in zip(names, np.mean(rows, 0), strict=True)}


class ColorizerTask(TrainingTask):
    """Training of `tiny-colorizer`; see `TrainingTask`.

    Args:
        photos: uint8 [H, W, 3] to train on.
        held_out: photos to score on.
        steps: number of steps of the whole training.
    """

    def __init__(self, photos: Sequence[np.ndarray], held_out: Sequence[np.ndarray], steps: int) -> None:
        self.network = ColorizerNet().to(memory_format=torch.channels_last)  # a third faster on CPU
        self._photos = photos
        self._held_out = held_out
        self._steps = steps
        self._weights = color_weights(photos)

    def loss(self, rng: random.Random, step: int) -> Tensor:
        """Return the loss of a batch of crops, see `loss_on`; features are shifted by up to half a cell."""
        set_training(self.network, step, self._steps)
        light, ab = make_batch(self._photos, rng)
        half = STRIDE // 2
        is_moved = rng.random() < _MOVED_SHARE
        shift_px = (rng.randint(-half, half), rng.randint(-half, half)) if is_moved else (0, 0)
        return loss_on(self.network, light, ab, shift_px, self._weights)

    def scores(self) -> dict[str, float]:
        """Return the scores on the held-out photos."""
        return held_out_scores(self.network, self._held_out)


def train(folder: Path, config: TrainConfig, dataset: str) -> None:
    """Train, and publish the weights if they beat the existing ones; print progress as JSON lines."""
    photos = PhotoSet.read(folder, dataset)
    torch.manual_seed(config.seed)
    task = ColorizerTask(photos.learned, photos.held_out[::10], config.steps)
    learn(config, task)
    publish_if_better(
        task.network,
        config,
        lambda file: held_out_scores(TinyColorizer(str(file)).net, photos.held_out),
        lambda new, there: new["ab_error"] < there.get("ab_error", math.inf),
        command=command_of(config),
        data=photos.about,
    )


def main() -> None:
    """Parse the command line and train."""
    defaults = {"steps": 5500, "learning_rate": 1e-3, "evaluate_every": 500}
    config, data = parse("colorizer", __doc__, {"output": Path("weights/tiny-colorizer.safetensors"), **defaults})
    train(data["photos"], config, data["dataset"])


if __name__ == "__main__":
    main()
