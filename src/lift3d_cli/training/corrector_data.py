"""Training examples of the inconsistency corrector: rendered crops of left-out photos, with encoders' features."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.geometry.epipolar import EpipolarLines
from lift3d_cli.geometry.grids import FeatureGrid
from lift3d_cli.lifting.blending.protocol import BlendingWeights
from lift3d_cli.lifting.correction.prediction import random_directions
from lift3d_cli.lifting.gather import gather_colors
from lift3d_cli.lifting.proposal.protocol import DepthDistribution
from lift3d_cli.lifting.renderer import Renderer
from lift3d_cli.lifting.sources import pad_maps
from lift3d_cli.models.base import FeatureMap, Model
from lift3d_cli.pipeline.encode import to_image
from lift3d_cli.pipeline.lift import SceneLifter
from lift3d_cli.pipeline.surfaces import PhotoSurfaces
from lift3d_cli.pipeline.workspace import Recent, ResizedWorkspace
from lift3d_cli.training.renderer_scenes import MOST_VIEWS, draw_views
from lift3d_cli.training.training_surfaces import split_targets

# Size of a target crop in pixels, a multiple of strides up to 16; and the most cells across it that are trained on.
_CROP_WIDTH, _CROP_HEIGHT = 160, 128
_MAX_CELLS = 40


@dataclass(frozen=True)
class CorrectionExample:
    """One encoder's features of one crop, with the results of Stage I and II for it.

    Args:
        encoder: name of the model.
        stride: image pixels per cell.
        image: [3, H, W] the photo with the rendered crop pasted in, so that the crop has surroundings.
        grid: grid of all its cells.
        cells: [R] indices of the cells to train on, row by row: those in the crop.
        truth: [R, C] the encoder's features of the photo.
        photos: V source photos [3, H_i, W_i] uint8.
        grids: V grids of the source features.
        maps: [V, C, h, w] source features.
        lines: epipolar lines of the target in the source photos.
        t: [R, S] z-depth of the rays' samples.
        weights: blending weights of the samples.
        distribution: near and far only, without the volume.
    """

    encoder: str
    stride: int
    image: Tensor
    grid: FeatureGrid
    cells: Tensor
    truth: Tensor
    photos: Sequence[Tensor]
    grids: Sequence[FeatureGrid]
    maps: Tensor
    lines: EpipolarLines
    t: Tensor
    weights: BlendingWeights
    distribution: DepthDistribution

    @property
    def rays(self) -> Tensor:
        """[R, 2] target pixels."""
        return self.grid.cell_centers().to(self.cells.device)[self.cells]

    def to(self, device: torch.device | str) -> CorrectionExample:
        """Return a copy on another device, except for its photos."""
        lines, weights = (
            type(part)(*(getattr(part, field.name).to(device) for field in fields(part)))
            for part in (self.lines, self.weights)
        )
        distribution = replace(self.distribution, probability=self.distribution.probability.to(device))
        tensors = {name: getattr(self, name).to(device) for name in ("image", "cells", "truth", "maps", "t")}
        return replace(self, **tensors, lines=lines, weights=weights, distribution=distribution)


class CorrectionScenes:
    """Draws examples from one scene, rendered as frames are.

    Args:
        workspace: the scene, with photos in the size to train on.
        renderer: renderer without a corrector.
        encoders: encoders by name.
        surfaces: of the photos that are rendered from, or None to do without.
    """

    def __init__(
        self,
        workspace: ResizedWorkspace,
        renderer: Renderer,
        encoders: Mapping[str, Model],
        surfaces: PhotoSurfaces | None = None,
    ) -> None:
        self._workspace = workspace
        self._renderer = renderer if surfaces else replace(renderer, surface_finder=None)
        self._encoders = encoders
        self._points = workspace.points()
        self._targets, self._others = split_targets(workspace.num_photos) if surfaces else ((), ())
        self._lifter = SceneLifter(
            workspace, self._points, self._renderer, MOST_VIEWS, torch.device("cpu"), surfaces=surfaces
        )
        self._features: Recent[FeatureMap] = Recent(64 * len(encoders))

    @torch.no_grad()
    def draw(self, rng: random.Random) -> Iterator[CorrectionExample]:
        """Draw a random crop of a random photo, rendered from random others; yield an example per encoder."""
        views = self._workspace.scene.views
        left_out, chosen, bounds = draw_views(views, self._points, rng, self._targets, self._others)
        cameras = [self._workspace.camera(i) for i in chosen]
        sources = self._lifter.source_views(chosen, cameras)
        camera = self._workspace.camera(left_out)
        left, top, width, height = _random_rectangle(camera, rng)
        held = self._workspace.resized(left_out, camera.width, camera.height)
        part = (slice(top, top + height), slice(left, left + width))
        counts = torch.zeros(camera.height, camera.width, dtype=torch.bool)
        counts[part] = torch.from_numpy(held.valid & held.opaque)[part]
        if counts.float().sum() < 0.3 * width * height:
            return
        K = camera.K - np.array([[0, 0, left], [0, 0, top], [0, 0, 0]])
        surface = self._renderer.propose(Camera(K, camera.w2c, width, height), sources, bounds)
        pixels = self._renderer.sample_and_blend(surface, FeatureGrid(width, height, (1.0, 1.0)), {})
        image = to_image(held)
        image[(slice(None), *part)] = gather_colors(pixels, surface.sources).color.clamp(0, 1)
        # Described as they were encoded, each with its own exposure.
        photos = [self._workspace.resized(i, c.width, c.height) for i, c in zip(chosen, cameras, strict=True)]
        described = [torch.from_numpy(photo.image).permute(2, 0, 1) for photo in photos]
        for name, model in self._encoders.items():
            truth, features = self._encode(left_out, model), [self._encode(i, model) for i in chosen]
            cells = _choose_cells(truth.grid, counts, rng)
            if len(cells) < 8:
                continue
            rays = truth.grid.cell_centers()[cells] - torch.tensor([float(left), float(top)])
            weighted = self._renderer.weigh(surface, cells, rays)
            # Random projections take less memory, and leave the error's expectation unchanged.
            mixing = random_directions(model.spec.channels)
            yield CorrectionExample(
                encoder=name,
                stride=model.spec.stride,
                image=image,
                grid=truth.grid,
                cells=cells,
                truth=(mixing @ truth.data.flatten(1)).T[cells],
                photos=described,
                grids=[f.grid for f in features],
                maps=pad_maps([torch.einsum("kc,chw->khw", mixing, f.data) for f in features]),
                lines=EpipolarLines.between(camera, cameras),
                t=weighted.t,
                weights=weighted.weights,
                distribution=_outline(surface.distribution),
            )

    def _encode(self, index: int, model: Model) -> FeatureMap:
        def make() -> FeatureMap:
            camera = self._workspace.camera(index)
            return model.checked_encode(to_image(self._workspace.resized(index, camera.width, camera.height)))

        return self._features.get((model.spec.name, index), make)


def _outline(distribution: DepthDistribution) -> DepthDistribution:
    """Return the distribution's near and far, without the volume."""
    return replace(distribution, probability=distribution.probability[:, :1, :1].clone(), latent=None)


