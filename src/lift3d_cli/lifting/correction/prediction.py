"""Feature prediction, which the method does without: kept to be compared with, as in the paper's Table 3."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lift3d_cli.geometry.grids import FeatureGrid
from lift3d_cli.lifting.correction.corrector import InconsistencyCorrector
from lift3d_cli.lifting.correction.evidence import Blend

MAX_DIRECTIONS = 32
"""Random projections of a feature that are looked at; distances stay (Johnson-Lindenstrauss)."""


class FeaturePrediction(nn.Module):
    """A head that regresses the target's feature from what the photos show, as GNT and FeatureNeRF do.

    It learns random projections of features, centred and scaled as the source photos' are, and they are read back:
    so it may be asked for any encoder's, but knows the meaning of no channel of one that it was not trained on.

    Args:
        corrector: whose descriptors say what the photos and the rendered target show.
    """

    by_channel = False

    def __init__(self, corrector: InconsistencyCorrector) -> None:
        super().__init__()
        self.__dict__["corrector"] = corrector  # no part of the head's own weights
        inputs = 2 * corrector.log_noise.numel()
        self.head = nn.Sequential(
            nn.Linear(inputs, 128), nn.ELU(), nn.Linear(128, 128), nn.ELU(), nn.Linear(128, MAX_DIRECTIONS)
        )

    def describe(self, image: Tensor, grid: FeatureGrid) -> Tensor:
        """See `Corrector`."""
        return self.corrector.describe(image, grid)

    def correct(self, blend: Blend) -> Tensor:
        """See `Corrector`."""
        mixing, mean, scale = projection(blend.gather.maps)
        predicted = self.predict(blend)[:, : len(mixing)]
        return mean + (predicted * scale) @ torch.linalg.pinv(mixing).T

    def predict(self, blend: Blend) -> Tensor:  # [R, MAX_DIRECTIONS]
        """The projected features, centred and scaled."""
        evidence = blend.evidence()
        return self.head(torch.cat([evidence.blended, evidence.target], 1))


def projection(maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Directions [P, C] for C channels; the maps' mean [C]; the projections' scale [P]."""
    mixing = random_directions(maps.shape[1]).to(maps)
    rows = maps.permute(0, 2, 3, 1).flatten(0, 2)
    return mixing, rows.mean(0), (rows @ mixing.T).std(0).clamp(min=1e-6)


def random_directions(channels: int) -> Tensor:  # [min(channels, MAX_DIRECTIONS), channels]
    """The same directions always; the channels themselves where they are few."""
    if channels <= MAX_DIRECTIONS:
        return torch.eye(channels)
    generator = torch.Generator().manual_seed(channels)
    return torch.randn(MAX_DIRECTIONS, channels, generator=generator) / channels**0.5
