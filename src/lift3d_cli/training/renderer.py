"""Training of the renderer (photo pyramid, Stage I, Stage II) by the colour of left-out photos and by true depth."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.config import TrainConfig
from lift3d_cli.errors import SceneError
from lift3d_cli.geometry.grids import pixel_centers, sample_map
from lift3d_cli.lifting.blending.learned import LearnedBlending
from lift3d_cli.lifting.network import Lift3DNetwork
from lift3d_cli.lifting.proposal.learned import LearnedProposal, Sweep
from lift3d_cli.lifting.proposal.network import NUM_LATENTS
from lift3d_cli.lifting.proposal.sampling import sample_depths
from lift3d_cli.lifting.proposal.training_free import UniformProposal, uniform_distribution
from lift3d_cli.lifting.renderer import Renderer
from lift3d_cli.lifting.sources import SourceViews
from lift3d_cli.machine.device import resolve_precision
from lift3d_cli.pipeline.held_out import HeldOutPhotos
from lift3d_cli.pipeline.renderers import SINGLE_STAGE_SAMPLES
from lift3d_cli.scene.load import load_scene
from lift3d_cli.scene.scene import Scene
from lift3d_cli.training.loop import Task
from lift3d_cli.training.photos import read_photo
from lift3d_cli.training.renderer_data import (
    CPU_CROP,
    GPU_CROP,
    Batches,
    Draw,
    Example,
    assemble,
    true_positions,
)
from lift3d_cli.training.renderer_scenes import ProceduralScenes, ProceduralWorkers, RealScenes

# Photos kept in memory as textures.
_MAX_TEXTURES = 150
# Left-out photos per held-out scene that are rendered for the scores.
_MAX_HELD_OUT = 3
# Weights of the sweep's own colour and of its depth.
_SWEEP_COLOR, _SWEEP_DEPTH = 0.4, 0.05
# An error that is as good as none; and a usual one, where the loss is to be about as steep as the error itself.
_ERROR_FLOOR, _USUAL_ERROR = 0.01, 0.1
# Procedural scenes that the workers are to have made before they have their full share.
_ENOUGH_SCENES = 64


class RendererTask(Task):
    """See `Task`.

    Args:
        config: its scenes and textures are trained on; of scenes in `held_out`, nothing is.
        network: where to begin; its corrector stays as it is.
        single_stage: train Stage II alone, for an ablation: without a proposal, from samples all along the ray.
        device: where to train.
        is_batched: a loss is of many crops side by side, as a GPU wants; None for where it pays, and with workers.
        scenes: to learn from instead of those of `config`, by examples as photos are rendered, see `RealScenes`.
    """

    def __init__(
        self,
        config: TrainConfig,
        network: Lift3DNetwork,
        device: torch.device,
        single_stage: bool = False,
        is_batched: bool | None = None,
        scenes: Sequence[Scene] = (),
    ) -> None:
        self._single_stage, self._device = single_stage, device
        self.num_crops = 0  # of the last step
        pays = device.type != "cpu" or config.workers > 0
        self.is_batched = pays if is_batched is None else is_batched
        self.network = network.to(device).train()
        trained = (network.blending,) if single_stage else (network.pyramid, network.regularizer, network.blending)
        network.requires_grad_(False)
        for part in trained:
            part.requires_grad_(True)
            part.precision = resolve_precision("auto", device)
        if config.compile:
            torch._dynamo.config.suppress_errors = True  # what cannot be compiled runs as it is
            network.blending.compile()
        self._seed, self._held_out, self._batch = config.seed, config.held_out, config.batch
        learned = scenes or config.scenes
        self._share_procedural = config.procedural if learned else 1.0
        self._size = CPU_CROP if device.type == "cpu" else GPU_CROP
        textures = _textures(config)
        self._real = RealScenes(learned, config.height, self._size, device, bool(scenes)) if learned else None
        self._procedural = ProceduralScenes(config.seed, textures, self._size, device)
        self._workers: ProceduralWorkers | None = None
        self._batches: Batches | None = None
        if self.is_batched and config.workers and self._share_procedural:
            self._workers = ProceduralWorkers(config.seed, textures, self._size, device, config.workers)
        if self._real is not None and device.type != "cpu":
            self._real.preload(max(4, config.workers))

    def loss(self, rng: random.Random, step: int) -> Tensor:
        """See `Task`."""
        if not self.is_batched:
            draw = self._draw(rng, round(step * self._batch * self._share_procedural))
            example = assemble([draw], self._size, len(draw.sources), rng, self._device)
        else:
            if self._batches is None:  # a resumed training goes on with other examples
                self._batches = Batches(self._numbered, self._batch, self._size, self._device, step * 1000)
            example = self._batches.next()
        self.num_crops = len(example.image) if self.is_batched else self._batch
        # Of many crops, those without a known pixel weigh nothing; to ask would make a GPU wait.
        if not self.is_batched and example.counts.float().mean() < 0.01:
            return torch.tensor(math.nan)
        return loss_of(*render_crops(self.network, example, self._single_stage), example)

    def _numbered(self, number: int) -> Draw:
        return self._draw(random.Random(f"{self._seed}/{number}"), round(number * self._share_procedural))

    def _draw(self, rng: random.Random, drawn: int) -> Draw:
        is_procedural = rng.random() < self._share_procedural
        if not is_procedural:
            return self._real.draw(rng)
        if self._workers is None:
            return self._procedural.draw(rng, drawn)
        # Until there are enough scenes not to learn them by heart, the real ones take their place, if there are any.
        num_made = len(self._workers)
        if self._real is not None and rng.random() >= num_made / _ENOUGH_SCENES:
            return self._real.draw(rng)
        return self._workers.draw(rng) if num_made else self._procedural.draw(rng, drawn)

    def scores(self) -> Mapping[str, float]:
        """See `Task`."""
        return {f"psnr_{f.name}": held_out_psnr(self.renderer(), f, self._device) for f in self._held_out}

    def renderer(self) -> Renderer:
        """What renders with the network as it is now."""
        proposal = LearnedProposal(self.network.regularizer, "training")
        samples = Renderer.num_samples
        if self._single_stage:
            proposal, samples = UniformProposal(NUM_LATENTS), SINGLE_STAGE_SAMPLES
        blending = LearnedBlending(self.network.pyramid, self.network.blending, "training")
        return Renderer(proposal, blending, samples)

    def close(self) -> None:
        """See `Task`."""
        for helper in (self._workers, self._batches):
            if helper is not None:
                helper.close()


def _textures(config: TrainConfig) -> list[Tensor]:
    if config.textures is None:
        return []
    paths = sorted(config.textures.rglob("*.jpg"))[:_MAX_TEXTURES]
    if not paths:
        raise SceneError(f"{config.textures}: has no .jpg photos to cut textures from")
    return [torch.from_numpy(read_photo(path)).permute(2, 0, 1).float() / 255 for path in paths]


def render_crops(network: Lift3DNetwork, example: Example, single_stage: bool = False) -> tuple[Tensor, Sweep | None]:
    """Render an example's window with gradients.

    Returns:
        image [B, 3, h, w], and what Stage I found, or None in a single stage.
    """
    views, frustum = example.sources, example.frustum
    pyramid = network.pyramid(views.images.flatten(0, 1)).unflatten(0, views.images.shape[:2])
    sources = SourceViews(views.cameras, views.images, views.valid, pyramid)
    if single_stage:
        swept, num_samples = None, SINGLE_STAGE_SAMPLES // 2
        distribution = uniform_distribution(NUM_LATENTS, frustum, sources.images.device)
    else:
        swept = LearnedProposal(network.regularizer, "training").sweep(sources, example.lines, frustum, 2**32)
        distribution, num_samples = swept.distribution, Renderer.num_samples
    left, top, width, height = example.window
    rays = pixel_centers(width, height, views.images.device) + torch.tensor([left, top], device=views.images.device)
    rays = rays.expand(len(views.images), -1, -1)
    # Where the samples lie follows from the distribution, but it learns from depth and colour of its own and through
    # the latents only: the gradient of a colour along a ray is noise.
    t = sample_depths(distribution, rays, num_samples).detach()
    blending = LearnedBlending(network.pyramid, network.blending, "training")
    sources = blending.with_surface(sources, example.lines, distribution)
    weights = blending(sources, example.lines, rays, t, distribution)
    colors = sample_map(sources.sharpened, weights.uv)
    image = torch.einsum("bvcrs,bvrs->bcr", colors, weights.omega)
    return image.unflatten(-1, (height, width)), swept


def loss_of(image: Tensor, swept: Sweep | None, example: Example) -> Tensor:
    """How far a rendered window is from the photo, in the mean of the examples.

    Of each example, the colour's root mean square error, half of the gradients' mean absolute error and of Stage I, if
    there is one, the sweep's own colour's; of their sum the logarithm, as PSNR is one: an example counts by how much
    better it gets, and not the more the harder it is. To that, the cross-entropy of the depth where it is known.
    """
    left, top, width, height = example.window
    part = (..., slice(top, top + height), slice(left, left + width))
    truth, counts = example.image[part], example.counts[part]
    error = _rms(image, truth, counts)
    for axis in (-2, -1):
        edge = (image.diff(dim=axis) - truth.diff(dim=axis)).abs().mean(1)
        size = counts.shape[axis] - 1
        error = error + 0.5 * _mean(edge, counts.narrow(axis, 1, size) & counts.narrow(axis, 0, size))
    if swept is not None:
        error = error + _SWEEP_COLOR * _error_of_sweep(swept, example)
    loss = _USUAL_ERROR * (torch.log(error / _ERROR_FLOOR + 1) * counts.any(-1).any(-1)).mean()
    return loss if swept is None or example.depth is None else loss + _SWEEP_DEPTH * _loss_of_depth(swept, example)


def _error_of_sweep(swept: Sweep, example: Example) -> Tensor:  # [B]
    """The root mean square error of the colour that the planes have by their probability.

    No gradient of the picture tells Stage I where the surface is, as none runs through the samples' depths: without
    its own colour, real photos would teach it through the latents only.
    """
    color = (torch.softmax(swept.logits, 1)[:, None] * swept.colors).sum(2)  # [B, 3, h, w]
    truth = F.avg_pool2d(example.image, swept.frustum.step)
    counts = F.avg_pool2d(example.counts[:, None].float(), swept.frustum.step)[:, 0] > 0.999
    return _rms(color, truth, counts)


def _loss_of_depth(swept: Sweep, example: Example) -> Tensor:
    """Cross-entropy of the depth, between the two planes that it lies between."""
    position = true_positions(example.depth, swept.frustum)
    num_planes = swept.frustum.num_planes
    known = (position > 0) & (position < num_planes - 1)
    position = position.clamp(0, num_planes - 1.001)
    plane, part = position.floor().long()[:, None], position % 1
    log_probability = torch.log_softmax(swept.logits, 1)
    below, above = (log_probability.gather(1, plane + i)[:, 0] for i in (0, 1))
    return -_mean((1 - part) * below + part * above, known).mean()


def _rms(image: Tensor, truth: Tensor, counts: Tensor) -> Tensor:  # [B, 3, h, w] twice and [B, h, w] to [B]
    """Root mean square error where it counts."""
    return (_mean(((image - truth) ** 2).mean(1), counts) + 1e-5).sqrt()  # finite slope at 0


def _mean(values: Tensor, counts: Tensor) -> Tensor:  # [B, h, w] each, to [B]
    """Each example's mean where it counts; where nothing does, 0."""
    return (values * counts).sum((1, 2)) / counts.sum((1, 2)).clamp(min=1)


def held_out_psnr(renderer: Renderer, folder: Path, device: torch.device) -> float:
    """Mean PSNR in dB over the last few left-out photos of a scene, as `lift3d eval` leaves them out by default."""
    photos = _held_out_photos(folder)
    return photos.mean_psnr(renderer, device, photos.held_out[-_MAX_HELD_OUT:])


@functools.lru_cache
def _held_out_photos(folder: Path) -> HeldOutPhotos:
    return HeldOutPhotos(load_scene(folder))
