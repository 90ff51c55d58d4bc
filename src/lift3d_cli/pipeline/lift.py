"""Lift one target view: choose its source photos, load them and their features, render."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lift3d_cli.geometry.cameras import Camera, seen_points
from lift3d_cli.geometry.grids import FeatureGrid
from lift3d_cli.lifting.contradiction import contradicting
from lift3d_cli.lifting.correction.corrector import Corrector
from lift3d_cli.lifting.covisible import covisible_points
from lift3d_cli.lifting.exposure import harmonized
from lift3d_cli.lifting.many_sources import SourceChooser
from lift3d_cli.lifting.renderer import RenderedFrame, Renderer
from lift3d_cli.lifting.source_features import SourceFeatures
from lift3d_cli.lifting.sources import SourceViews
from lift3d_cli.machine.background import touched
from lift3d_cli.machine.parallel import mapped
from lift3d_cli.machine.progress import Progress, no_progress
from lift3d_cli.models.base import FeatureMap
from lift3d_cli.pipeline.encode import to_image
from lift3d_cli.pipeline.lift_features import AtPixels, FeatureSource, Reread, is_finer, source_features
from lift3d_cli.pipeline.memory import plan_memory
from lift3d_cli.pipeline.surfaces import PhotoSurfaces, source_camera
from lift3d_cli.pipeline.workspace import Recent, Workspace
from lift3d_cli.scene.bounds import sourced_depth_range

PHOTOS_PER_VIEW = 4
"""Resized photos to keep in memory per source photo of a target, with the next target read ahead: those of two targets,
each photo at the target's size and, for the descriptors, at the encoder's."""
# More choose no faster, and a bar should move.
_TARGETS_AT_ONCE = 1024


@dataclass(frozen=True)
class Choice:
    """The source photos and depth range of a target.

    Args:
        depth_range: (near, far) z-depth of the target.
        sources: indices of the photos, best first.
    """

    depth_range: tuple[float, float]
    sources: Sequence[int]


@dataclass(frozen=True)
class Plan:
    """Everything that lifting a target needs to know, worked out once for reading ahead and rendering.

    Args:
        target: the camera.
        choice: source photos and depth range.
        cameras: cameras of the sources, at the size that they are used in.
        origins: by name, where the features are read from.
        features: by the same names, the sources' features; without descriptors.
        memory_bytes: memory for temporaries, beyond what must be held as a whole.
    """

    target: Camera
    choice: Choice
    cameras: Sequence[Camera]
    origins: Mapping[str, FeatureSource]
    features: Mapping[str, SourceFeatures]
    memory_bytes: int


@dataclass(frozen=True)
class LiftedView:
    """The result of lifting a target.

    Args:
        frame: colour, depth, coverage and features.
        grids: by model name, the grid of its features in the target's image.
        choice: the source photos and depth range used.
    """

    frame: RenderedFrame
    grids: Mapping[str, FeatureGrid]
    choice: Choice


class SceneLifter:
    """Renders any number of targets of one scene; memory depends only on the source views of a target.

    Args:
        workspace: the scene.
        points: [N, 3] surface points, or none.
        renderer: renders one target from its source views.
        num_views: source photos per target, at most.
        device: where to render.
        candidates: indices of the photos that may be sources; None for all.
        surfaces: of the photos, if there are some already.
    """

    def __init__(
        self,
        workspace: Workspace,
        points: np.ndarray,
        renderer: Renderer,
        num_views: int,
        device: torch.device,
        candidates: Sequence[int] | None = None,
        surfaces: PhotoSurfaces | None = None,
    ) -> None:
        self._workspace = workspace
        self._points = points
        self.renderer = renderer
        self._num_views = num_views
        self._device = device
        self._candidates = range(workspace.num_photos) if candidates is None else candidates
        self.surfaces = surfaces
        if surfaces is None and renderer.surface_finder is not None:
            self.surfaces = PhotoSurfaces(workspace, points, renderer.surface_finder, device, self._candidates)
        # The networks' features and descriptors of each photo, most of which the next pose needs too.
        self._recent_features: Recent[Tensor | None] = Recent(2 * num_views)
        self._descriptors: dict[tuple[Corrector, FeatureSource], Recent[Tensor]] = {}
        self._shrunk: dict[FeatureSource, Recent[FeatureMap]] = {}

    def choose(self, target: Camera) -> Choice:
        """Choose the source photos and depth range of a target; fast, as no photo is read."""
        return next(self.choose_each([target]))

    def choose_each(self, targets: Sequence[Camera]) -> Iterator[Choice]:
        """Choose for each target, see `choose`; thousands together take a fraction of the time."""
        views = [self._workspace.scene.views[i] for i in self._candidates]
        chooser = SourceChooser([view.camera for view in views], self._num_views, self._points, len(targets))

        def of_group(some: Sequence[Camera]) -> list[Choice]:
            seen = list(seen_points(some, self._points))
            ranges = [
                sourced_depth_range(target, self._points, views, depths)[0]
                for target, (_, depths) in zip(some, seen, strict=True)
            ]
            chosen = chooser.choose(some, ranges, seen)
            return [
                Choice(near_far, [self._candidates[i] for i in of_target])
                for near_far, of_target in zip(ranges, chosen, strict=True)
            ]

        groups = [targets[i : i + _TARGETS_AT_ONCE] for i in range(0, len(targets), _TARGETS_AT_ONCE)]
        found = mapped(of_group, groups, torch.device("cpu")) if len(groups) > 1 else map(of_group, groups)
        return itertools.chain.from_iterable(found)

    def plan(
        self,
        target: Camera,
        choice: Choice,
        features: Mapping[str, FeatureSource] | None = None,
        correctors: Mapping[str, Corrector | None] | None = None,
    ) -> Plan:
        """Work out everything that lifting needs to know, on any thread; of files, only headers are read.

        Args:
            target: the camera.
            choice: the result of `choose`.
            features: by any name; several may belong to one model.
            correctors: by the same names; None for the renderer's.

        Raises:
            ResourceError: if the renderer's memory is too small for what must be held as a whole.
        """
        renderer = self.renderer
        cameras = [source_camera(self._workspace.camera(index), target) for index in choice.sources]
        origins = {name: self._at_pixels(source, choice, cameras) for name, source in (features or {}).items()}
        found = {
            name: source_features(
                source, target, choice.sources, cameras, correctors[name] if correctors else renderer.corrector
            )
            for name, source in origins.items()
        }
        left, at_once = plan_memory(
            renderer.memory_bytes, renderer.proposal, target, cameras, choice.depth_range, found
        )
        for name, channels in at_once.items():
            maps = [Reread(origins[name], i) for i in choice.sources] if channels else found[name].maps
            found[name] = replace(found[name], maps=maps, channels_at_once=channels)
        return Plan(target, choice, cameras, origins, found, left)

    def _at_pixels(self, source: FeatureSource, choice: Choice, cameras: Sequence[Camera]) -> FeatureSource:
        """Return a source whose cells are no finer than the target's pixels, see `AtPixels`."""
        spec = source.model.spec
        # Where results are larger than photos, what the finer cells have is the result's detail.
        if spec.stride > 1 or spec.scale > 1 or not is_finer(source, choice.sources, cameras):
            return source
        sizes = {index: (c.width, c.height) for index, c in zip(choice.sources, cameras, strict=True)}
        kept = self._shrunk.setdefault(source, Recent(2 * self._num_views))
        return AtPixels(source, sizes, kept)

    def find_surfaces(self, choices: Sequence[Choice], progress: Progress = no_progress) -> None:
        """Find the surfaces of the photos that targets are rendered from, where they are missing; see `lift`."""
        if self.surfaces:
            self.surfaces.find(sorted({i for choice in choices for i in choice.sources}), progress)

    def read_ahead(self, plan: Plan) -> None:
        """Read the files that `lift` will need, on another thread while the previous target is rendered."""
        for place, (index, camera) in enumerate(zip(plan.choice.sources, plan.cameras, strict=True)):
            self._workspace.resized(index, camera.width, camera.height)
            for name, features in plan.features.items():
                origin = plan.origins[name]
                if not features.channels_at_once:
                    touched(features.maps[place])
                described = self._descriptors.get((features.corrector, origin), ())
                if features.corrector is not None and (index, origin.size(index)) not in described:
                    self._workspace.resized(index, *origin.size(index))

    def lift(self, plan: Plan) -> LiftedView:
        """Render colour and features at a target."""
        renderer, sources, features = self._prepare(plan)
        frame = renderer.render(plan.target, sources, plan.choice.depth_range, features)
        used = [i for i, mask in zip(plan.choice.sources, sources.valid, strict=True) if mask.any()]
        return LiftedView(frame, {name: f.target for name, f in features.items()}, replace(plan.choice, sources=used))

    def lift_features(self, plan: Plan, image: Tensor) -> tuple[dict[str, Tensor], dict[str, FeatureGrid]]:
        """Render only the features; `image` [3, H, W] has the colours, which are most of the work of `lift`.

        Returns:
            By name, features [C, h, w] and their grids.
        """
        renderer, sources, features = self._prepare(plan)
        depth_range, image = plan.choice.depth_range, image.to(self._device)
        rendered = renderer.render_features(plan.target, sources, depth_range, features, image)
        return rendered, {name: f.target for name, f in features.items()}

    def _prepare(self, plan: Plan) -> tuple[Renderer, SourceViews, dict[str, SourceFeatures]]:
        """Return the renderer with the memory left for temporaries, the source views and their features."""
        features = {}
        for name, found in plan.features.items():
            corrector, origin = found.corrector, plan.origins[name]
            described = [self._describe(corrector, origin, i) for i in plan.choice.sources] if corrector else []
            features[name] = replace(found, descriptors=described)
        views = self.source_views(plan.choice.sources, plan.cameras)
        return replace(self.renderer, memory_bytes=plan.memory_bytes), views, features

    def source_views(self, chosen: Sequence[int], cameras: Sequence[Camera]) -> SourceViews:
        """Prepare photos, at the sizes of some cameras, to render a target from: all that does not depend on it."""
        photos = [self._workspace.resized(i, c.width, c.height) for i, c in zip(chosen, cameras, strict=True)]
        images = [to_image(photo) for photo in photos]
        valid = [torch.from_numpy(photo.valid) for photo in photos]
        features = [self._photo_features(i, image) for i, image in zip(chosen, images, strict=True)]
        surfaces = [self.surfaces and self.surfaces.at_size(i, c) for i, c in zip(chosen, cameras, strict=True)]
        sources = SourceViews.stack(cameras, images, valid, self._device, features, surfaces)
        pairs = covisible_points(sources)
        sources.valid[contradicting(sources, pairs)] = 0
        return harmonized(sources, pairs)

    @torch.inference_mode()
    def _photo_features(self, index: int, image: Tensor) -> Tensor | None:  # [F, h, w]
        """Compute Stage II's features of a photo, or get them from memory; see `Blending.photo_features`."""

        def make() -> Tensor | None:
            features = self.renderer.blending.photo_features(image[None].to(self._device))
            return None if features is None else features[0]

        return self._recent_features.get((index, image.shape), make)

    @torch.inference_mode()
    def _describe(self, corrector: Corrector, source: FeatureSource, index: int) -> Tensor:
        """Compute the corrector's descriptors [D, h, w] of the cells of a photo's features."""

        def make() -> Tensor:
            photo = self._workspace.resized(index, *source.size(index))
            return corrector.describe(to_image(photo, self._device), source.read(index).grid)

        recent = self._descriptors.setdefault((corrector, source), Recent(2 * self._num_views))
        return recent.get((index, source.size(index)), make)  # which may differ from pose to pose
