"""Training of the renderer (photo pyramid, Stage I, Stage II) by the colour of left-out photos and by true depth."""

from __future__ import annotations

import dataclasses
import functools
import math
import random
from collections.abc import Mapping
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from lift3d_cli.config import TrainConfig
from lift3d_cli.errors import SceneError
from lift3d_cli.geometry.epipolar import EpipolarLines
from lift3d_cli.geometry.grids import pixel_centers
from lift3d_cli.lifting.learned import LearnedBlending, LearnedProposal
from lift3d_cli.lifting.network import NUM_LATENTS, Lift3DNetwork, compute_in_bfloat16
from lift3d_cli.lifting.proposal import DepthDistribution, UniformProposal
from lift3d_cli.lifting.renderer import Renderer
from lift3d_cli.lifting.sampling import sample_depths
from lift3d_cli.lifting.sources import SourceViews
from lift3d_cli.ops.weighted_gather import weighted_gather_ref
from lift3d_cli.scene.load import load_scene
from lift3d_cli.stages.device import resolve_precision
from lift3d_cli.stages.encode import to_image
from lift3d_cli.stages.lift import SceneLifter
from lift3d_cli.stages.photos import ResizedPhotos
from lift3d_cli.stages.renderers import SINGLE_STAGE_SAMPLES
from lift3d_cli.training.photos import read_photo
from lift3d_cli.training.renderer_data import Example, ProceduralScenes, RealScenes, true_positions

# Photos kept in memory as textures.
_MAX_TEXTURES = 150
# Left-out photos per held-out scene that are rendered for the scores, at height 320, from 8 others.
_MAX_HELD_OUT = 3


class RendererTask:
    """See `Task`.

    Args:
        config: its scenes and textures are trained on; of scenes in `held_out`, nothing is.
        network: where to begin; its corrector stays as it is.
        single_stage: train Stage II alone, for an ablation: without a proposal, from samples all along the ray.
        device: where to train.
    """

    def __init__(
        self, config: TrainConfig, network: Lift3DNetwork, device: torch.device, single_stage: bool = False
    ) -> None:
        self._single_stage, self._device = single_stage, device
        self._drawing = Lock()
        self.network = network.to(device).train()
        trained = (network.blending,) if single_stage else (network.pyramid, network.regularizer, network.blending)
        network.requires_grad_(False)
        for part in trained:
            part.requires_grad_(True)
            if resolve_precision("auto", device) == "bf16":
                compute_in_bfloat16(part, device)
        self._held_out = config.held_out
        self._share_procedural = config.procedural if config.scenes else 1.0
        self._procedural = ProceduralScenes(config.seed, _textures(config), device)
        self._real = RealScenes(config.scenes, config.height) if config.scenes else None

    def loss(self, rng: random.Random, step: int) -> Tensor:
        """See `Task`."""
        with self._drawing:
            is_procedural = rng.random() < self._share_procedural
            drawn = self._procedural.draw(rng, step) if is_procedural else self._real.draw(rng)
        example = drawn.to(self._device)
        if example.counts.float().mean() < 0.01:
            return torch.tensor(math.nan)
        if self._single_stage:
            return loss_of(*render_crop(self.network, example, None), example)
        voxels_per_plane = LearnedProposal.voxels_per_plane * math.exp(rng.uniform(-0.3, 0.4))
        return loss_of(*render_crop(self.network, example, voxels_per_plane), example)

    def scores(self) -> Mapping[str, float]:
        """See `Task`."""
        proposal = LearnedProposal(self.network, "training")
        samples = Renderer.num_samples
        if self._single_stage:
            proposal, samples = UniformProposal(NUM_LATENTS), SINGLE_STAGE_SAMPLES
        renderer = Renderer(proposal, LearnedBlending(self.network, "training"), samples)
        return {f"psnr_{f.name}": held_out_psnr(renderer, f, self._device) for f in self._held_out}


