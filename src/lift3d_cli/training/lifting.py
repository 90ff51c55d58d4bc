"""Train the rendering network: `python -m lift3d_cli.training.lifting --scenes DIR [DIR ...] --textures PHOTOS`.

Scenes in `--held-out` are never trained on; they are rendered every `--evaluate-every` steps. Checkpoints go to
`--run`, from where `--resume` goes on. At the end, or with `--publish` alone, the last weights go to `--output`.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import io
import json
import math
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lift3d_cli.cache.atomic import write_atomic
from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.geometry.epipolar import EpipolarLines
from lift3d_cli.geometry.grids import pixel_centers
from lift3d_cli.lifting.learned import LearnedBlending, LearnedProposal
from lift3d_cli.lifting.network import Lift3DNetwork
from lift3d_cli.lifting.proposal import DepthDistribution
from lift3d_cli.lifting.renderer import Renderer
from lift3d_cli.lifting.sampling import sample_depths
from lift3d_cli.ops.weighted_gather import weighted_gather_ref
from lift3d_cli.scene.load import load_scene
from lift3d_cli.stages.encode import to_image
from lift3d_cli.stages.lift import SceneLifter
from lift3d_cli.stages.photos import ResizedPhotos
from lift3d_cli.training.lifting_data import Example, ProceduralScenes, RealScenes, true_positions
from lift3d_cli.training.photos import read_photo
from lift3d_cli.training.publish import publish_weights

# Photos kept in memory as textures.
_MAX_TEXTURES = 150


@dataclass(frozen=True)
class TrainConfig:
    """Settings, and the home of their defaults; each is an option of the command."""

    scenes: tuple[Path, ...] = ()
    textures: Path | None = None
    held_out: tuple[Path, ...] = ()
    run: Path = Path("runs/lifting")
    output: Path = Path("weights/lift3d.safetensors")
    steps: int = 1600
    learning_rate: float = 1e-3
    height: int = 240
    procedural: float = 0.4
    evaluate_every: int = 250
    seed: int = 0
    threads: int = 1
    resume: bool = False
    publish: bool = False


def render_crop(network: Lift3DNetwork, example: Example, num_planes: int) -> tuple[Tensor, Tensor, int]:
    """Render an example with gradients: image [3, h, w], depth logits [D, h', w'], and pixels per voxel."""
    proposal = LearnedProposal(network, "training", num_planes)
    target, sources = example.target, example.sources
    logits, latent, step = proposal.logits(target, sources, example.depth_range, 2**30)
    distribution = DepthDistribution(torch.softmax(logits, 0), *example.depth_range, (1 / step, 1 / step), latent)
    lines = EpipolarLines.between(target, sources.cameras)
    rays = pixel_centers(target.width, target.height)
    # Where the samples lie follows from the distribution, but it learns from depth and through the latents only: the
    # gradient of a colour along a ray is noise.
    t = sample_depths(distribution, rays, Renderer.num_samples).detach()
    weights = LearnedBlending(network, "training")(sources, lines, rays, t, distribution)
    image = weighted_gather_ref(sources.images, weights.uv, weights.omega)
    return image.T.reshape(3, target.height, target.width), logits, step


def loss_of(image: Tensor, logits: Tensor, step: int, example: Example) -> Tensor:
    """Charbonnier of the colour, half of the gradients' error, and cross-entropy of the depth where it is known."""
    counts, truth = example.counts, example.image
    loss = ((image - truth) ** 2 + 1e-4).sqrt().mean(0)[counts].mean()
    for axis in (1, 2):
        edge = (image.diff(dim=axis) - truth.diff(dim=axis)).abs().mean(0)
        loss = loss + 0.5 * edge[counts.narrow(axis - 1, 1, counts.shape[axis - 1] - 1)].mean()
    if example.depth is None:
        return loss
    position = true_positions(example.depth, step, example.depth_range, len(logits))
    known = (position > 0) & (position < len(logits) - 1)
    if not known.any():
        return loss
    position = position.clamp(0, len(logits) - 1.001)
    plane, part = position.floor().long()[None], position % 1
    log_probability = torch.log_softmax(logits, 0)
    below, above = log_probability.gather(0, plane)[0], log_probability.gather(0, plane + 1)[0]
    return loss - 0.05 * ((1 - part) * below + part * above)[known].mean()


def held_out_psnr(network: Lift3DNetwork, folder: Path, every: int = 8, most: int = 3) -> float:
    """Mean PSNR in dB over up to `most` left-out photos of a scene, at height 320 from 8 views."""
    photos, candidates, points = _held_out_scene(folder, every)
    views = range(len(photos.scene.views))
    renderer = Renderer(LearnedProposal(network, "training"), LearnedBlending(network, "training"))
    lifter = SceneLifter(photos, points, renderer, 8, torch.device("cpu"), candidates)
    left_out = views[::every][-most:]
    values = []
    for i in left_out:
        camera: Camera = photos.scene.views[i].camera
        photo = photos.resized(i, camera.width, camera.height)
        image = lifter.lift(camera, lifter.choose(camera)).frame.image
        counts = torch.from_numpy(photo.valid & photo.opaque)
        values.append(-10 * math.log10(((image - to_image(photo)) ** 2)[:, counts].mean()))
    return sum(values) / len(values)


