"""Procedural textures: noise with the spectrum of photographs, wood, stone, tiles, leaves, letters.

Each function returns one picture [3, S, S], sRGB in [0, 1], that tiles without a seam. Random numbers come from the
generator given, on its device.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor


def uniform(generator: Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Draw uniform random numbers of this shape on the generator's device."""
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)


def number(generator: Generator, low: float = 0.0, high: float = 1.0) -> float:
    """Draw one uniform random number."""
    return float(uniform(generator, 1, low=low, high=high))


def integer(generator: Generator, low: int, high: int) -> int:
    """Draw one of low, ..., high - 1."""
    return int(torch.randint(low, high, (1,), generator=generator, device=generator.device))


def fractal(
    size: int, generator: Generator, slope: float = 1.1, stretch: tuple[float, float] = (1.0, 1.0), channels: int = 1
) -> Tensor:
    """Make noise [channels, S, S] with amplitude spectrum 1 / f^slope (photographs: about 1), mean 0, deviation 1.

    `stretch` (x, y) above 1 stretches the grain along that axis.
    """
    device = generator.device
    fy = torch.fft.fftfreq(size, 1 / size, device=device)[:, None] * stretch[1]
    fx = torch.fft.rfftfreq(size, 1 / size, device=device)[None] * stretch[0]
    amplitude = (fx * fx + fy * fy).clamp_min(1.0) ** (-slope / 2)
    amplitude[0, 0] = 0
    white = torch.randn(channels, size, size, generator=generator, device=device)
    field = torch.fft.irfft2(torch.fft.rfft2(white) * amplitude, s=(size, size))
    return field / field.std((1, 2), keepdim=True)


