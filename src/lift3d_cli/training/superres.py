"""Train `tiny-superres` on a folder of photos: `python -m lift3d_cli.training.superres --photos PHOTOS`.

A run is a folder with checkpoint and learning curves, see `loop`. The weights are written to `--output` if they beat
bicubic interpolation and the existing weights on the held-out photos.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.config import TrainConfig
from lift3d_cli.models.builtin.tiny_superres import SCALE, SuperresNet, TinySuperres, enlarged
from lift3d_cli.pipeline.held_out import psnr
from lift3d_cli.training.command import command_of, learn, parse
from lift3d_cli.training.loop import TrainingTask
from lift3d_cli.training.photo_set import PhotoSet, crops, moved, to_tensor
from lift3d_cli.training.publish import publish_if_better

_BATCH = 8
_CROP_PX = 48  # in the small picture
# Share of the steps with a blurred or noisy small picture, like rendered ones; and with features sampled between cells.
_WORN_SHARE, _MOVED_SHARE = 0.4, 0.3


def smaller(photos: Tensor) -> Tensor:
    """Halve photos [B, 3, H, W], bicubic with antialiasing, and round to 8 bits as in a file."""
    size = (photos.shape[2] // SCALE, photos.shape[3] // SCALE)
    small = F.interpolate(photos, size, mode="bicubic", antialias=True, align_corners=False)
    return (small.clamp(0, 1) * 255).round() / 255


def worn(small: Tensor, rng: random.Random) -> Tensor:
    """Blur small pictures [B, 3, h, w] slightly, and add slight noise."""
    offsets = torch.arange(-3, 4)
    kernel = torch.exp(-offsets.square() / (2 * rng.uniform(0.2, 0.8) ** 2))
    kernel = (kernel[:, None] * kernel / kernel.sum() ** 2).expand(3, 1, 7, 7)
    soft = F.conv2d(F.pad(small, (3, 3, 3, 3), mode="replicate"), kernel, groups=3)
    return (soft + torch.randn_like(soft) * rng.uniform(0, 0.012)).clamp(0, 1)


@torch.inference_mode()
def held_out_scores(net: SuperresNet, photos: Sequence[np.ndarray]) -> dict[str, float]:
    """Return the mean PSNR in dB over photos that were halved, of bicubic interpolation and of the network.

    `psnr_moved` is with features of a view half a small pixel further left and up, sampled between cells.
    """
    net.eval()
    rows = []
    for photo in photos:
        height, width = (side // 2 * 2 - 2 for side in photo.shape[:2])
        whole = to_tensor(photo)[None]
        truth, beside = whole[..., 1 : height + 1, 1 : width + 1], whole[..., :height, :width]
        small = smaller(truth)
        bicubic = enlarged(small)
        detail = net.decode(moved(net.encode(smaller(beside)), (0.5, 0.5)))
        rows.append([psnr(x.clamp(0, 1), truth) for x in (bicubic, net(small), bicubic + detail)])
    return dict(zip(("psnr_bicubic", "psnr", "psnr_moved"), np.mean(rows, 0).tolist(), strict=True))


class SuperresTask(TrainingTask):
    """Training of `tiny-superres`; see `TrainingTask`.

    Args:
        photos: uint8 [H, W, 3] to train on.
        held_out: photos to score on.
    """

    def __init__(self, photos: Sequence[np.ndarray], held_out: Sequence[np.ndarray]) -> None:
        self.network = SuperresNet().to(memory_format=torch.channels_last)
        self._photos = [photo for photo in photos if min(photo.shape[:2]) > _CROP_PX * SCALE]
        self._held_out = held_out

    def loss(self, rng: random.Random, step: int) -> Tensor:
        """Return the mean absolute error of a batch of crops."""
        is_moved = rng.random() < _MOVED_SHARE
        # In pixels of the large picture: sampling between cells is worst at half a small pixel.
        shift = (rng.randrange(2), rng.randrange(2)) if is_moved else (0, 0)
        large = crops(self._photos, _BATCH, _CROP_PX * SCALE + 1, rng)
        truth = large[..., shift[1] :, shift[0] :][..., : _CROP_PX * SCALE, : _CROP_PX * SCALE]
        small, encoded = smaller(truth), smaller(large[..., :-1, :-1])
        if rng.random() < _WORN_SHARE:
            small = worn(small, rng)
            encoded = worn(encoded, rng) if is_moved else small
        features = self.network.encode(encoded)
        if is_moved:
            features = moved(features, (shift[0] / SCALE, shift[1] / SCALE))
        error = enlarged(small) + self.network.decode(features) - truth
        return error[..., SCALE:-SCALE, SCALE:-SCALE].abs().mean()  # the shift brings in what lies outside of the crop

    def scores(self) -> dict[str, float]:
        """Return the scores on the held-out photos."""
        return held_out_scores(self.network, self._held_out)


def train(folder: Path, config: TrainConfig, dataset: str) -> None:
    """Train, and publish the weights if they beat the existing ones; print progress as JSON lines."""
    photos = PhotoSet.read(folder, dataset)
    torch.manual_seed(config.seed)
    task = SuperresTask(photos.learned, photos.held_out[::10])
    learn(config, task)
    publish_if_better(
        task.network,
        config,
        lambda file: held_out_scores(TinySuperres(str(file)).net, photos.held_out),
        lambda new, there: new["psnr"] > max(there.get("psnr", 0), new["psnr_bicubic"]),
        command=command_of(config),
        data=photos.about,
    )


def main() -> None:
    """Parse the command line and train."""
    defaults = {"steps": 3000, "learning_rate": 1e-3, "evaluate_every": 250}
    config, data = parse("superres", __doc__, {"output": Path("weights/tiny-superres.safetensors"), **defaults})
    train(data["photos"], config, data["dataset"])


if __name__ == "__main__":
    main()
