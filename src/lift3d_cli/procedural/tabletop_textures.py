"""The textures of the example scene: the patterns of the random scenes in chosen colours, and a few more."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Generator, Tensor

from lift3d_cli.procedural import collage
from lift3d_cli.procedural.patterns import fractal, hsv, plane, ramp, uniform

SIZE = 512


def tabletop_textures(generator: Generator) -> dict[str, Tensor]:
    """Make named pictures [3, SIZE, SIZE] sRGB in [0, 1]."""
    device = generator.device

    def shade(hue: float, saturation: float, value: float) -> Tensor:
        return hsv(hue, saturation, value, device)

    pictures = {
        "oak": _wood(generator, shade(0.085, 0.42, 0.78), shade(0.07, 0.58, 0.5), 5),
        "pale wood": _wood(generator, shade(0.1, 0.28, 0.9), shade(0.085, 0.42, 0.72), 4),
        "dark wood": _wood(generator, shade(0.06, 0.5, 0.45), shade(0.05, 0.6, 0.25), 6),
        "bark": _bark(generator),
        "grass": _grass(generator),
        "leaves": _leaves(generator, 0.24, 0.29, 0.62),
        "dark leaves": _leaves(generator, 0.29, 0.36, 0.4),
        "needles": _needles(generator),
        "brick": _masonry(generator, 12, 5, [shade(0.03, 0.58, 0.62), shade(0.045, 0.5, 0.45)], shade(0.1, 0.12, 0.72)),
        "roof": _masonry(generator, 14, 9, [shade(0.035, 0.56, 0.56), shade(0.05, 0.42, 0.36)], shade(0.04, 0.5, 0.18)),
        "paving": _masonry(generator, 6, 5, [shade(0.09, 0.14, 0.68), shade(0.1, 0.08, 0.5)], shade(0.1, 0.15, 0.34)),
        "plaster": _cloudy(generator, [shade(0.11, 0.16, 0.9), shade(0.1, 0.2, 0.78)], 1.0),
        "stone": _cloudy(generator, [shade(0.1, 0.1, 0.68), shade(0.08, 0.12, 0.4), shade(0.12, 0.14, 0.6)], 0.8),
        "clay": _cloudy(generator, [shade(0.045, 0.6, 0.68), shade(0.05, 0.55, 0.52)], 1.1),
        "soil": _cloudy(generator, [shade(0.07, 0.5, 0.3), shade(0.07, 0.5, 0.14)], 0.6),
        "apple": _fruit(generator, shade(0.0, 0.82, 0.66), shade(0.11, 0.7, 0.8)),
        "orange": _cloudy(generator, [shade(0.075, 0.88, 0.92), shade(0.065, 0.9, 0.8)], 0.5),
        "water": _cloudy(generator, [shade(0.54, 0.4, 0.5), shade(0.5, 0.35, 0.38)], 1.6),
        "cloth": _plaid(generator, shade(0.6, 0.5, 0.52), shade(0.58, 0.16, 0.9)),
        "ball": _bands([shade(0.0, 0.7, 0.72), shade(0.12, 0.1, 0.93), shade(0.58, 0.65, 0.6), shade(0.13, 0.65, 0.9)]),
        "pages": _bands([shade(0.11, 0.12, 0.92), shade(0.11, 0.2, 0.78)] * 24),
        "sky": _landscape(generator),
    }
    inks = {"L": (0.0, 0.7, 0.6), "I": (0.58, 0.7, 0.5), "F": (0.3, 0.6, 0.42), "T": (0.09, 0.85, 0.75)}
    for letter, ink in (inks | {"3": (0.58, 0.7, 0.5), "D": (0.0, 0.7, 0.6)}).items():
        pictures["letter " + letter] = _letter(letter, pictures["pale wood"], shade(*ink))
    return {name: picture.clamp(0, 1) for name, picture in pictures.items()}


def _cloudy(generator: Generator, colours: list[Tensor], slope: float) -> Tensor:
    field = fractal(SIZE, generator, slope)[0]
    return ramp(0.5 + field / 5, colours) * (1 + 0.04 * fractal(SIZE, generator, 0.7))


def _wood(generator: Generator, light: Tensor, dark: Tensor, rings: int) -> Tensor:
    _, y = plane(SIZE, generator)
    bend = fractal(SIZE, generator, 2.4, (3.0, 1.0))[0]
    fibre = fractal(SIZE, generator, 0.9, (30.0, 1.0))[0]
    ring = (y * rings + 0.25 * bend).remainder(1) ** 2
    return ramp(0.1 + 0.55 * ring + 0.14 * fibre + 0.05 * bend, [light, dark])


def _bark(generator: Generator) -> Tensor:
    field = fractal(SIZE, generator, 1.0, (1.0, 5.0))[0]
    return ramp(0.5 + field / 4, [hsv(0.07, 0.45, 0.18, field.device), hsv(0.08, 0.35, 0.48, field.device)])


def _grass(generator: Generator) -> Tensor:
    field = fractal(SIZE, generator, 0.75)[0]
    patches = fractal(SIZE, generator, 1.8)[0]
    greens = [hsv(h, s, v, field.device) for h, s, v in ((0.27, 0.7, 0.18), (0.24, 0.62, 0.42), (0.2, 0.55, 0.6))]
    return ramp(0.5 + field / 5 + 0.08 * patches, greens)


def _leaves(generator: Generator, first: float, second: float, value: float) -> Tensor:
    picture = collage.dead_leaves(SIZE, generator, foliage=True)
    # Keep the shapes, and colour them green: from deep shadow to sunlit.
    light = picture.mean(0)
    light = (light - light.mean()) / light.std()
    device = light.device
    greens = [hsv(second, 0.72, 0.3 * value, device), hsv(second, 0.62, 0.7 * value, device)]
    return ramp(
        0.45 + light / 4.5, [*greens, hsv(first, 0.58, value, device), hsv(first - 0.04, 0.5, 1.25 * value, device)]
    )


def _needles(generator: Generator) -> Tensor:
    field = fractal(SIZE, generator, 0.7, (1.0, 4.0))[0]
    return ramp(0.5 + field / 4, [hsv(0.38, 0.6, 0.12, field.device), hsv(0.34, 0.5, 0.42, field.device)])


def _masonry(generator: Generator, rows: int, columns: int, colours: list[Tensor], joint: Tensor) -> Tensor:
    """Draw rows of stones, each row shifted by half a stone, every stone in a shade of its own."""
    x, y = plane(SIZE, generator)
    row = (y * rows).long()
    along = x * columns + 0.5 * row.remainder(2)
    stone = row * columns + along.long().remainder(columns)
    picture = ramp(uniform(generator, rows * columns)[stone] * 0.8 + 0.1 * fractal(SIZE, generator, 0.9)[0], colours)
    edge_x = (0.5 - (along.remainder(1) - 0.5).abs()) / columns
    edge_y = (0.5 - ((y * rows).remainder(1) - 0.5).abs()) / rows
    wobble = 0.0015 * fractal(SIZE, generator, 1.0)[0]
    mortar = ((0.004 - torch.minimum(edge_x, edge_y) + wobble) * SIZE + 0.5).clamp(0, 1)
    return torch.lerp(picture, joint[:, None, None].expand_as(picture), mortar)


def _fruit(generator: Generator, red: Tensor, yellow: Tensor) -> Tensor:
    streaks = fractal(SIZE, generator, 1.1, (1.0, 6.0))[0]
    cheeks = fractal(SIZE, generator, 2.2)[0]
    return ramp(0.22 + 0.1 * streaks + 0.12 * cheeks, [red, yellow])


def _plaid(generator: Generator, dark: Tensor, light: Tensor) -> Tensor:
    x, y = plane(SIZE, generator)
    bands = ((x * 8).remainder(1) < 0.35).float() + ((y * 8).remainder(1) < 0.35).float()
    weave = 0.05 * torch.sin(2 * np.pi * 128 * (x + y)) + 0.03 * fractal(SIZE, generator, 0.8)[0]
    return ramp(bands / 2 * 0.85 + weave, [light, dark])


def _bands(colours: list[Tensor]) -> Tensor:
    index = torch.arange(SIZE, device=colours[0].device) * len(colours) // SIZE
    return torch.stack(colours)[index].T[:, None, :].expand(3, SIZE, SIZE).clone()


def _letter(letter: str, wood: Tensor, ink: Tensor) -> Tensor:
    """Draw a wooden toy block's side: a letter in a frame."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    cv2.rectangle(mask, (38, 38), (SIZE - 39, SIZE - 39), 255, 18, cv2.LINE_AA)
    (width, height), _ = cv2.getTextSize(letter, cv2.FONT_HERSHEY_DUPLEX, 11.0, 46)
    cv2.putText(
        mask, letter, ((SIZE - width) // 2, (SIZE + height) // 2), cv2.FONT_HERSHEY_DUPLEX, 11.0, 255, 46, cv2.LINE_AA
    )
    alpha = torch.from_numpy(mask).to(wood) / 255
    return torch.lerp(wood, ink[:, None, None] * (0.85 + 0.15 * wood), alpha)


def _landscape(generator: Generator) -> Tensor:
    """Draw a calm summer sky over wooded hills; the horizon is at half the height."""
    _, y = plane(SIZE, generator)
    height, device = 1 - y, generator.device
    sky = ramp(((height - 0.5) * 2).clamp(0, 1), [hsv(0.57, 0.18, 0.93, device), hsv(0.585, 0.55, 0.78, device)])
    cloud = (0.5 * fractal(SIZE, generator, 1.5, (2.5, 1.0))[0] - 0.1).clamp(0, 1) * ((height - 0.5) * 6).clamp(0, 1)
    sky = torch.lerp(sky, torch.full_like(sky, 0.96), cloud * 0.75)
    for rise, steep, hue, haze in ((0.06, 1.9, 0.45, 0.6), (0.034, 1.6, 0.36, 0.35), (0.016, 1.2, 0.3, 0.12)):
        line = fractal(SIZE, generator, steep)[0][0]
        ridge = 0.5 + rise + rise * 0.3 * (line - line.mean()) / line.std()
        inside = ((ridge[None] - height) * SIZE + 0.5).clamp(0, 1)
        land = ramp(
            0.5 + fractal(SIZE, generator, 0.8)[0] / 4.5,
            [hsv(hue, 0.6, 0.2, device), hsv(hue - 0.06, 0.5, 0.5, device)],
        )
        land = torch.lerp(land, sky.new_tensor([0.72, 0.8, 0.88])[:, None, None].expand_as(land), haze)
        sky = torch.lerp(sky, land, inside)
    return sky