def _textures(config: TrainConfig) -> list[Tensor]:
    if config.textures is None:
        return []
    paths = sorted(config.textures.rglob("*.jpg"))[:_MAX_TEXTURES]
    if not paths:
        raise SceneError(f"{config.textures}: has no .jpg photos to cut textures from")
    return [torch.from_numpy(read_photo(path)).permute(2, 0, 1).float() / 255 for path in paths]


def render_crop(
    network: Lift3DNetwork, example: Example, voxels_per_plane: float | None
) -> tuple[Tensor, Tensor | None, int]:
    """Render an example with gradients; without planes, in a single stage.

    Returns:
        image [3, h, w], depth logits [D, h', w'] (or None), and target pixels per voxel.
    """
    target = example.target
    sources = dataclasses.replace(example.sources, features=network.pyramid(example.sources.images))
    if voxels_per_plane is None:
        logits, step, num_samples = None, 1, SINGLE_STAGE_SAMPLES // 2
        distribution = UniformProposal(NUM_LATENTS)(target, sources, example.depth_range, 2**30)
    else:
        proposal = LearnedProposal(network, "training", voxels_per_plane=voxels_per_plane)
        logits, latent, step = proposal.logits(target, sources, example.depth_range, 2**30)
        distribution = DepthDistribution(torch.softmax(logits, 0), *example.depth_range, (1 / step, 1 / step), latent)
        num_samples = Renderer.num_samples
    image = _blend(network, example, sources, distribution, num_samples)
    return image, logits, step


def _blend(
    network: Lift3DNetwork,
    example: Example,
    sources: SourceViews,
    distribution: DepthDistribution,
    num_samples: int,
) -> Tensor:  # [3, h, w]
    target, device = example.target, sources.images.device
    lines = EpipolarLines.between(target, sources.cameras, device)
    rays = pixel_centers(target.width, target.height, device)
    # Where the samples lie follows from the distribution, but it learns from depth and through the latents only: the
    # gradient of a colour along a ray is noise.
    t = sample_depths(distribution, rays, num_samples).detach()
    weights = LearnedBlending(network, "training")(sources, lines, rays, t, distribution)
    image = weighted_gather_ref(sources.images, weights.uv, weights.omega)
    return image.T.reshape(3, target.height, target.width)


def loss_of(image: Tensor, logits: Tensor | None, step: int, example: Example) -> Tensor:
    """Charbonnier of the colour, half of the gradients' error, and cross-entropy of the depth where it is known."""
    counts, truth = example.counts, example.image
    loss = ((image - truth) ** 2 + 1e-4).sqrt().mean(0)[counts].mean()
    for axis in (1, 2):
        edge = (image.diff(dim=axis) - truth.diff(dim=axis)).abs().mean(0)
        loss = loss + 0.5 * edge[counts.narrow(axis - 1, 1, counts.shape[axis - 1] - 1)].mean()
    if example.depth is None or logits is None:
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


def held_out_psnr(renderer: Renderer, folder: Path, device: torch.device | str = "cpu", every: int = 8) -> float:
    """Mean PSNR in dB over the last few left-out photos of a scene, at height 320 from 8 views."""
    photos, candidates, points = _held_out_scene(folder, every)
    views = range(len(photos.scene.views))
    lifter = SceneLifter(photos, points, renderer, 8, torch.device(device), candidates)
    values = []
    for i in views[::every][-_MAX_HELD_OUT:]:
        camera = photos.scene.views[i].camera
        photo = photos.resized(i, camera.width, camera.height)
        image = lifter.lift(camera, lifter.choose(camera)).frame.image.cpu()
        counts = torch.from_numpy(photo.valid & photo.opaque)
        values.append(-10 * math.log10(((image - to_image(photo)) ** 2)[:, counts].mean()))
    return sum(values) / len(values)


@functools.lru_cache
def _held_out_scene(folder: Path, every: int) -> tuple[ResizedPhotos, list[int], np.ndarray]:
    """Photos at height 320, the indices that stay as sources, and surface points from those."""
    photos = ResizedPhotos(load_scene(folder), 320, keep=64)
    candidates = [i for i in range(len(photos.scene.views)) if i % every]
    return photos, candidates, photos.points(candidates)
