"""Random arrangements of solids: on a table, in a room, outdoors, on a facade, in the air, along a corridor.

The region of interest has a radius of about 1 around the origin, z is up, and a hollow solid at a finite distance
encloses everything, so that every ray hits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from lift3d_cli.procedural.builder import (
    Material,
    SolidsBuilder,
    plain,
    random_material,
    random_rotation,
    turn_z,
)
from lift3d_cli.procedural.library import TextureLibrary
from lift3d_cli.procedural.solids import BOX, ELLIPSOID, FRUSTUM

RIGS = ("forward", "arc", "walk")


@dataclass(frozen=True)
class Arrangement:
    """What a camera rig needs to know about an arrangement of solids.

    Args:
        focus: [3] centre of the content.
        room: [2, 3] lowest and highest corner of the space for cameras.
        azimuths: (middle, half width) in radians of the directions from which the content may be seen.
        indoors: whether the light comes from lamps above.
    """

    focus: np.ndarray
    room: np.ndarray
    azimuths: tuple[float, float]
    indoors: bool


def random_arrangement(
    builder: SolidsBuilder, rng: np.random.Generator, library: TextureLibrary, rig: str, num_objects: tuple[int, int]
) -> Arrangement:
    """Fill `builder` with a random arrangement that suits the rig."""
    count = int(rng.integers(num_objects[0], num_objects[1] + 1))
    if rig == "walk":
        return _corridor(builder, rng, library, count)
    layout: Callable[..., Arrangement] = (_table, _floor, _outdoors, _facade, _floating)[
        int(rng.choice(5, p=[0.3, 0.2, 0.2, 0.15, 0.15]))
    ]
    return layout(builder, rng, library, count)


def add_room(builder: SolidsBuilder, half: tuple[float, float, float], floor: float, material: Material) -> np.ndarray:
    """Enclose everything in walls, ceiling and floor; return the corners [2, 3] of the space inside.

    Its own floor is slightly below `floor`, so that it does not coincide with a ground at that height.
    """
    middle = floor + half[2] - 0.02
    builder.add(BOX, (0, 0, middle), half, material, hollow=True)
    return np.array([[-half[0], -half[1], floor], [half[0], half[1], floor + 2 * half[2]]])


def add_sky(builder: SolidsBuilder, rng: np.random.Generator, library: TextureLibrary, radius: float) -> None:
    """Enclose everything in a dome with a sky, or occasionally with any picture."""
    places = library.indices("panorama") if rng.random() < 0.8 else []
    texture = int(rng.choice(places or len(library.kinds)))
    tint = np.diag(rng.uniform(0.7, 1.2) * rng.uniform(0.9, 1.1, 3))
    material = Material(texture, shift=(rng.uniform(), 0.0), tint=tint, mirrored=True, emissive=True)
    builder.add(ELLIPSOID, (0, 0, 0), (radius, radius, radius), material, hollow=True)


def _random_object(
    builder: SolidsBuilder,
    rng: np.random.Generator,
    library: TextureLibrary,
    xy: np.ndarray,
    ground: float,
    size: float,
) -> float:
    """Add one object that stands on `ground`, lying, upright or tumbled; return the height of its top."""
    kind = rng.choice(
        ["box", "slab", "ball", "ellipsoid", "can", "cone", "rod"], p=[0.24, 0.1, 0.1, 0.16, 0.2, 0.1, 0.1]
    )
    half = size * np.exp(rng.uniform(-0.7, 0.3, 3))
    taper = 1.0
    if kind == "slab":
        half[int(rng.integers(3))] *= rng.uniform(0.04, 0.15)
    elif kind == "ball":
        half = np.full(3, size * 0.8)
    elif kind in ("can", "cone"):
        half[1] = half[0] if rng.random() < 0.8 else half[1]
        half[2] *= rng.uniform(0.6, 1.8)
        taper = 1.0 if kind == "can" and rng.random() < 0.6 else rng.uniform(0.0, 0.9)
    elif kind == "rod":
        half = np.array([1.0, 1.0, 0]) * rng.uniform(0.006, 0.025) + np.array([0, 0, size * rng.uniform(1.0, 2.5)])
    solid = {"box": BOX, "slab": BOX, "ball": ELLIPSOID, "ellipsoid": ELLIPSOID}.get(kind, FRUSTUM)
    tumbled = kind == "ball" or rng.random() < (0.5 if kind == "rod" else 0.2)
    axes = random_rotation(rng) if tumbled else turn_z(rng.uniform(0, 2 * np.pi))
    return builder.rest(solid, tuple(xy), ground, half, random_material(rng, library, size), axes, taper)


def _scatter(
    builder: SolidsBuilder, rng: np.random.Generator, library: TextureLibrary, count: int,
    extent: tuple[float, float], ground: float = 0.0,
) -> None:  # fmt: skip
    """Scatter objects on a surface: few large ones, many small ones, some on top of others, seldom intersecting."""
    placed: list[tuple[np.ndarray, float, float]] = []
    for number in range(count):
        size = float(np.exp(rng.uniform(np.log(0.04), np.log(0.12)) if number > 6 else rng.uniform(-2.0, -1.0)))
        if placed and rng.random() < 0.15:
            xy, radius, top = placed[int(rng.integers(len(placed)))]
            _random_object(builder, rng, library, xy + rng.normal(0, radius / 4, 2), top, min(size, radius * 0.8))
            continue
        for _ in range(6):
            xy = rng.uniform(-1, 1, 2) * extent
            if all(np.linalg.norm(xy - other) > 0.8 * (size + radius) for other, radius, _ in placed):
                break
        top = _random_object(builder, rng, library, xy, ground, size)
        placed.append((xy, size, top))


def _table(builder: SolidsBuilder, rng: np.random.Generator, library: TextureLibrary, count: int) -> Arrangement:
    half = np.array([rng.uniform(1.0, 1.6), rng.uniform(0.8, 1.3), rng.uniform(0.02, 0.06)])
    builder.add(BOX, (0, 0, -half[2]), half, random_material(rng, library, 0.5), turn_z(rng.uniform(-0.4, 0.4)))
    _scatter(builder, rng, library, count, (0.85 * half[0], 0.85 * half[1]))
    return _indoors(builder, rng, library, floor=-rng.uniform(0.7, 1.2))


def _floor(builder: SolidsBuilder, rng: np.random.Generator, library: TextureLibrary, count: int) -> Arrangement:
    builder.add(BOX, (0, 0, -0.1), (12, 12, 0.1), random_material(rng, library, 0.7))
    _scatter(builder, rng, library, count, (1.3, 1.3))
    return _indoors(builder, rng, library, floor=0.0)


def _indoors(builder: SolidsBuilder, rng: np.random.Generator, library: TextureLibrary, floor: float) -> Arrangement:
    """Add a room around, with furniture along its walls and pictures on them."""
    half = (rng.uniform(3.5, 7), rng.uniform(3.5, 7), rng.uniform(1.6, 3.0))
    corners = add_room(builder, half, floor, replace(random_material(rng, library, 1.5), gloss=0.0))
    for _ in range(int(rng.integers(3, 9))):
        wall, sign = int(rng.integers(2)), rng.choice([-1, 1])
        size = np.array([rng.uniform(0.2, 0.9), rng.uniform(0.2, 0.9), rng.uniform(0.3, 1.2)])
        xy = np.array([rng.uniform(-0.9, 0.9) * half[0], rng.uniform(-0.9, 0.9) * half[1]])
        picture = rng.random() < 0.4
        if picture:
            size[wall], size[2] = 0.03, rng.uniform(0.2, 0.6)
        xy[wall] = sign * (half[wall] - size[wall])
        height = floor + half[2] * rng.uniform(0.7, 1.3) if picture else floor + size[2]
        builder.add(BOX, (*xy, height), size, random_material(rng, library, 0.6))
    return Arrangement(np.array([0, 0, 0.15]), corners, (rng.uniform(-np.pi, np.pi), np.pi), indoors=True)


def _outdoors(builder: SolidsBuilder, rng: np.random.Generator, library: TextureLibrary, count: int) -> Arrangement:
    builder.add(BOX, (0, 0, -0.1), (60, 60, 0.1), random_material(rng, library, 1.0))
    add_sky(builder, rng, library, rng.uniform(12, 40))
    _scatter(builder, rng, library, count, (1.3, 1.3))
    for _ in range(int(rng.integers(4, 14))):  # buildings and trees farther away
        angle, away = rng.uniform(-np.pi, np.pi), rng.uniform(4.5, 11)
        xy = away * np.array([np.cos(angle), np.sin(angle)])
        _random_object(builder, rng, library, xy, 0.0, rng.uniform(0.3, 1.5))
    room = np.array([[-4, -4, 0.0], [4, 4, 6]])
    return Arrangement(np.array([0, 0, 0.2]), room, (rng.uniform(-np.pi, np.pi), np.pi), indoors=False)


def _facade(builder: SolidsBuilder, rng: np.random.Generator, library: TextureLibrary, count: int) -> Arrangement:
    """Add a wall with things in relief on it, seen from the side of -y."""
    builder.add(BOX, (0, 0.7, 1.0), (rng.uniform(2, 5), 0.2, rng.uniform(1.5, 3)), random_material(rng, library, 0.6))
    builder.add(BOX, (0, 0, -0.1), (60, 60, 0.1), random_material(rng, library, 1.0))
    add_sky(builder, rng, library, rng.uniform(12, 40))
    for _ in range(count // 2):
        kind = int(rng.choice([BOX, BOX, FRUSTUM, ELLIPSOID]))
        half = np.exp(rng.uniform(np.log(0.04), np.log(0.5), 3)) * [1, 0.4, 1]
        at = (rng.uniform(-1.8, 1.8), 0.5, rng.uniform(0, 1.6))
        builder.add(kind, at, half, random_material(rng, library, 0.3), taper=rng.uniform(0.3, 1))
    _scatter(builder, rng, library, count - count // 2, (1.6, 0.4))
    room = np.array([[-4, -6, 0.0], [4, -0.4, 4]])
    return Arrangement(np.array([0, 0.3, 0.6]), room, (-np.pi / 2, 0.5), indoors=False)


def _floating(builder: SolidsBuilder, rng: np.random.Generator, library: TextureLibrary, count: int) -> Arrangement:
    """Add solids at any place in a ball: no ground plane, and much occlusion."""
    if rng.random() < 0.5:
        add_sky(builder, rng, library, rng.uniform(5, 40))
        room = np.array([[-4.0, -4, -4], [4, 4, 4]])
    else:
        half = tuple(rng.uniform(3.5, 7, 3))
        room = add_room(builder, half, -half[2], random_material(rng, library, 1.5))
    for number in range(count):
        size = float(np.exp(rng.uniform(-2.0, -0.9) if number < 8 else rng.uniform(-3.4, -2.0)))
        at = rng.normal(size=3)
        at *= rng.random() ** (1 / 3) / np.linalg.norm(at)
        _random_object(builder, rng, library, at[:2], at[2] - size / 2, size)
    return Arrangement(np.zeros(3), room, (rng.uniform(-np.pi, np.pi), np.pi), indoors=False)


def _corridor(builder: SolidsBuilder, rng: np.random.Generator, library: TextureLibrary, count: int) -> Arrangement:
    """Add things to the left and right of a path along +y that cameras follow."""
    builder.add(BOX, (0, 0, -0.1), (60, 60, 0.1), random_material(rng, library, 0.8))
    width, length = rng.uniform(0.4, 0.9), rng.uniform(5, 9)
    for _ in range(count):
        side = rng.choice([-1, 1])
        xy = np.array([side * (width + 0.2 + rng.exponential(0.5)), rng.uniform(-1.5, length)])
        _random_object(builder, rng, library, xy, 0.0, float(np.exp(rng.uniform(-2.2, -0.7))))
    indoors = bool(rng.random() < 0.6)
    if indoors:
        room = add_room(
            builder, (width + rng.uniform(0.8, 2), length + 1, 1.2), 0.0, random_material(rng, library, 1.0)
        )
        end = plain(0.6, 0.6, 0.55) if rng.random() < 0.3 else random_material(rng, library, 0.8)
        builder.add(BOX, (0, length + 0.9, 1.0), (rng.uniform(0.3, 1), 0.05, rng.uniform(0.3, 0.9)), end)
    else:
        add_sky(builder, rng, library, rng.uniform(15, 40))
        room = np.array([[-2, -2, 0.0], [2, length, 2]])
    room[:, 0] = [-width, width]
    return Arrangement(np.array([0, 1.5, 0.4]), room, (-np.pi / 2, 0.0), indoors=indoors)
