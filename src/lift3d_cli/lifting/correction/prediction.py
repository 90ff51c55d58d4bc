"""Feature prediction, which is not part of the method: a baseline for the comparison in the paper's Table 3."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lift3d_cli.geometry.grids import FeatureGrid
from lift3d_cli.lifting.correction.corrector import InconsistencyCorrector
from lift3d_cli.lifting.correction.evidence import Blend

MAX_DIRECTIONS = 32
"""Number of random projections of a feature; they preserve distances (Johnson-Lindenstrauss)."""


class FeaturePrediction(nn.Module):
    """A head that regresses the target's features from the descriptors, as GNT and FeatureNeRF do.

    It predicts random projections of the features, normalised by the source photos' statistics, and inverts them. So it
    can run on any encoder's features, but knows the meaning of no channel of an encoder that it was not trained on.

    Args:
        corrector: its descriptors are the inputs.
    """

    by_channel = False

    def __init__(self, corrector: InconsistencyCorrector) -> None:
        super().__init__()
        self.__dict__["corrector"] = corrector  # not a submodule: not part of the head's state dict
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
        """Return the normalised projections of the target's features."""
        evidence = blend.evidence()
        return self.head(torch.cat([evidence.blended, evidence.target], 1))


def projection(maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return directions [P, C] for C channels, the maps' mean [C], and the projections' scale [P]."""
    mixing = random_directions(maps.shape[1]).to(maps)
    rows = maps.permute(0, 2, 3, 1).flatten(0, 2)
    return mixing, rows.mean(0), (rows @ mixing.T).std(0).clamp(min=1e-6)


def random_directions(channels: int) -> Tensor:  # [min(channels, MAX_DIRECTIONS), channels]
    """Return fixed random directions; the channels themselves where they are few."""
    if channels <= MAX_DIRECTIONS:
        return torch.eye(channels)
    generator = torch.Generator().manual_seed(channels)
    return torch.randn(MAX_DIRECTIONS, channels, generator=generator) / channels**0.5
