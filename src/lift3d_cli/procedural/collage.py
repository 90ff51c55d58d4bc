"""Textures of overlapping shapes: dead leaves, foliage, pebbles, pages of letters, signs."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from lift3d_cli.procedural.patterns import colour, fractal, hsv, integer, number, plane, ramp, uniform

_TEXELS_AT_ONCE = 1 << 20  # texels of all shapes drawn in one batch, which bounds the memory


def dead_leaves(size: int, generator: Generator, foliage: bool = False) -> Tensor:
    """Draw shapes of all sizes that occlude each other: the simplest image with edges and a spectrum like photographs'.

    Args:
        size: S.
        generator: random numbers and device.
        foliage: leaves of green to brown instead of discs and rectangles of any colour.
    """
    count = integer(generator, 150, 400)
    # Sizes follow 1 / r^2 between two limits: details of every size, as in a picture of a cluttered room.
    small, large = (0.02, 0.1) if foliage else (0.015, 0.35)
    radius = 1 / (1 / small - uniform(generator, count) * (1 / small - 1 / large))
    slim = uniform(generator, count, low=0.3, high=0.6) if foliage else uniform(generator, count, low=0.4, high=1.0)
    top = _topmost(size, generator, radius, slim, 1.0 if foliage else 0.5)
    palette = _palette(generator, count, foliage)
    shading = fractal(size, generator, 1.0)[0]
    inner = torch.roll(shading, (size // 3, size // 5), (0, 1))
    contrast = uniform(generator, count, high=0.12)[top]
    return (palette[top].permute(2, 0, 1) * (1 + 0.08 * shading) + contrast * inner).clamp(0, 1)


def pebbles(size: int, generator: Generator) -> Tensor:
    """Draw cells around random points with dark gaps between them, like stones, scales or cracked earth."""
    count = integer(generator, 12, 120)
    points = uniform(generator, count, 2)
    x, y = plane(size, generator)
    gap = torch.full((2, size, size), 9.0, device=generator.device)
    nearest = torch.zeros(size, size, dtype=torch.int64, device=generator.device)
    for index in range(count):
        dx, dy = _wrapped(x - points[index, 0]), _wrapped(y - points[index, 1])
        distance = (dx * dx + dy * dy).sqrt()
        nearest = torch.where(distance < gap[0], index, nearest)
        gap[1] = torch.minimum(gap[1], torch.maximum(gap[0], distance))
        gap[0] = torch.minimum(gap[0], distance)
    inside = ((gap[1] - gap[0]) * count**0.5 * number(generator, 2, 8)).clamp(0, 1)
    shade = uniform(generator, count)[nearest] * 0.7 + 0.15 * fractal(size, generator, 0.9)[0] + 0.15
    stones = ramp(shade, [colour(generator, 0.4) for _ in range(3)])
    return (stones * (0.25 + 0.75 * inside)).clamp(0, 1)


def letters(size: int, generator: Generator) -> Tensor:
    """Draw a page or a label: rows of characters made of a few strokes between the points of a 3 x 4 lattice."""
    rows = integer(generator, 3, 13)
    x, y = plane(size, generator)
    cell = ((y * rows).long() * rows + (x * rows).long()).clamp(max=rows * rows - 1)
    ends = uniform(generator, rows * rows, 4, 2, 2)
    lattice = torch.tensor([3.0, 4.0], device=generator.device)
    ends = (ends * lattice).floor().minimum(lattice - 1) / (lattice - 1) * torch.tensor([0.6, 0.7]).to(ends) + 0.16
    at = torch.stack([(x * rows).remainder(1), (y * rows).remainder(1)], -1)
    away = torch.full_like(x, 9.0)
    for stroke in range(4):
        a, b = ends[cell, stroke, 0], ends[cell, stroke, 1]
        ab, ap = b - a, at - a
        along = ((ap * ab).sum(-1) / (ab * ab).sum(-1).clamp_min(1e-6)).clamp(0, 1)
        away = torch.minimum(away, (ap - along[..., None] * ab).norm(dim=-1))
    written = (uniform(generator, rows * rows) > 0.2)[cell]
    ink = ((number(generator, 0.05, 0.1) - away) * size / rows + 0.5).clamp(0, 1) * written
    paper = ramp(0.5 + 0.15 * fractal(size, generator, 1.2)[0], [colour(generator, 0.3), colour(generator, 0.3)])
    return torch.lerp(paper, colour(generator, 0.8)[:, None, None].expand_as(paper), ink).clamp(0, 1)


def sign(size: int, generator: Generator) -> Tensor:
    """Draw a poster or a logo: a few large flat shapes in strong colours."""
    x, y = plane(size, generator)
    picture = colour(generator, 0.75)[:, None, None].expand(3, size, size)
    for _ in range(integer(generator, 2, 7)):
        cx, cy, r = number(generator), number(generator), number(generator, 0.08, 0.35)
        turn = number(generator, 0, math.pi)
        dx, dy = _wrapped(x - cx), _wrapped(y - cy)
        u, v = math.cos(turn) * dx + math.sin(turn) * dy, math.cos(turn) * dy - math.sin(turn) * dx
        sides = integer(generator, 3, 7)
        angle = torch.atan2(v, u)
        polygon = (u * u + v * v).sqrt() * torch.cos(
            (angle + math.pi / sides).remainder(2 * math.pi / sides) - math.pi / sides
        )
        shapes = (
            r - (u * u + v * v).sqrt(),
            0.25 * r - ((u * u + v * v).sqrt() - r).abs(),
            r * 0.8 - polygon,
            r * (0.75 + 0.25 * torch.cos(sides * angle)) - (u * u + v * v).sqrt(),
            torch.minimum(r - u.abs(), 0.3 * r - v.abs()),
        )
        inside = (shapes[integer(generator, 0, len(shapes))] * size + 0.5).clamp(0, 1)
        picture = torch.lerp(picture, colour(generator, 0.75)[:, None, None].expand_as(picture), inside)
    return (picture * (1 + 0.03 * fractal(size, generator, 1.0))).clamp(0, 1)


def _topmost(size: int, generator: Generator, radius: Tensor, slim: Tensor, round_share: float) -> Tensor:
    """Return the index of the topmost shape at each texel, [S, S] int64; shape 0 is everywhere below."""
    count, device = len(radius), generator.device
    centre, turn = uniform(generator, count, 2), uniform(generator, count, high=math.pi)
    is_round = uniform(generator, count) < round_share
    reach = radius * torch.where(is_round, 1.0, 2**0.5) * size + 1
    top = torch.zeros(size * size, dtype=torch.int64, device=device)
    smaller = 0
    for window in (size // 16, size // 4, size):  # each shape is drawn in the smallest window that holds it
        chosen = ((2 * reach > smaller) & ((2 * reach <= window) | (window == size))).nonzero()[:, 0]
        smaller = window
        for part in chosen.split(max(1, _TEXELS_AT_ONCE // window**2)):
            corner = (centre[part] * size).floor().long() - window // 2
            at = corner[:, :, None] + torch.arange(window, device=device)  # [n, 2, window] columns and rows
            offset = (at + 0.5) / size - centre[part][:, :, None]
            dx, dy = offset[:, 0, None, :], offset[:, 1, :, None]
            c, s, r = (values[part, None, None] for values in (turn.cos(), turn.sin(), radius))
            u, v = (c * dx + s * dy) / r, (c * dy - s * dx) / (r * slim[part, None, None])
            inside = torch.where(is_round[part, None, None], u * u + v * v < 1, (u.abs() < 1) & (v.abs() < 1))
            at = at.remainder(size)
            texel = at[:, 1, :, None] * size + at[:, 0, None, :]
            index = part[:, None, None].expand_as(texel)
            top.scatter_reduce_(0, texel[inside], index[inside], "amax")
    return top.reshape(size, size)


def _palette(generator: Generator, count: int, foliage: bool) -> Tensor:
    """Choose colours [count, 3] of the shapes."""
    if not foliage:
        few = torch.stack([colour(generator, 0.7) for _ in range(24)])
        which = torch.randint(0, len(few), (count,), generator=generator, device=generator.device)
        return few[which] * uniform(generator, count, 1, low=0.6, high=1.1)
    young, old = number(generator, 0.2, 0.3), number(generator, 0.24, 0.36)
    ends = torch.stack([hsv(young, 0.65, 0.75, generator.device), hsv(old, 0.7, 0.25, generator.device)])
    return torch.lerp(ends[0], ends[1], uniform(generator, count, 1)) * uniform(generator, count, 1, low=0.7, high=1.2)


def _wrapped(difference: Tensor) -> Tensor:
    """Wrap a difference of positions in repeats to the shortest one: in [-0.5, 0.5)."""
    return (difference + 0.5).remainder(1) - 0.5
