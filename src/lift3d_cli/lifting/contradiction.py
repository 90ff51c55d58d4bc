"""Source views that contradict the others: their poses have drifted, or what they show has moved since.

Blended with the others, one such view spoils the whole picture. On `dorm_room`, a walk that comes back to where it
began, the photos of the second pass cost a view of the first one 10 dB.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from lift3d_cli.lifting.covisible import ComparedMaps, Covisible
from lift3d_cli.lifting.sources import ENOUGH_VIEWS, SourceViews, contrast

# A view contradicts from this many times their own deviation, which counts as no less than this. Measured: photos of
# the same pass 0.10 to 0.18, of a wide baseline 0.15 to 0.28, of a pass with drifted poses 0.22 to 0.37 beside 0.10.
# Drifted views come in numbers, so that where one is found less is asked of the others: one left of four cost 8 dB.
_TIMES, _TIMES_BESIDE_ANOTHER, _LEAST_DEVIATION = 2.0, 1.5, 0.12
# Past the sixth view, one more only helps if it deviates no more than the first three: of 18 left-out photos of six
# scenes, rendered from ten, three gain 0.4 to 1.1 dB, and one loses 0.2.
_MANY_VIEWS, _TIMES_OF_MANY = 6, 1.0


@torch.no_grad()
def contradicting(sources: SourceViews, pairs: Mapping[tuple[int, int], Covisible]) -> list[int]:
    """Find the views that contradict the first three, by the look of their own surfaces' points in those.

    Args:
        sources: V views of one target, the best first.
        pairs: see `covisible_points`; a view that shares no points with the first three does not contradict.

    Returns:
        Their indices, all from 3 on.
    """
    num_views = len(sources.cameras)
    if num_views <= ENOUGH_VIEWS:
        return []
    compared = ComparedMaps.of(sources.images)
    compared = replace(compared, maps=contrast(compared.maps))
    deviations = [_least_deviation(compared, pairs, view) for view in range(num_views)]
    usual = max(_LEAST_DEVIATION, sorted(deviations[:ENOUGH_VIEWS])[ENOUGH_VIEWS // 2])
    times = _TIMES if max(deviations[ENOUGH_VIEWS:]) <= _TIMES * usual else _TIMES_BESIDE_ANOTHER
    limits = [times if view < _MANY_VIEWS else _TIMES_OF_MANY for view in range(num_views)]
    return [view for view in range(ENOUGH_VIEWS, num_views) if deviations[view] > limits[view] * usual]


def _least_deviation(compared: ComparedMaps, pairs: Mapping[tuple[int, int], Covisible], view: int) -> float:
    """Compare a view with the first three that are others; 0 where too few points are in any of them."""
    shared = [(other, pairs[view, other]) for other in range(ENOUGH_VIEWS) if (view, other) in pairs]
    apart = [compared.sample(view, p.uv) - compared.sample(other, p.other_uv) for other, p in shared]
    return min((float(x.abs().mean(0).median()) for x in apart), default=0.0)
