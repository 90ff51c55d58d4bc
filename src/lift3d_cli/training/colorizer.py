"""Train `tiny-colorizer` on a folder of photos: `python -m lift3d_cli.training.colorizer --photos PHOTOS --hours 1`.

Checkpoints go to `--run`, from where `--resume` goes on. At the end, or with `--publish` alone, the best checkpoint
replaces the weights in `--output` if it is better than they are on the held-out photos.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import io
import math
import time
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.errors import SceneError
from lift3d_cli.geometry.grids import sample_map
from lift3d_cli.machine.atomic import write_atomic
from lift3d_cli.models.builtin.color_space import lab_from_rgb
from lift3d_cli.models.builtin.tiny_colorizer import CHROMA_STRIDE, STRIDE, ColorizerNet, TinyColorizer, color_shares
from lift3d_cli.training.command import say
from lift3d_cli.training.photos import random_crop, read_photo, split_photos
from lift3d_cli.training.publish import publish_weights
from lift3d_cli.weights import load_weights


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run; each is an option of the command."""

    photos: Path
    dataset: str = "BSDS500, train and test; held out: val"  # what `photos` are, for the manifest
    output: Path = Path("weights/tiny-colorizer.safetensors")
    run: Path = Path("runs/tiny-colorizer")
    hours: float = 1.0
    steps: int = 0  # 0: as many as the hours allow
    seed: int = 0
    threads: int = 1
    resume: bool = False
    publish: bool = False
    batch: int = 8
    crop_px: int = 192
    learning_rate: float = 1e-3
    evaluate_every: int = 500


def to_lab(photo: np.ndarray) -> Tensor:
    """Lab [3, H, W] of an sRGB uint8 image [H, W, 3]."""
    return lab_from_rgb(torch.from_numpy(np.ascontiguousarray(photo.transpose(2, 0, 1))).float() / 255)


