"""Baselines for corrected features: other ways to get them, implemented as correctors."""

from __future__ import annotations

import torch
from torch import Tensor

from lift3d_cli.geometry.grids import FeatureGrid, sample_map
from lift3d_cli.lifting.correction.evidence import Blend, on_maps
from lift3d_cli.models.base import FeatureMap
from lift3d_cli.ops.weighted_gather import WeightedGather

# Enough for the exponentiated gradient to get within a percent of the lowest error.
_ORACLE_STEPS = 100


class Uncorrected:
    """A corrector without descriptors."""

    by_channel = False

    def describe(self, image: Tensor, grid: FeatureGrid) -> Tensor:
        """See `Corrector`."""
        return torch.zeros(1, grid.height, grid.width, device=image.device)


class NearestView(Uncorrected):
    """Takes the feature of the photo whose line of sight is closest to the target's, at the ray's depth."""

    def correct(self, blend: Blend) -> Tensor:
        """See `Corrector`."""
        features, seen = features_by_view(blend)
        angle = torch.where(seen, blend.evidence().angle, 9.0)
        nearest = features.gather(0, angle.argmin(0)[None, :, None].expand(1, -1, features.shape[2]))[0]
        return torch.where(seen.any(0)[:, None], nearest, blend.features)


class BestBlend(Uncorrected):
    """An oracle: the convex combination of the views' features that is closest to the true ones.

    Args:
        truth: the features of the target's own photo.
        is_crossed: blend either half of the channels by the weights that are best for the other half, so that a fit
                by chance gains nothing.
    """

    def __init__(self, truth: FeatureMap, is_crossed: bool = False) -> None:
        self._truth = truth
        self._is_crossed = is_crossed

    def correct(self, blend: Blend) -> Tensor:
        """See `Corrector`."""
        features, seen = features_by_view(blend)
        truth = sample_map(self._truth.data[None].float(), on_maps(blend.rays[None, :, None], [self._truth.grid]))
        error = (features - truth[0, :, :, 0].T) * seen[..., None]
        best = torch.empty_like(blend.features)
        halves = (slice(0, None, 2), slice(1, None, 2)) if self._is_crossed else (slice(None),) * 2
        for channels, suited in (halves, halves[::-1])[: 1 + self._is_crossed]:
            weight = _best_weights(error[..., suited], seen)
            best[:, channels] = torch.einsum("ri,irc->rc", weight, features[..., channels])
        return torch.where(seen.any(0)[:, None], best, blend.features)


def _best_weights(error: Tensor, seen: Tensor) -> Tensor:  # [V, R, C], [V, R] to [R, V]
    """Return the convex weights that minimise the error: exponentiated gradient (Kivinen and Warmuth 1997)."""
    gram = torch.einsum("irc,jrc->rij", error, error)
    gram = gram / gram.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)[:, None, None]
    allowed = seen.T.float()
    weight = allowed / allowed.sum(1, keepdim=True).clamp(min=1)
    for _ in range(_ORACLE_STEPS):
        slope = torch.einsum("rij,rj->ri", gram, weight)
        weight = weight * torch.exp(-slope / slope.abs().amax(1, keepdim=True).clamp(min=1e-9))
        weight = weight / weight.sum(1, keepdim=True).clamp(min=1e-12)
    return weight


def features_by_view(blend: Blend) -> tuple[Tensor, Tensor]:
    """Blend each view's features along the rays: [V, R, C]; and tell where it sees them: [V, R] bool."""
    of_sample = blend.weights.omega.sum(0)
    sees = blend.weights.omega > 0
    part = of_sample * sees
    total = part.sum(2)
    seen = total > 0.05  # with less, the view does not see the ray's surface
    part = part / total.clamp(min=1e-9)[..., None]
    maps, uv = blend.gather.maps, on_maps(blend.weights.uv, blend.cells.grids)
    views = [WeightedGather(maps[i : i + 1])(uv[i : i + 1], part[i : i + 1]) for i in range(len(maps))]
    return torch.stack(views), seen
