"""Training of the inconsistency corrector on the features of a few encoders; the renderer is fixed."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from lift3d_cli.cache.location import cache_dir
from lift3d_cli.cache.store import SceneCache
from lift3d_cli.config import TrainConfig
from lift3d_cli.errors import ModelError
from lift3d_cli.lifting.blending.learned import LearnedBlending
from lift3d_cli.lifting.correction.corrector import InconsistencyCorrector, cell_cues
from lift3d_cli.lifting.correction.evidence import Blend, SourceCells, on_maps
from lift3d_cli.lifting.correction.prediction import FeaturePrediction, projection
from lift3d_cli.lifting.network import Lift3DNetwork
from lift3d_cli.lifting.proposal.learned import LearnedProposal
from lift3d_cli.lifting.renderer import Renderer
from lift3d_cli.lifting.sources import pad_maps
from lift3d_cli.machine.progress import Progress, no_progress
from lift3d_cli.models.registry import find_model
from lift3d_cli.ops.weighted_gather import WeightedGather
from lift3d_cli.pipeline.surfaces import PhotoSurfaces
from lift3d_cli.pipeline.workspace import ResizedWorkspace, Workspace
from lift3d_cli.scene.load import load_scene
from lift3d_cli.training.corrector_data import CorrectionExample, CorrectionScenes
from lift3d_cli.training.loop import TrainingTask
from lift3d_cli.training.training_surfaces import split_targets, surface_finder

# Heights of the photos, and the strides trained at each: fine cells of large photos would take most of the time.
_HEIGHTS = ((320, range(4, 1000)), (240, range(4, 1000)), (160, range(1, 9)))
# An example of stride 1 takes ten times as long as others.
_FINE_STRIDE, _FINE_SHARE = 1, 0.05
# An example with a larger error of the blend was rendered from photos that do not show the crop.
_HOPELESS = 5.0


@dataclass(frozen=True)
class _Prepared:
    """An example, with everything computed that stays the same during training.

    Args:
        example: the example without its photos.
        cues: [V, cues, h, w] float16 cues of the source cells.
        target_cues: [cues, h, w] float16 cues of the target's cells.
    """

    example: CorrectionExample
    cues: Tensor
    target_cues: Tensor

    @classmethod
    def of(cls, example: CorrectionExample) -> _Prepared:
        pairs = zip(example.photos, example.grids, strict=True)
        cues = pad_maps([cell_cues(photo.float() / 255, grid) for photo, grid in pairs])
        slim = replace(example, photos=(), maps=example.maps.half())
        return cls(slim, cues.half(), cell_cues(example.image, example.grid).half())

    def to(self, device: torch.device) -> _Prepared:
        """Return a copy on another device."""
        return _Prepared(self.example.to(device), self.cues.to(device), self.target_cues.to(device))

    def blend(self, corrector: InconsistencyCorrector, rng: random.Random | None = None) -> Blend:
        """Return the corrector's input; with `rng`, one photo's features may be disturbed."""
        example = self.example
        maps = example.maps.float()
        if rng is not None and rng.random() < 0.3:
            maps = disturb(maps, rng)
        descriptors = corrector.descriptor(self.cues.float())
        target = corrector.descriptor(self.target_cues.float()[None])[0].flatten(1).T[example.cells]
        gather, weights = WeightedGather(maps), example.weights
        features = gather(on_maps(weights.uv, example.grids), weights.omega)
        cells = SourceCells(maps, descriptors, example.grids, example.stride)
        rest = (example.lines, example.rays, example.t, weights, example.distribution)
        return Blend(features, gather, cells, target, *rest)


def disturb(maps: Tensor, rng: random.Random) -> Tensor:  # [V, C, h, w]
    """Change the gain of one photo's features, or replace a region of them by another photo's."""
    maps, which = maps.clone(), rng.randrange(len(maps))
    if rng.random() < 0.5:
        maps[which] *= rng.uniform(0.5, 1.5)
        return maps
    height, width = maps.shape[2:]
    top, left = rng.randrange(height), rng.randrange(width)
    region = (slice(None), slice(top, top + height // 2), slice(left, left + width // 2))
    maps[which][region] = maps[rng.randrange(len(maps))].flip(2)[region]
    return maps


class CorrectorTask(TrainingTask):
    """Training of the inconsistency corrector; see `TrainingTask`.

    Args:
        config: settings; its models are the encoders to train on.
        network: the network whose corrector is trained; the rest is fixed.
        device: where to train.
        progress: see `Progress`.
    """

    def __init__(
        self, config: TrainConfig, network: Lift3DNetwork, device: torch.device, progress: Progress = no_progress
    ) -> None:
        if not config.models:
            raise ModelError("a corrector learns from features. hint: --model, once for each training encoder")
        self.network = network.eval().requires_grad_(False)
        self.corrector = network.corrector.requires_grad_(True)
        blending = LearnedBlending(network.pyramid, network.blending, "training")
        proposal = LearnedProposal(network.regularizer, "training")
        renderer = Renderer(proposal, blending, surface_finder=surface_finder(config, torch.device("cpu")))
        encoders = {m.spec.name: m for m in (find_model(name).load() for name in config.models)}
        self._stock = self._draw(renderer, encoders, config.scenes, config, progress)
        self._held_out = {
            folder.name: self._draw(renderer, encoders, (folder,), replace(config, examples=2), progress)
            for folder in config.held_out
        }
        self._fine = [p for p in self._stock if p.example.stride <= _FINE_STRIDE]
        self._coarse = [p for p in self._stock if p.example.stride > _FINE_STRIDE]
        self.network.to(device)
        self._device = device
        if device.type == "cuda":
            self.corrector.descriptor.precision = "bf16"

    def _draw(
        self,
        renderer: Renderer,
        encoders: Mapping[str, nn.Module],
        folders: Iterable[Path],
        config: TrainConfig,
        progress: Progress,
    ) -> list[_Prepared]:
        """Draw examples of every scene at every height; deterministic for a seed."""
        stock: list[_Prepared] = []
        surfaces = {} if renderer.surface_finder is None else {f: _surfaces(f, renderer) for f in folders}
        jobs = [(folder, *sizes) for folder in folders for sizes in _HEIGHTS]
        for folder, height, strides in progress(jobs, "features to learn from", len(jobs)):
            chosen = {name: m for name, m in encoders.items() if m.spec.stride in strides}
            rng = random.Random(f"{config.seed}/{folder.name}/{height}")
            workspace = ResizedWorkspace(load_scene(folder), height, keep=80)
            scene = CorrectionScenes(workspace, renderer, chosen, surfaces.get(folder))
            for _ in range(config.examples):
                stock += [_Prepared.of(example) for example in scene.draw(rng)]
        return stock

    def loss(self, rng: random.Random, step: int) -> Tensor:
        """Return the error relative to the uncorrected error, so that encoders and scenes have equal weight."""
        is_fine = self._fine and (rng.random() < _FINE_SHARE or not self._coarse)
        prepared = rng.choice(self._fine if is_fine else self._coarse).to(self._device)
        blend = prepared.blend(self.corrector, rng)
        before = self._error(blend.features, prepared)
        if before > _HOPELESS:
            return before * torch.nan
        return self._corrected_error(blend, prepared) / (before + 0.1)

    def scores(self) -> Mapping[str, float]:
        """Return the relative error before and after correction, on scenes that are not trained on."""
        scores = {}
        with torch.no_grad():
            for scene, held_out in self._held_out.items():
                stock = [prepared.to(self._device) for prepared in held_out]
                blends = [(prepared.blend(self.corrector), prepared) for prepared in stock]
                before = [float(self._error(blend.features, prepared)) for blend, prepared in blends]
                after = [float(self._corrected_error(blend, prepared)) for blend, prepared in blends]
                scores[f"blended_{scene}"] = sum(before) / len(before)
                scores[f"corrected_{scene}"] = sum(after) / len(after)
        return scores

    def _corrected_error(self, blend: Blend, prepared: _Prepared) -> Tensor:
        return self._error(self.corrector.correct(blend), prepared)

    def _error(self, features: Tensor, prepared: _Prepared) -> Tensor:
        """Return the mean squared error relative to the truth's variance, over the rays that some photo sees."""
        truth, seen = prepared.example.truth, prepared.example.weights.coverage > 0
        # 1e-9 guards crops of constant features.
        return ((features - truth) ** 2 * seen[:, None]).mean() / (truth.var(0, correction=0).mean() + 1e-9)


def _surfaces(folder: Path, renderer: Renderer) -> PhotoSurfaces:
    """Return the surfaces of a scene's photos without those that are only ever targets, kept in its cache."""
    workspace = Workspace(load_scene(folder), SceneCache(cache_dir(folder).path))
    others = split_targets(workspace.num_photos)[1]
    return PhotoSurfaces(workspace, workspace.points(), renderer.surface_finder, torch.device("cpu"), others)


class PredictionTask(CorrectorTask):
    """Training of the feature regression head of the ablation: see `FeaturePrediction`."""

    def __init__(
        self, config: TrainConfig, network: Lift3DNetwork, device: torch.device, progress: Progress = no_progress
    ) -> None:
        super().__init__(config, network, device, progress)
        self.network.requires_grad_(False)
        self.network = self.prediction = FeaturePrediction(self.corrector).to(device)

    def _corrected_error(self, blend: Blend, prepared: _Prepared) -> Tensor:
        mixing, mean, scale = projection(blend.gather.maps)
        wanted = (prepared.example.truth - mean) @ mixing.T / scale
        return (self.prediction.predict(blend)[:, : len(mixing)] - wanted).square().mean()