def make_batch(photos: list[np.ndarray], config: TrainConfig, step: int) -> tuple[Tensor, Tensor]:
    """Lightness [B, 1, S, S] and ab [B, 2, S, S] of step `step`; the same step always gives the same batch."""
    rng = np.random.default_rng([config.seed, step])
    per_epoch = len(photos) // config.batch  # every photo once before any photo twice
    order = np.random.default_rng([config.seed, step // per_epoch, 1]).permutation(len(photos))
    chosen = order[(step % per_epoch) * config.batch :][: config.batch]
    lab = torch.stack([to_lab(random_crop(photos[i], config.crop_px, rng)) for i in chosen])

    def factors(spread: float) -> Tensor:
        return torch.tensor(np.exp(rng.uniform(-spread, spread, len(chosen))), dtype=torch.float32)[:, None, None, None]

    # Another exposure and contrast of the same things keep their colours, a little stronger or weaker.
    light = (lab[:, :1] / 100).clamp(0, 1) ** factors(0.4) * 100
    light = ((light - 50) * factors(0.15) + 50).clamp(0, 100)
    return light.contiguous(memory_format=torch.channels_last), lab[:, 1:] * factors(0.15)


def random_shift(config: TrainConfig, step: int) -> tuple[int, int]:
    """How far, in pixels (x, y), the features of step `step` are moved: not at all, or up to half a cell."""
    rng = np.random.default_rng([config.seed, step, 2])
    half = STRIDE // 2
    return (0, 0) if rng.random() < 0.5 else tuple(int(s) for s in rng.integers(-half, half + 1, 2))


def shifted(features: Tensor, shift_px: tuple[int, int]) -> Tensor:
    """Features [B, C, h, w] resampled as if the photo were cut `shift_px` (x, y) further right and down."""
    _, _, height, width = features.shape
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    uv = torch.stack([u + shift_px[0] / STRIDE, v + shift_px[1] / STRIDE], -1)
    return sample_map(features, uv.expand(len(features), height, width, 2))


def color_weights(photos: list[np.ndarray]) -> Tensor:
    """How much each of the grid's colours counts in the loss, [81]: more, the rarer it is in the photos; 1 on average.

    Without it, everything that is not surely green or blue becomes brown. The form is that of Zhang et al. 2016,
    "Colorful Image Colorization", section 2.2, with a square root: few photos make a poor estimate of what is rare.
    """
    shares = [color_shares(F.avg_pool2d(to_lab(photo)[None, 1:], CHROMA_STRIDE)).mean((0, 2, 3)) for photo in photos]
    frequency = torch.stack(shares).mean(0)
    weights = (0.5 * frequency + 0.5 / len(frequency)) ** -0.5
    return weights / (frequency * weights).sum()


def loss_on(net: ColorizerNet, light: Tensor, ab: Tensor, shift_px: tuple[int, int], weights: Tensor) -> Tensor:
    """Cross-entropy over colours weighted by `weights` [81], features being moved by `shift_px` before the decoder.

    The move is what lifting does to features: it reads them between the cells.
    """
    features = net.encode(light)
    if shift_px != (0, 0):
        features = shifted(features, shift_px)
    margin = STRIDE  # what the move brings in from outside of the crop is not judged
    height, width = ab.shape[2] - 2 * margin, ab.shape[3] - 2 * margin
    x, y = margin + shift_px[0], margin + shift_px[1]
    truth = color_shares(F.avg_pool2d(ab[:, :, y : y + height, x : x + width], CHROMA_STRIDE))
    inner = slice(margin // CHROMA_STRIDE, -margin // CHROMA_STRIDE)
    guess = torch.log_softmax(net.decoder(features)[:, :, inner, inner], 1)
    cross_entropy = -(truth * guess).sum(1)
    return (cross_entropy * torch.einsum("bkhw,k->bhw", truth, weights)).mean()


@torch.inference_mode()
def held_out_scores(net: ColorizerNet, photos: list[np.ndarray]) -> dict[str, float]:
    """Means over pixels and photos, in Lab units: |ab - true ab| of the network and of "no colour", and chroma."""
    net.eval()
    rows = []
    for photo in photos:
        lab = to_lab(photo)
        ab, true_ab = net(lab[None, :1])[0], lab[1:]
        errors = (ab - true_ab).abs().mean(), true_ab.abs().mean()
        rows.append([t.item() for t in (*errors, ab.norm(dim=0).mean(), true_ab.norm(dim=0).mean())])
    names = ("ab_error", "ab_error_of_no_colour", "chroma", "true_chroma")
    return {name: round(float(mean), 4) for name, mean in zip(names, np.mean(rows, 0), strict=True)}


class Run:
    """All state of a training run: what a checkpoint holds."""

    def __init__(self, config: TrainConfig, photos: list[np.ndarray]) -> None:
        torch.manual_seed(config.seed)
        self.config, self.photos = config, photos
        self.color_weights = color_weights(photos)
        self.net = ColorizerNet().to(memory_format=torch.channels_last)  # a third faster on CPU
        # A running average of the weights: the noise of the last steps cancels in it. It is what is shipped.
        self.average = copy.deepcopy(self.net).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=config.learning_rate, weight_decay=0.05)
        self.step, self.elapsed_s, self.best = 0, 0.0, math.inf

    @property
    def progress(self) -> float:
        """From 0 at the start to 1 at the end."""
        return self.step / self.config.steps if self.config.steps else self.elapsed_s / (self.config.hours * 3600)

    def advance(self) -> float:
        """One optimiser step; returns the loss."""
        started_s = time.monotonic()
        warm_up = min(1.0, (self.step + 1) / 200)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * warm_up * (0.5 + 0.5 * math.cos(math.pi * self.progress))
        self.net.train()
        light, ab = make_batch(self.photos, self.config, self.step)
        loss = loss_on(self.net, light, ab, random_shift(self.config, self.step), self.color_weights)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
        self.optimizer.step()
        self._update_average()
        self.step += 1
        self.elapsed_s += time.monotonic() - started_s
        return loss.item()

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(0.999, (1 + self.step) / (10 + self.step))  # faster early on, or the random start would stay in it
        for mine, other in zip(self.average.state_dict().values(), self.net.state_dict().values(), strict=True):
            mine.lerp_(other, 1 - decay) if mine.is_floating_point() else mine.copy_(other)

    def save(self) -> None:
        """Write `last.pt`, atomically."""
        modules = {name: getattr(self, name).state_dict() for name in ("net", "average", "optimizer")}
        buffer = io.BytesIO()
        torch.save(modules | {"step": self.step, "elapsed_s": self.elapsed_s, "best": self.best}, buffer)
        write_atomic(self.config.run / "last.pt", buffer.getvalue())

    def restore(self) -> None:
        """Go on from `last.pt`."""
        state = torch.load(self.config.run / "last.pt", weights_only=True)
        for name in ("net", "average", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.step, self.elapsed_s, self.best = state["step"], state["elapsed_s"], state["best"]


def train(config: TrainConfig) -> None:
    """Train; the average that was best on the held-out photos so far is `best.safetensors` in the run folder."""
    train_paths, held_out_paths = split_photos(config.photos)
    if len(train_paths) < config.batch:
        raise SceneError(f"{config.photos} has {len(train_paths)} photos to train on, needs {config.batch}")
    photos, held_out = [read_photo(p) for p in train_paths], [read_photo(p) for p in held_out_paths]
    run = Run(config, photos)
    if config.resume and (config.run / "last.pt").exists():
        run.restore()
    losses = []
    while run.progress < 1:
        losses.append(run.advance())
        if run.step % config.evaluate_every and run.progress < 1:
            continue
        scores = held_out_scores(run.average, held_out)
        if scores["ab_error"] < run.best:
            run.best = scores["ab_error"]
            # Half precision, and without BatchNorm's step counters, which only training reads.
            tensors = {k: t.half().contiguous() for k, t in run.average.state_dict().items() if t.is_floating_point()}
            write_atomic(config.run / "best.safetensors", safetensors.torch.save(tensors))
        run.save()
        say({"step": run.step, "minutes": round(run.elapsed_s / 60, 1), "loss": round(np.mean(losses), 4), **scores})
        losses = []


def publish(config: TrainConfig) -> None:
    """Put the run's best weights into `output` and its manifest, if they beat what is there on the held-out photos."""
    train_paths, held_out_paths = split_photos(config.photos)
    held_out = [read_photo(p) for p in held_out_paths]
    best = config.run / "best.safetensors"
    new = held_out_scores(TinyColorizer(str(best)).net, held_out)
    old = held_out_scores(TinyColorizer(str(config.output)).net, held_out) if config.output.exists() else None
    is_better = old is None or new["ab_error"] < old["ab_error"]
    say({"new": new, "old": old, "published": is_better})
    if is_better:
        length = f"--steps {config.steps}" if config.steps else f"--hours {config.hours:g}"
        publish_weights(
            load_weights(best.name, best),
            config.output,
            license="Apache-2.0",
            command=f"python -m lift3d_cli.training.colorizer --photos PHOTOS {length} --seed {config.seed}",
            data=f"{config.dataset} ({len(train_paths)} photos; {len(held_out)})",
            scores=new,
        )


def main() -> None:
    """Parse the command line, train unless only publishing is asked for, publish."""
    parser = argparse.ArgumentParser(prog="python -m lift3d_cli.training.colorizer", description=__doc__)
    parser.add_argument("--photos", type=Path, required=True)
    for field in dataclasses.fields(TrainConfig)[1:]:
        flag = "--" + field.name.replace("_", "-")
        kind = {"action": "store_true"} if isinstance(field.default, bool) else {"type": type(field.default)}
        parser.add_argument(flag, default=field.default, help=f"default: {field.default}", **kind)
    config = TrainConfig(**vars(parser.parse_args()))
    torch.set_num_threads(config.threads)
    if not config.publish:
        train(config)
    publish(config)


if __name__ == "__main__":
    main()