def _random_rectangle(camera: Camera, rng: random.Random) -> tuple[int, int, int, int]:
    """Draw left, top, width and height of a crop, in pixels."""
    width, height = min(_CROP_WIDTH, camera.width), min(_CROP_HEIGHT, camera.height)
    left = rng.randrange((camera.width - width) // 16 + 1) * 16
    top = rng.randrange((camera.height - height) // 16 + 1) * 16
    return left, top, width, height


def _choose_cells(grid: FeatureGrid, counts: Tensor, rng: random.Random) -> Tensor:
    """Choose a random window of the cells whose centre pixel has ground truth."""
    u, v = grid.cell_centers().long().unbind(1)
    height, width = counts.shape
    is_inside = (u >= 0) & (v >= 0) & (u < width) & (v < height)
    known = (is_inside & counts[v.clamp(0, height - 1), u.clamp(0, width - 1)]).reshape(grid.height, grid.width)
    rows, columns = known.any(1).nonzero()[:, 0], known.any(0).nonzero()[:, 0]
    if not len(rows):
        return rows
    top = rng.randrange(int(rows[0]), max(int(rows[0]), int(rows[-1]) - _MAX_CELLS + 1) + 1)
    left = rng.randrange(int(columns[0]), max(int(columns[0]), int(columns[-1]) - _MAX_CELLS + 1) + 1)
    window = torch.zeros_like(known)
    window[top : top + _MAX_CELLS, left : left + _MAX_CELLS] = True
    return (window & known).flatten().nonzero()[:, 0]
