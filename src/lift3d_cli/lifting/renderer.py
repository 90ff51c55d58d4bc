"""The renderer: colour, depth, coverage, confidence and the features of any models at one target camera, in one pass.

Propose, sample and blend, gather, correct. Stage I, Stage II and the corrector are interfaces that learned networks can
implement.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.geometry.epipolar import EpipolarLines
from lift3d_cli.geometry.grids import FeatureGrid
from lift3d_cli.lifting.blending.protocol import Blending
from lift3d_cli.lifting.blending.training_free import AngleAgreementBlending
from lift3d_cli.lifting.chunks import ProposedSurface, RayChunks, WeightedRays
from lift3d_cli.lifting.confidence import confidence
from lift3d_cli.lifting.correction.corrector import BYTES_PER_RAY, Corrector
from lift3d_cli.lifting.exposure import NUM_TONES
from lift3d_cli.lifting.gather import gather_colors, gather_features
from lift3d_cli.lifting.proposal.protocol import Proposal
from lift3d_cli.lifting.proposal.sampling import sample_depths
from lift3d_cli.lifting.proposal.training_free import PlaneSweepProposal
from lift3d_cli.lifting.refinement import CLOSER, WINDOWS, SurfaceFinder, refined
from lift3d_cli.lifting.source_features import SourceFeatures
from lift3d_cli.lifting.sources import SHARPENING, SourceViews

# Along each side. Fewer cells than this have rays of their own, which are few.
_LEAST_CELLS_PER_PIXEL = 0.5


@dataclass(frozen=True)
class RenderedFrame:
    """One rendered target view.

    Args:
        image: [3, H, W] in [0, 1].
        depth: [H, W] z-depth, the weighted mean in 1/z of the ray's samples.
        coverage: [H, W] in [0, 1]: share of the ray's samples that some source view sees.
        confidence: [H, W] in [0, 1], see `lifting.confidence`.
        features: by model name, [C, h, w] on the model's target grid.
    """

    image: Tensor
    depth: Tensor
    coverage: Tensor
    confidence: Tensor
    features: Mapping[str, Tensor]


@dataclass(frozen=True)
class Renderer:
    """Two-stage epipolar rendering, training-free with the default parts.

    Args:
        proposal: Stage I.
        blending: Stage II.
        num_samples: S, importance samples per ray.
        memory_bytes: rough bound on temporaries; rays are rendered in chunks that fit.
        corrector: corrects features whose `SourceFeatures` do not name another one; or None.
        surface_finder: finds the photos' own surfaces, or None to do without them.
    """

    proposal: Proposal = field(default_factory=PlaneSweepProposal)
    blending: Blending = field(default_factory=AngleAgreementBlending)
    num_samples: int = 6
    memory_bytes: int = 2 * 1024**3
    corrector: Corrector | None = None
    surface_finder: SurfaceFinder | None = None

    @torch.inference_mode()
    def render(
        self,
        target: Camera,
        sources: SourceViews,
        depth_range: tuple[float, float],
        features: Mapping[str, SourceFeatures] | None = None,
    ) -> RenderedFrame:
        """Render `target` from `sources`, on the device that the sources are on.

        Args:
            target: the camera; its size is the size of the image.
            sources: 1 or more photos.
            depth_range: (near, far) z-depth in the target camera.
            features: source features by model name.
        """
        features = features or {}
        surface = self.propose(target, sources, depth_range)
        pixels = self.sample_and_blend(surface, _pixels(target.width, target.height), features)
        colors = gather_colors(pixels, surface.sources)
        image = colors.color.clamp(0, 1)
        spread = colors.spread / (1 / depth_range[0] - 1 / depth_range[1])
        believed = confidence(colors.coverage, colors.plain, colors.square, spread)
        corrected = self._gather_and_correct(surface, features, image, pixels)
        return RenderedFrame(image, colors.depth, colors.coverage, believed, corrected)

    @torch.inference_mode()
    def render_features(
        self,
        target: Camera,
        sources: SourceViews,
        depth_range: tuple[float, float],
        features: Mapping[str, SourceFeatures],
        image: Tensor,
    ) -> dict[str, Tensor]:
        """Render only the features of a target whose colour `image` [3, H, W] is already known; see `render`."""
        return self._gather_and_correct(self.propose(target, sources, depth_range), features, image)

    def settings(self) -> dict[str, object]:
        """Return JSON values that differ between renderers with different results."""
        parts = {"proposal": dict(self.proposal.settings()), "blending": dict(self.blending.settings())}
        parts["refinement"] = [*WINDOWS, CLOSER]
        return {**parts, "num_samples": self.num_samples, "sharpening": SHARPENING, "tones": NUM_TONES}

    def propose(self, target: Camera, sources: SourceViews, depth_range: tuple[float, float]) -> ProposedSurface:
        """Run Stage I, and compute what Stage II needs of whole photos and of the whole surface."""
        if sources.features is None:
            sources = replace(sources, features=self.blending.photo_features(sources.images))
        distribution = self.proposal(target, sources, depth_range, self.memory_bytes)
        lines = EpipolarLines.between(target, sources.cameras, sources.images.device)
        sources = self.blending.with_surface(sources, lines, distribution)
        sources.texture  # noqa: B018, cached here, so that the threads do not each compute it
        return ProposedSurface(sources, lines, distribution)

    def weigh(self, surface: ProposedSurface, cells: Tensor, rays: Tensor) -> WeightedRays:
        """Sample and blend the rays [R, 2] through cells [R] of a grid, see `WeightedRays`."""
        t = sample_depths(surface.distribution, rays, self.num_samples)
        weights = self.blending(surface.sources, surface.lines, rays, t, surface.distribution)
        return WeightedRays(surface, cells, rays, t, weights)

    def sample_and_blend(
        self,
        surface: ProposedSurface,
        grid: FeatureGrid,
        features: Mapping[str, SourceFeatures],
    ) -> RayChunks:
        """Set up Stage II for the rays through a grid's cells, for the features on that grid.

        The rays through pixels are those of all features with about as many cells, or more, and refined.
        """
        has_fine = _is_about_pixels(grid)
        models = [m for m in features.values() if m.target == grid or (has_fine and _is_about_pixels(m.target))]
        grids = {model.target: None for model in models}
        images = surface.sources.images
        per_sample = self.blending.bytes_per_sample + 4 * 16  # the gather adds positions and weights of four taps
        finest = max((other.width * other.height / (grid.width * grid.height) for other in grids), default=0)
        per_sample += finest * 4 * 26  # the same again, and the projection
        is_corrected = any(model.corrector is not None for model in models)
        per_view = self.num_samples * per_sample + is_corrected * BYTES_PER_RAY
        chunks = RayChunks.weighed(
            grid,
            images.device,
            functools.partial(self.weigh, surface),
            self.memory_bytes,
            bytes_per_ray=round(len(images) * per_view),
            bytes_to_keep=len(images) * self.num_samples * 12,  # (u, v, omega)
            # A corrector needs the whole image first, and blocks of channels come one after the other.
            is_reused=has_fine or len(grids) > 1 or any(model.channels_at_once for model in models),
        )
        return refined(chunks, surface) if has_fine else chunks

    def _gather_and_correct(
        self,
        surface: ProposedSurface,
        features: Mapping[str, SourceFeatures],
        image: Tensor,
        pixels: RayChunks | None = None,
    ) -> dict[str, Tensor]:
        """Render every model's features; `pixels` are the rays of the colours, if they were rendered."""
        # Rounded as in a file, so that features are the same when they are rendered later.
        image = (image * 255).round() / 255
        rendered: dict[str, Tensor] = {}
        # Models on one grid share the rays' weights, which do not depend on the model.
        for grid in {model.target: None for model in features.values()}:
            if _is_about_pixels(grid):
                # Here too where the colours are known, so that features are the same when they are rendered later.
                pixels = pixels or self.sample_and_blend(surface, _pixels(*image.shape[:0:-1]), features)
                rays = pixels if pixels.grid == grid else pixels.through(grid)
            else:
                rays = self.sample_and_blend(surface, grid, features)
            models = {name: model for name, model in features.items() if model.target == grid}
            rendered |= gather_features(rays, models, image)
        return {name: rendered[name] for name in features}


def _pixels(width: int, height: int) -> FeatureGrid:
    return FeatureGrid(width, height, (1.0, 1.0))


def _is_about_pixels(grid: FeatureGrid) -> bool:
    """Tell if cells are so small that the weights of the nearest pixel's ray are theirs, too."""
    return min(grid.scale) > _LEAST_CELLS_PER_PIXEL
