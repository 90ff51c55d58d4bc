"""Exposures that differ from photo to photo: brought to a common one, blended, and the target given one of its own.

Cameras expose, balance and tone-map each photo on its own. Blended as they are, such photos meet in seams: on a wall of
`dorm_room`, 18 dB instead of 28. Between two photos, the log-odds of a surface's brightness, here its *tone*, differ by
much the same, whatever the brightness: a camera's response is S-shaped in log exposure (Grossberg and Nayar 2003). So a
photo's exposure is a smooth curve over tones, one for each colour.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from lift3d_cli.lifting.covisible import ComparedMaps, Covisible
from lift3d_cli.lifting.sources import SourceViews, box

NUM_TONES = 5
"""K, tones at which an exposure is known; piecewise linear in between."""
# The outer ones; black and white are at 4.6.
_DARKEST, _BRIGHTEST = -4.0, 4.0
# Keeps the log-odds of black and white finite; colours as near to either as this times two are not compared.
_LEAST = 0.01
# Points of two photos that are compared.
_POINTS = 96
# Deviation that the points' tones have anyway, of an exposure from the common one, and from one tone to the next.
_NOISE, _PRIOR, _STEP = 0.1, 1.0, 0.3
# The fewest photos that tell anything of how a camera exposes.
_TELLING = 3
# Sum of squared deviations of brightness that is no reason for another exposure.
_EXPOSED_ANYWAY = 0.02
# A pair of photos counts as much as this many points without error.
_WORTH = 30
_ITERATIONS = 4
# Entries of a curve over colours, between which it is linear.
_CURVE = 256


@torch.no_grad()
def harmonized(sources: SourceViews, pairs: Mapping[tuple[int, int], Covisible]) -> SourceViews:
    """Bring the photos to a common exposure, by the points of their surfaces that they share.

    Args:
        sources: V views of one target.
        pairs: see `covisible_points`; those of views without a valid pixel do not count.

    Returns:
        The views with other images and their `exposures`; as they are where there are no pairs.
    """
    is_used = sources.valid.flatten(1).any(1).tolist()
    pairs = {(i, j): points for (i, j), points in pairs.items() if is_used[i] and is_used[j]}
    if not pairs:
        return sources
    exposures = _solve(_tones_of(sources, pairs), torch.tensor(list(pairs)), len(sources.cameras))
    exposures = exposures.to(sources.images)
    return replace(sources, images=unexposed(sources.images, exposures), exposures=exposures)


def unexposed(images: Tensor, exposures: Tensor) -> Tensor:
    """Bring photos [V, 3, H, W] whose exposures [V, 3, K] are known to the common one."""
    own = _tone(torch.linspace(0, 1, _CURVE).to(exposures))
    common = own.expand(*exposures.shape[:2], -1)
    for _ in range(_ITERATIONS):  # towards common + exposure(common) = own
        common = own - _at(exposures, common)
    return _through(images, _color(common))


def exposed(image: Tensor, exposure: Tensor) -> Tensor:
    """Give a picture [3, H, W] of the common exposure another one, [3, K]."""
    tones = _tone(torch.linspace(0, 1, _CURVE).to(image))
    return _through(image, _color(tones + _at(exposure, tones.expand(3, -1))))


def likely_exposure(image: Tensor, sources: SourceViews, part: Tensor) -> Tensor:
    """Guess the exposure that a camera would have given a picture: the mean of its photos', and more if it is darker.

    Cameras that expose by themselves give a darker place more light. By how much is the slope of the photos' exposures
    over their brightness, times its correlation, adjusted for their number: photos that show no such thing, or only
    two, say nothing. Over 62 left-out photos of 19 scenes, the error is 0.087 in tones with the mean alone, 0.079 so.

    Args:
        image: [3, H, W] of the common exposure.
        sources: V views with exposures.
        part: [V] of each in the picture; they sum to 1.

    Returns:
        [3, K].
    """
    mean = (part[:, None, None] * sources.exposures).sum(0)
    is_used = sources.valid.flatten(1).any(1)
    count = int(is_used.sum())
    if count < _TELLING:
        return mean
    brightness = torch.stack([_brightness(*view) for view in zip(sources.images, sources.valid[:, 0], strict=True)])
    brightness, exposure, part = brightness[is_used], sources.exposures.mean((1, 2))[is_used], part[is_used]
    across, along = exposure - exposure.mean(), brightness - brightness.mean()
    slope = (across * along).sum() / (along.square().sum() + _EXPOSED_ANYWAY)
    explained = torch.cosine_similarity(across, along, 0).square()
    correlation = (1 - (1 - explained) * (count - 1) / (count - 2)).clamp(min=0).sqrt()
    darker = (part * brightness).sum() - _brightness(image, torch.ones_like(image[0]))
    return mean - slope.clamp(-1, 0) * correlation * darker


def _brightness(image: Tensor, valid: Tensor) -> Tensor:
    """Return the mean tone of the valid pixels, of every fourth row and column."""
    image, valid = image[:, ::4, ::4], valid[::4, ::4]
    return (_tone(image.clamp(0, 1)).mean(0) * valid).sum() / valid.sum().clamp(min=1)


def shifted(images: Tensor, tones: Tensor) -> Tensor:
    """Move the tones of pictures [B, 3, H, W] by [B, 3]."""
    return _color(_tone(images) + tones[..., None, None])


def tone_difference(images: Tensor, others: Tensor, counts: Tensor) -> Tensor:  # [B, 3]
    """Find the median by which tones of pictures [B, 3, H, W] are above those of others, where [B, H, W] is True."""
    difference = _tone(images.clamp(0, 1)) - _tone(others.clamp(0, 1))
    return _median(difference.flatten(-2), counts[:, None].expand_as(difference).flatten(-2))[..., 0]


def _tone(color: Tensor) -> Tensor:
    """Return the log-odds of colours in [0, 1]."""
    return ((color + _LEAST) / (1 + _LEAST - color)).log()


def _color(tone: Tensor) -> Tensor:
    """Return the colours of tones; the inverse of `_tone`."""
    return (tone.sigmoid() * (1 + 2 * _LEAST) - _LEAST).clamp(0, 1)


def _hats(tones: Tensor) -> Tensor:  # [...] to [..., K]
    """Return the weights of an exposure's values at tones."""
    position = (tones.clamp(_DARKEST, _BRIGHTEST) - _DARKEST) * ((NUM_TONES - 1) / (_BRIGHTEST - _DARKEST))
    return (1 - (position[..., None] - torch.arange(NUM_TONES).to(tones)).abs()).clamp(min=0)