@functools.lru_cache
def _held_out_scene(folder: Path, every: int) -> tuple[ResizedPhotos, list[int], np.ndarray]:
    """Photos at height 320, the indices that stay as sources, and surface points from those."""
    photos = ResizedPhotos(load_scene(folder), 320, keep=64)
    candidates = [i for i in range(len(photos.scene.views)) if i % every]
    return photos, candidates, photos.points(candidates)


class Run:
    """The state of a training, with all that a checkpoint keeps."""

    def __init__(self, config: TrainConfig) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.network = Lift3DNetwork()
        self.optimizer = torch.optim.AdamW(self.network.parameters(), config.learning_rate, weight_decay=1e-4)
        self.step = 0
        if config.resume and (config.run / "last.pt").exists():
            state = torch.load(config.run / "last.pt", weights_only=True)
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]

    def advance(self, example: Example, rng: random.Random) -> float:
        """One step; returns the loss."""
        progress = self.step / self.config.steps
        rate = min(1.0, (self.step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * rate
        loss = loss_of(*render_crop(self.network, example, rng.choice([32, 48])), example)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        return float(loss.detach())

    def save(self) -> None:
        """Write `last.pt`, whole or not at all."""
        buffer = io.BytesIO()
        modules = {name: getattr(self, name).state_dict() for name in ("network", "optimizer")}
        torch.save(modules | {"step": self.step}, buffer)
        write_atomic(self.config.run / "last.pt", buffer.getvalue())


def train(config: TrainConfig) -> Lift3DNetwork:
    """Train to the last step; returns the network."""
    run = Run(config)
    paths = sorted(config.textures.rglob("*.jpg"))[:_MAX_TEXTURES] if config.textures else []
    textures = [torch.from_numpy(read_photo(path)).permute(2, 0, 1).float() / 255 for path in paths]
    procedural = ProceduralScenes(config.seed + run.step, textures)
    real = RealScenes(config.scenes, config.height) if config.scenes else None
    rng = random.Random(config.seed + run.step)
    started, losses = time.monotonic(), []
    while run.step < config.steps:
        use_real = real is not None and rng.random() >= config.procedural
        example = (real if use_real else procedural).draw(rng)
        if example.counts.float().mean() < 0.01:
            continue
        losses.append(run.advance(example, rng))
        if run.step % config.evaluate_every and run.step < config.steps:
            continue
        run.save()
        facts = {"step": run.step, "minutes": round((time.monotonic() - started) / 60, 1)}
        scores = {folder.name: round(held_out_psnr(run.network, folder), 2) for folder in config.held_out}
        sys.stdout.write(json.dumps({**facts, "loss": round(sum(losses) / len(losses), 4), "psnr": scores}) + "\n")
        sys.stdout.flush()
        losses = []
    return run.network


def publish(config: TrainConfig) -> None:
    """Put the run's last weights, in half precision, into `output` and its manifest."""
    run = Run(dataclasses.replace(config, resume=True))
    network = run.network
    tensors = {name: t.half().contiguous() for name, t in network.state_dict().items()}
    network.load_state_dict({name: t.float() for name, t in tensors.items()})
    scenes = " ".join(sorted(folder.name for folder in config.scenes))
    publish_weights(
        tensors,
        config.output,
        license="Apache-2.0",
        command="python -m lift3d_cli.training.lifting --scenes SCENES --textures PHOTOS "
        f"--held-out HELD_OUT --steps {config.steps} --seed {config.seed}  # step {run.step}",
        data=f"procedural scenes with textures from photos; photos of {scenes}",
        scores={f"psnr_{folder.name}": round(held_out_psnr(network, folder), 2) for folder in config.held_out},
    )


def main() -> None:
    """Parse the command line, train unless only publishing is asked for, publish."""
    parser = argparse.ArgumentParser(prog="python -m lift3d_cli.training.lifting", description=__doc__)
    for field in dataclasses.fields(TrainConfig):
        flag = "--" + field.name.replace("_", "-")
        if isinstance(field.default, bool):
            kind = {"action": "store_true"}
        elif isinstance(field.default, tuple):
            kind = {"type": Path, "nargs": "*"}
        else:
            kind = {"type": Path if field.default is None else type(field.default)}
        if isinstance(field.default, Path):
            kind = {"type": Path}
        parser.add_argument(flag, default=field.default, help=f"default: {field.default}", **kind)
    config = TrainConfig(**vars(parser.parse_args()))
    torch.set_num_threads(config.threads)
    if not config.publish:
        train(config)
    publish(config)


if __name__ == "__main__":
    main()
