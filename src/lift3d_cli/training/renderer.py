"""Training of the renderer (photo pyramid, Stage I, Stage II) by the colours of left-out photos and by true depth."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.config import TrainConfig
from lift3d_cli.errors import SceneError
from lift3d_cli.geometry.grids import pixel_centers, sample_map
from lift3d_cli.lifting.blending.learned import LearnedBlending
from lift3d_cli.lifting.exposure import shifted, tone_difference
from lift3d_cli.lifting.network import Lift3DNetwork
from lift3d_cli.lifting.proposal.learned import LearnedProposal, Sweep
from lift3d_cli.lifting.proposal.network import NUM_LATENTS
from lift3d_cli.lifting.proposal.sampling import sample_depths
from lift3d_cli.lifting.proposal.sweep import Frustum
from lift3d_cli.lifting.proposal.training_free import UniformProposal, uniform_distribution
from lift3d_cli.lifting.renderer import Renderer
from lift3d_cli.lifting.sources import SourceViews
from lift3d_cli.machine.device import resolve_precision
from lift3d_cli.pipeline.held_out import HeldOutPhotos
from lift3d_cli.pipeline.renderers import SINGLE_STAGE_SAMPLES
from lift3d_cli.scene.load import load_scene
from lift3d_cli.scene.scene import Scene
from lift3d_cli.training.batches import Batches
from lift3d_cli.training.loop import TrainingTask
from lift3d_cli.training.photo_set import read_image
from lift3d_cli.training.procedural_scenes import ProceduralScenes, ProceduralWorkers
from lift3d_cli.training.renderer_data import (
    CPU_CROP,
    GPU_CROP,
    CropSize,
    Draw,
    Example,
    assemble,
)
from lift3d_cli.training.renderer_scenes import RealScenes
from lift3d_cli.training.training_surfaces import surface_finder

# The most photos to keep in memory as textures.
_MAX_TEXTURES = 150
# The most left-out photos per held-out scene to render for the scores.
_MAX_HELD_OUT = 3
# Loss weights of the sweep's own colour and of its depth.
_SWEEP_COLOR, _SWEEP_DEPTH = 0.4, 0.05
# An error that counts as none; and a typical one, at which the loss is about as steep as the error itself.
_ERROR_FLOOR, _USUAL_ERROR = 0.01, 0.1
# Procedural scenes that the workers must have made before their full share of examples is drawn from them.
_ENOUGH_SCENES = 64


class RendererTask(TrainingTask):
    """Training of the renderer's networks; see `TrainingTask`.

    Args:
        config: settings; scenes in `held_out` are never trained on.
        network: the initial network; its corrector is not trained.
        single_stage: train Stage II alone, for an ablation: without Stage I, from samples all along the ray.
        device: where to train.
        is_batched: stack crops into batches, as suits a GPU; None where it is faster, and with workers.
        scenes: scenes to learn from instead of those of `config`, by examples as photos are rendered, see `RealScenes`.
        size: size of the crops, if not the usual one of the device.
    """

    def __init__(
        self,
        config: TrainConfig,
        network: Lift3DNetwork,
        device: torch.device,
        single_stage: bool = False,
        is_batched: bool | None = None,
        scenes: Sequence[Scene] = (),
        size: CropSize | None = None,
    ) -> None:
        self._single_stage = single_stage
        self._device = device
        self.num_crops = 0  # in the last step
        pays = device.type != "cpu" or config.workers > 0
        self.is_batched = pays if is_batched is None else is_batched
        self.network = network.to(device).train()
        trained = (network.blending,) if single_stage else (network.pyramid, network.regularizer, network.blending)
        network.requires_grad_(False)
        for part in trained:
            part.requires_grad_(True)
            part.precision = resolve_precision("auto", device)
        if config.compile:
            torch._dynamo.config.suppress_errors = True  # fall back to eager where it cannot be compiled
            network.blending.compile()
        self._seed = config.seed
        self._held_out = config.held_out
        self._batch = config.batch
        learned = scenes or config.scenes
        self._share_procedural = config.procedural if learned else 1.0
        self._size = size or (CPU_CROP if device.type == "cpu" else GPU_CROP)
        textures = texture_photos(config)
        finder = None if single_stage else surface_finder(config, device)
        self._surface_finder = finder
        self._real = RealScenes(learned, config.height, self._size, device, finder, bool(scenes)) if learned else None
        self._procedural = ProceduralScenes(config.seed, textures, self._size, device, finder=finder)
        self._workers: ProceduralWorkers | None = None
        self._batches: Batches | None = None
        if self.is_batched and config.workers and self._share_procedural:
            self._workers = ProceduralWorkers(config.seed, textures, self._size, device, config.workers, finder=finder)
        if self._real is not None and device.type != "cpu":
            self._real.preload(max(4, config.workers))

    def loss(self, rng: random.Random, step: int) -> Tensor:
        """See `TrainingTask`."""
        if not self.is_batched:
            example = self.example(rng, step)
        else:
            if self._batches is None:  # a resumed training continues with other examples
                self._batches = Batches(self._numbered, self._batch, self._size, self._device, step * 1000)
            example = self._batches.next()
        self.num_crops = len(example.image) if self.is_batched else self._batch
        # With many crops, those without a valid pixel have no weight; checking for them would make a GPU wait.
        if not self.is_batched and example.counts.float().mean() < 0.01:
            return torch.tensor(math.nan)
        return loss_of(*render_crops(self.network, example, self._single_stage), example)

    def example(self, rng: random.Random, step: int) -> Example:
        """Draw one example of a step, by itself."""
        draw = self._draw(rng, round(step * self._batch * self._share_procedural))
        return assemble([draw], self._size, len(draw.sources), rng, self._device)

    def _numbered(self, number: int) -> Draw:
        return self._draw(random.Random(f"{self._seed}/{number}"), round(number * self._share_procedural))

    def _draw(self, rng: random.Random, drawn: int) -> Draw:
        is_procedural = rng.random() < self._share_procedural
        if not is_procedural:
            return self._real.draw(rng)
        if self._workers is None:
            return self._procedural.draw(rng, drawn)
        # Until there are enough procedural scenes to prevent overfitting to them, real ones are used instead, if there
        # are any.
        num_made = len(self._workers)
        if self._real is not None and rng.random() >= num_made / _ENOUGH_SCENES:
            return self._real.draw(rng)
        return self._workers.draw(rng) if num_made else self._procedural.draw(rng, drawn)

    def scores(self) -> Mapping[str, float]:
        """See `TrainingTask`."""
        return {f"psnr_{f.name}": held_out_psnr(self.renderer(), f, self._device) for f in self._held_out}

    def renderer(self) -> Renderer:
        """Make the renderer with the network as it is now."""
        proposal = LearnedProposal(self.network.regularizer, "training")
        samples = Renderer.num_samples
        if self._single_stage:
            proposal, samples = UniformProposal(NUM_LATENTS), SINGLE_STAGE_SAMPLES
        blending = LearnedBlending(self.network.pyramid, self.network.blending, "training")
        return Renderer(proposal, blending, samples, surface_finder=self._surface_finder)

    def close(self) -> None:
        """See `TrainingTask`."""
        for helper in (self._workers, self._batches):
            if helper is not None:
                helper.close()


def texture_photos(config: TrainConfig) -> list[Tensor]:
    """Read the photos [3, h, w] in [0, 1] that procedural textures are cut from."""
    if config.textures is None:
        return []
    paths = sorted(config.textures.rglob("*.jpg"))[:_MAX_TEXTURES]
    if not paths:
        raise SceneError(f"{config.textures}: has no .jpg photos to cut textures from")
    return [torch.from_numpy(read_image(path)).permute(2, 0, 1).float() / 255 for path in paths]


def render_crops(network: Lift3DNetwork, example: Example, single_stage: bool = False) -> tuple[Tensor, Sweep | None]:
    """Render an example's window with gradients enabled.

    Returns:
        image [B, 3, h, w], and the result of Stage I, or None in a single stage.
    """
    views, frustum = example.sources, example.frustum
    pyramid = network.pyramid(views.images.flatten(0, 1)).unflatten(0, views.images.shape[:2])
    sources = SourceViews(views.cameras, views.images, views.valid, pyramid, surfaces=views.surfaces)
    if single_stage:
        swept, num_samples = None, SINGLE_STAGE_SAMPLES // 2
        distribution = uniform_distribution(NUM_LATENTS, frustum, sources.images.device)
    else:
        swept = LearnedProposal(network.regularizer, "training").sweep(sources, example.lines, frustum, 2**32)
        distribution, num_samples = swept.distribution, Renderer.num_samples
    left, top, width, height = example.window
    rays = pixel_centers(width, height, views.images.device) + torch.tensor([left, top], device=views.images.device)
    rays = rays.expand(len(views.images), -1, -1)
    # The samples' depths are detached from the gradient, because the gradient of a colour along a ray is noise: Stage I
    # learns from depth, from a colour of its own and through the latents only.
    t = sample_depths(distribution, rays, num_samples).detach()
    blending = LearnedBlending(network.pyramid, network.blending, "training")
    sources = blending.with_surface(sources, example.lines, distribution)
    weights = blending(sources, example.lines, rays, t, distribution)
    colors = sample_map(sources.sharpened, weights.uv)
    image = torch.einsum("bvcrs,bvrs->bcr", colors, weights.omega)
    return image.unflatten(-1, (height, width)), swept


def loss_of(image: Tensor, swept: Sweep | None, example: Example) -> Tensor:
    """Return the loss of a rendered window against the photo, averaged over the examples.

    A real photo is first given the exposure of what was rendered, which has that of the photos it was rendered from.

    For each example: the logarithm of the sum of the colour's root mean square error, half of the mean absolute error
        of its gradients and, with Stage I, the error of the sweep's own colour. The logarithm, as in PSNR, weighs
        examples by relative improvement, so that hard ones do not dominate. Added to it is the depth's cross-entropy
        where it is known.
    """
    left, top, width, height = example.window
    part = (..., slice(top, top + height), slice(left, left + width))
    counts = example.counts[part]
    if example.depth is None:  # a real photo, whose exposure is its own
        apart = tone_difference(image.detach(), example.image[part], counts)
        example = replace(example, image=shifted(example.image, apart))
    truth = example.image[part]
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
    """Return the root mean square error of the planes' colours, averaged by their probability.

    The rendered image gives Stage I no gradient about the surface's position, as the samples' depths are detached:
    without this loss, real photos would train Stage I through the latents only.
    """
    color = (torch.softmax(swept.logits, 1)[:, None] * swept.colors).sum(2)  # [B, 3, h, w]
    truth = F.avg_pool2d(example.image, swept.frustum.step)
    counts = F.avg_pool2d(example.counts[:, None].float(), swept.frustum.step)[:, 0] > 0.999
    return _rms(color, truth, counts)


def _loss_of_depth(swept: Sweep, example: Example) -> Tensor:
    """Return the cross-entropy of the depth, linear between the two planes that enclose it."""
    position = true_positions(example.depth, swept.frustum)
    num_planes = swept.frustum.num_planes
    known = (position > 0) & (position < num_planes - 1)
    position = position.clamp(0, num_planes - 1.001)
    plane, part = position.floor().long()[:, None], position % 1
    log_probability = torch.log_softmax(swept.logits, 1)
    below, above = (log_probability.gather(1, plane + i)[:, 0] for i in (0, 1))
    return -_mean((1 - part) * below + part * above, known).mean()


def true_positions(
    depth: Tensor,  # [B, h, w] z-depth
    frustum: Frustum,
) -> Tensor:  # [B, h / step, w / step]
    """Return the plane index, as a fraction, of the surface in each voxel column."""
    column = F.interpolate(depth[:, None], size=(frustum.height, frustum.width), mode="nearest")[:, 0]
    near, far = (1 / z[:, None, None] for z in (frustum.near, frustum.far))
    return (1 / column - near) / (far - near) * (frustum.num_planes - 1)


def _rms(image: Tensor, truth: Tensor, counts: Tensor) -> Tensor:  # [B, 3, h, w] twice and [B, h, w] to [B]
    """Return the root mean square error over the pixels that count."""
    return (_mean(((image - truth) ** 2).mean(1), counts) + 1e-5).sqrt()  # 1e-5: finite slope at 0


def _mean(values: Tensor, counts: Tensor) -> Tensor:  # [B, h, w] each, to [B]
    """Return each example's mean over the pixels that count; 0 where none does."""
    return (values * counts).sum((1, 2)) / counts.sum((1, 2)).clamp(min=1)


def held_out_psnr(renderer: Renderer, folder: Path, device: torch.device) -> float:
    """Return the mean PSNR in dB over the last few photos of a scene that `lift3d eval` leaves out by default."""
    photos = _held_out_photos(folder)
    return photos.mean_psnr(renderer, device, photos.held_out[-_MAX_HELD_OUT:])


@functools.lru_cache
def _held_out_photos(folder: Path) -> HeldOutPhotos:
    return HeldOutPhotos(load_scene(folder))
