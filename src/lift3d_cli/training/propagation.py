"""Training of the propagation of photos' surfaces, from photos whose depth is known: procedural ones, and scenes'."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from lift3d_cli.config import TrainConfig
from lift3d_cli.errors import ModelError, SceneError
from lift3d_cli.lifting.network import Lift3DNetwork
from lift3d_cli.lifting.propagation import SurfaceClues
from lift3d_cli.lifting.refinement import SurfaceFinder
from lift3d_cli.lifting.surfaces import known_surface, surface_at_size
from lift3d_cli.pipeline.surfaces import PhotoSurfaces
from lift3d_cli.pipeline.workspace import Recent, ResizedWorkspace
from lift3d_cli.procedural.stream import StreamSpec
from lift3d_cli.scene.load import load_scene
from lift3d_cli.training.loop import TrainingTask
from lift3d_cli.training.procedural_scenes import ProceduralScenes
from lift3d_cli.training.renderer import texture_photos
from lift3d_cli.training.training_surfaces import SURFACE_BYTES, surface_finder, views_of_surface

# Procedural photos to draw from at a time, examples drawn per new one, and photos used of each scene.
_STOCK, _USES, _PHOTOS = 96, 16, 4
# Cells of an example that are learned from at a time.
_WINDOW = (96, 128)
# Photos of scenes in memory.
_KEEP = 200
# A cell's cost grows most where it is off by less than this many planes, and up to the second number at all.
_CLOSE, _FAR = 0.5, 8.0
# The scores count cells that are off by more planes.
_OFF = 1.0


class _PlainScenes(ProceduralScenes):
    spec = StreamSpec(num_views=9, width=256, height=192, num_textures=32, plain=0.4)


@dataclass(frozen=True)
class _Example:
    """What the propagation sees of one photo, [1, ...], and the truth.

    Args:
        clues: the volumes in float16.
        inverse: [1, 1, h, w] true 1/z.
        known: [1, 1, h, w] where it is known.
    """

    clues: SurfaceClues
    inverse: Tensor
    known: Tensor

    @classmethod
    def of(cls, clues: SurfaceClues, depth: Tensor) -> _Example:
        height, width = clues.inverse.shape[-2:]
        inverse, _, known = surface_at_size(known_surface(depth), 2 * width, 2 * height).to(clues.inverse.device)
        maps = {f.name: getattr(clues, f.name) for f in fields(clues)}
        maps |= {name: maps[name].half() for name in ("probability", "matches")}
        return cls(SurfaceClues(**maps), inverse[None, None], known[None, None] > 0)

    def ready(self, rng: random.Random | None = None) -> _Example:
        """Return a copy in float32; with random numbers, of a window, which may be mirrored."""
        cells = self.clues.inverse.shape[-2:]
        window = [(0, n) for n in cells]
        if rng and self.clues.probability.shape[-2:] == cells:
            window = [(rng.randint(0, max(0, n - most)), most) for n, most in zip(cells, _WINDOW, strict=True)]
        (top, height), (left, width) = window
        is_mirrored = rng is not None and rng.random() < 0.5

        def of(maps: Tensor) -> Tensor:
            maps = maps[..., top : top + height, left : left + width] if maps.shape[-2:] == cells else maps
            return maps.flip(-1) if is_mirrored else maps

        clues = SurfaceClues(**{f.name: of(getattr(self.clues, f.name)).float() for f in fields(self.clues)})
        return _Example(clues, of(self.inverse), of(self.known))


class PropagationTask(TrainingTask):
    """Training of the propagation; Stage I, which finds the surfaces, is fixed. See `TrainingTask`.

    Args:
        config: settings; of `scenes`, photos with depth are learned from.
        network: the network whose propagation is trained.
        device: where to train.

    Raises:
        ModelError: if there are no weights of Stage I.
        SceneError: if a scene has no photo with depth.
    """

    def __init__(self, config: TrainConfig, network: Lift3DNetwork, device: torch.device) -> None:
        finder = surface_finder(config, device)
        if finder is None:
            raise ModelError("a propagation learns from what Stage I finds. hint: other --weights than none")
        self._finder, self._device = finder, device
        self.network = network.to(device).requires_grad_(False)
        network.propagation.requires_grad_(True)
        self._procedural = _PlainScenes(config.seed, texture_photos(config), device=device)
        self._scenes = [_DepthScene(folder, config.height, finder, device) for folder in config.scenes]
        self._held_out = [_DepthScene(folder, config.height, finder, device) for folder in config.held_out]
        self._share_procedural = config.procedural if config.scenes else 1.0
        self._batch = config.batch
        self._examples: Recent[_Example] = Recent(2 * _STOCK)
        self._of_scenes: Recent[_Example] = Recent(_KEEP)

    def loss(self, rng: random.Random, step: int) -> Tensor:
        """Return the mean cost of the cells' candidates, by their probabilities: a mean depth would be of neither."""
        if rng.random() < self._share_procedural:
            number = step * self._batch // _USES + rng.randrange(_STOCK)
            example = self._examples.get(number, lambda: self._procedural_example(number))
        else:
            scene = rng.choice(self._scenes)
            index = rng.choice(scene.indices)
            example = self._of_scenes.get((scene.folder, index), lambda: scene.example(index))
        example = example.ready(rng)
        candidates, logits = self.network.propagation(example.clues)
        off = (candidates - example.inverse).abs() / example.clues.step
        cost = off / (off + _CLOSE) + 0.25 * (off / _FAR).clamp(max=1)
        costs = (logits.softmax(1) * cost).sum(1, keepdim=True)
        return costs[example.known].mean()

    def scores(self) -> Mapping[str, float]:
        """Return the share of cells that are off by more than a plane, before and after, in scenes not trained on."""
        scores = {}
        for scene in self._held_out:
            before, after = [], []
            for index in scene.indices:
                example = scene.example(index).ready()
                with torch.no_grad():
                    propagated = self.network.propagation.propagated(example.clues)
                for found, shares in ((example.clues.inverse, before), (propagated, after)):
                    is_off = (found - example.inverse).abs() > _OFF * example.clues.step
                    shares.append(float(is_off[example.known].float().mean()))
            scores[f"found_{scene.folder.name}"] = sum(before) / len(before)
            scores[f"propagated_{scene.folder.name}"] = sum(after) / len(after)
        return scores

    def _procedural_example(self, number: int) -> _Example:
        photos = self._procedural.scene(number // _PHOTOS)
        own = photos[number % _PHOTOS]
        sources, near_far = views_of_surface(own, [photo for photo in photos if photo is not own], self._device)
        with torch.no_grad():
            return _Example.of(self._finder.clues(sources, near_far, SURFACE_BYTES), own.depth)


class _DepthScene:
    """A scene of which some photos have depth."""

    def __init__(self, folder: Path, height: int, finder: SurfaceFinder, device: torch.device) -> None:
        self.folder = folder
        self._finder = finder
        self._workspace = ResizedWorkspace(load_scene(folder), height, keep=80)
        every = range(self._workspace.num_photos)
        self._surfaces = PhotoSurfaces(self._workspace, self._workspace.points(), finder, device, every)
        self.indices = [i for i in every if self._workspace.known_depth(i) is not None]
        if not self.indices:
            raise SceneError(f"{folder}: no photo has depth to learn from. hint: a scene with depth files")

    def example(self, index: int) -> _Example:
        sources, near_far = self._surfaces.sources(index)
        with torch.no_grad():
            clues = self._finder.clues(sources, near_far, SURFACE_BYTES)
        return _Example.of(clues, torch.from_numpy(self._workspace.known_depth(index).depth))