def plane(size: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return x and y [S, S] of the texel centres, in repeats."""
    at = (torch.arange(size, device=generator.device) + 0.5) / size
    y, x = torch.meshgrid(at, at, indexing="ij")
    return x, y


def colour(generator: Generator, saturation: float = 0.5) -> Tensor:
    """Draw a random colour [3], `saturation` at most: mostly hues of things (earth, leaf, sky)."""
    family = integer(generator, 0, 4)
    hue = [number(generator, 0.02, 0.13), number(generator, 0.18, 0.38), number(generator, 0.52, 0.64)]
    hue = [*hue, number(generator)][family]
    # Strong green is rare outdoors (leaves are olive), and strong colours are rare altogether.
    s, v = saturation * number(generator) * (0.7 if 0.2 < hue < 0.5 else 1.0), number(generator, 0.2, 0.95)
    return hsv(hue, s, v, generator.device)


def hsv(hue: float, saturation: float, value: float, device: torch.device) -> Tensor:
    """Convert hue, saturation and value in [0, 1] to sRGB [3]."""
    k = (torch.tensor([5.0, 3.0, 1.0], device=device) + hue * 6).remainder(6)
    return value * (1 - saturation * torch.minimum(k, 4 - k).clamp(0, 1))


def ramp(field: Tensor, colours: list[Tensor]) -> Tensor:
    """Map a field [S, S] in [0, 1] to colours [3, S, S] along a list of colours."""
    position = field.clamp(0, 1) * (len(colours) - 1)
    low = position.floor().long().clamp(max=len(colours) - 2)
    table = torch.stack(colours)
    return torch.lerp(table[low], table[low + 1], (position - low)[..., None]).permute(2, 0, 1)


def fractal_colour(size: int, generator: Generator) -> Tensor:
    """Make clouds of two or three colours with a little coloured noise, like plaster, earth, cloth or sky."""
    slope = number(generator, 0.8, 1.5)
    light = fractal(size, generator, slope)[0]
    chroma = fractal(size, generator, slope + 0.2, channels=3)
    base = ramp(0.5 + light / 4, [colour(generator, 0.6) for _ in range(integer(generator, 2, 4))])
    return (base + number(generator, 0.02, 0.1) * light + 0.025 * chroma).clamp(0, 1)


def grain(size: int, generator: Generator) -> Tensor:
    """Make wood: growth rings cut lengthwise, bent by slow noise, with fibres along x."""
    _, y = plane(size, generator)
    bend = fractal(size, generator, 2.2, (3.0, 1.0))[0]
    fibre = fractal(size, generator, 0.9, (25.0, 1.0))[0]
    rings = (y * integer(generator, 3, 9) + number(generator, 0.1, 0.5) * bend).remainder(1)
    rings = rings**2 * 0.6 + 0.15 * fibre + 0.08 * bend
    hue, value = number(generator, 0.045, 0.1), number(generator, 0.45, 0.85)
    light = hsv(hue, number(generator, 0.3, 0.55), value, generator.device)
    dark = hsv(hue - 0.015, 0.65, value * number(generator, 0.45, 0.7), generator.device)
    return ramp(0.15 + 0.85 * rings, [light, dark]).clamp(0, 1)


def marble(size: int, generator: Generator) -> Tensor:
    """Make marble veins: a sine over a plane warped by noise."""
    x, y = plane(size, generator)
    warp = fractal(size, generator, 1.4)[0]
    fx, fy = integer(generator, 0, 3), integer(generator, 1, 4)
    veins = torch.sin(2 * math.pi * (fx * x + fy * y + number(generator, 0.2, 0.6) * warp)).abs()
    field = veins ** number(generator, 0.4, 1.5) + 0.1 * fractal(size, generator, 0.9)[0]
    return ramp(field, [colour(generator, 0.4), colour(generator, 0.3)]).clamp(0, 1)


def tiles(size: int, generator: Generator) -> Tensor:
    """Make checks, tiles or bricks: cells of one or several shades, with or without joints, slightly soiled."""
    x, y = plane(size, generator)
    rows = integer(generator, 2, 9)
    columns = max(1, round(rows / (1 if integer(generator, 0, 2) else 2)))
    row = (y * rows).floor()
    shifted = x * columns + (0.5 * row.remainder(2) if rows % 2 == 0 and integer(generator, 0, 2) else 0)
    cell = (shifted.floor().remainder(columns) + columns * row).long()
    if integer(generator, 0, 2):  # two alternating colours
        shade = ((shifted.floor().remainder(columns) + row).remainder(2)).float()
    else:
        shade = uniform(generator, rows * columns)[cell]
    picture = ramp(shade, [colour(generator, 0.7) for _ in range(2)])
    to_joint = torch.minimum(_to_edge(shifted) / columns, _to_edge(y * rows) / rows)
    joint = ((number(generator, -0.01, 0.015) - to_joint) * size + 0.5).clamp(0, 1)
    picture = torch.lerp(picture, colour(generator, 0.2)[:, None, None].expand_as(picture), joint)
    return (picture + 0.04 * fractal(size, generator, 1.0)).clamp(0, 1)


def stripes(size: int, generator: Generator) -> Tensor:
    """Make stripes or plaid of uneven widths, straight or waved by noise, like cloth."""
    x, y = plane(size, generator)
    wave = number(generator, 0, 0.05) * integer(generator, 0, 2) * fractal(size, generator, 2.0)[0]
    palette = torch.stack([colour(generator, 0.8) for _ in range(integer(generator, 2, 5))])

    def band(at: Tensor) -> Tensor:
        count = integer(generator, 6, 40)
        order = torch.randint(0, len(palette), (count,), generator=generator, device=generator.device)
        position = at.remainder(1) * count
        return palette[order[position.long().clamp(max=count - 1)]].permute(2, 0, 1)

    picture = band(x + wave)
    if integer(generator, 0, 2):
        picture = 0.5 * picture + 0.5 * band(y + wave)
    thread = 1 + 0.08 * torch.sin(2 * math.pi * size / 4 * (x + y))
    return (picture * thread + 0.03 * fractal(size, generator, 0.8)).clamp(0, 1)


def speckle(size: int, generator: Generator) -> Tensor:
    """Make grains on a ground, like granite, sand or terrazzo: noise of a middle frequency, cut at levels."""
    ground = ramp(0.5 + fractal(size, generator, 1.3)[0] / 5, [colour(generator, 0.4), colour(generator, 0.4)])
    for _ in range(integer(generator, 1, 4)):
        field = fractal(size, generator, number(generator, 0.2, 0.9))[0]
        mask = ((field - number(generator, 0.8, 1.8)) * 4).clamp(0, 1)
        ground = torch.lerp(ground, colour(generator, 0.5)[:, None, None].expand_as(ground), mask)
    return ground.clamp(0, 1)


def panorama(size: int, generator: Generator) -> Tensor:
    """Make a sky above a horizon of hills or roofs, to wrap around a scene: v = 0.5 is the horizon."""
    height = 1 - plane(size, generator)[1]
    clouds = (fractal(size, generator, 1.3, (2.0, 1.0))[0] * 0.5 + number(generator, -0.3, 0.6)).clamp(0, 1)
    blue = hsv(
        number(generator, 0.55, 0.62), number(generator, 0.2, 0.6), number(generator, 0.7, 0.95), generator.device
    )
    pale = hsv(0.58, 0.1, 0.95, generator.device)
    sky = ramp(((height - 0.5) * 3).clamp(0, 1), [pale, blue])
    sky = torch.lerp(sky, torch.full_like(sky, 0.95), clouds * 0.8)
    for layer in range(integer(generator, 1, 4)):
        ridge = (
            fractal(size, generator, number(generator, 1.2, 2.0))[0][0] * 0.03 * (3 - layer) / 2 + 0.53 - 0.02 * layer
        )
        inside = ((ridge[None] - height) * size + 0.5).clamp(0, 1)
        land = ramp(0.5 + fractal(size, generator, 0.8)[0] / 4, [colour(generator, 0.5), colour(generator, 0.5)])
        sky = torch.lerp(sky, land * 0.7 + 0.1 * (1 - layer / 3), inside)
    return sky.clamp(0, 1)


def faded(texture: Tensor, generator: Generator) -> Tensor:
    """Take nearly all that there is to see out of a texture, and often its colour, as of a painted wall."""
    mean = texture.mean((1, 2), keepdim=True)
    paint = mean
    if number(generator) < 0.5:
        white = number(generator) * uniform(generator, 3, 1, 1, low=0.8)
        paint = 0.4 * mean + 0.6 * white
    return (paint + 0.15 * number(generator) ** 2 * (texture - mean)).clamp(0, 1)


def _to_edge(position: Tensor) -> Tensor:
    """Return the distance to the nearest whole number."""
    fraction = position.remainder(1)
    return torch.minimum(fraction, 1 - fraction)