def _at(exposures: Tensor, tones: Tensor) -> Tensor:
    """Return the values [..., N] of exposures [..., K] at tones [..., N] of the common exposure."""
    return (_hats(tones) * exposures[..., None, :]).sum(-1)


def _through(images: Tensor, curves: Tensor) -> Tensor:
    """Put images [..., H, W] in [0, 1] through curves [..., _CURVE]."""
    position = images.flatten(-2) * (_CURVE - 1)
    below = position.long().clamp(0, _CURVE - 2)
    low, high = curves.gather(-1, below), curves.gather(-1, below + 1)
    return torch.lerp(low, high, position - below).reshape(images.shape)


def _tones_of(sources: SourceViews, pairs: Mapping[tuple[int, int], Covisible]) -> Tensor:  # [2, 3, Q, _POINTS]
    """Sample the tones of as many points of each pair of views, in the one and in the other."""
    compared = ComparedMaps.of(sources.images)
    compared = replace(compared, maps=box(compared.maps))
    tones = []
    for (view, other), points in pairs.items():
        chosen = torch.linspace(0, len(points.uv) - 1, _POINTS).long().to(points.uv.device)
        both = compared.sample(view, points.uv[chosen]), compared.sample(other, points.other_uv[chosen])
        tones.append(_tone(torch.stack(both)))
    return torch.stack(tones, 2).cpu()


def _solve(tones: Tensor, pairs: Tensor, num_views: int) -> Tensor:
    """Find the exposures by which the tones of all pairs' points differ least: least squares, robust by reweighting.

    Args:
        tones: [2, 3, Q, N] of the same points in both views of each pair.
        pairs: [Q, 2] the views.
        num_views: V.

    Returns:
        [V, 3, K].
    """
    (here, there), (one, other) = tones.double(), pairs.T
    limit = _tone(torch.tensor(1 - 2 * _LEAST))
    is_usable = (here.abs() < limit) & (there.abs() < limit)
    exposures = torch.zeros(3, num_views, NUM_TONES, dtype=torch.float64)
    # At first each pair differs by its median, whatever the tone.
    difference, weight = _median(here - there, is_usable).expand_as(here), is_usable.double()
    for _ in range(_ITERATIONS):
        common = (here + there) / 2
        for _ in range(2):  # towards what the tones are in the common exposure
            common = (here + there - _at(exposures[:, one], common) - _at(exposures[:, other], common)) / 2
        hats = _hats(common)
        exposures = _least_squares(hats, difference, weight, pairs, num_views)
        difference = here - there
        error = difference - (hats * (exposures[:, one] - exposures[:, other])[:, :, None]).sum(-1)
        scale = _median(error.abs(), is_usable).clamp(min=_NOISE)
        weight = is_usable / (1 + (error / scale).square()).square()  # Geman and McClure
        weight = weight / scale.square() / (1 + weight.sum(-1, keepdim=True) / _WORTH)
    return exposures.transpose(0, 1)


def _median(values: Tensor, is_usable: Tensor) -> Tensor:  # [..., N] to [..., 1]
    """Return the median of the usable values; 0 where there are none."""
    return torch.where(is_usable, values, torch.nan).nanmedian(-1, keepdim=True)[0].nan_to_num()


def _least_squares(hats: Tensor, difference: Tensor, weight: Tensor, pairs: Tensor, num_views: int) -> Tensor:
    """Solve for the exposures [3, V, K] whose differences are those of the points: [3, Q, N, K] and twice [3, Q, N]."""
    one, other = pairs.T
    change = torch.eye(NUM_TONES, dtype=torch.float64).diff(dim=0)
    prior = torch.eye(NUM_TONES) / _PRIOR**2 + change.T @ change / _STEP**2
    A = torch.einsum("c,vw,kl->cvwkl", torch.ones(3).double(), torch.eye(num_views).double(), prior)
    products = torch.einsum("cqn,cqnk,cqnl->cqkl", weight, hats, hats)
    channels = torch.arange(3)[:, None]
    for rows, columns, sign in ((one, one, 1), (other, other, 1), (one, other, -1), (other, one, -1)):
        A.index_put_((channels, rows, columns), sign * products, accumulate=True)
    pull = torch.einsum("cqn,cqnk->cqk", weight * difference, hats)
    b = torch.zeros(3, num_views, NUM_TONES, dtype=torch.float64).index_add_(1, one, pull).index_add_(1, other, -pull)
    A = A.transpose(2, 3).reshape(3, num_views * NUM_TONES, -1)
    return torch.linalg.solve(A, b.flatten(1)).reshape(b.shape)
