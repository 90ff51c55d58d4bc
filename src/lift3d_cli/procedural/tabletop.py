"""The example scene: a small model garden with a house on a wooden table, toys and fruit around it, outdoors."""

from __future__ import annotations

import numpy as np
import torch

from lift3d_cli.procedural.builder import Material, SolidsBuilder, plain, turn_x, turn_z
from lift3d_cli.procedural.layouts import Arrangement
from lift3d_cli.procedural.library import TextureLibrary
from lift3d_cli.procedural.lighting import Light
from lift3d_cli.procedural.scene import ProceduralScene
from lift3d_cli.procedural.solids import BOX, ELLIPSOID, FRUSTUM
from lift3d_cli.procedural.tabletop_cameras import ARC, FOCUS
from lift3d_cli.procedural.tabletop_textures import tabletop_textures

_ORIGIN = np.zeros(3)


def _xyz(x: float, y: float, z: float) -> np.ndarray:
    return np.array([x, y, z], dtype=np.float64)


class _Garden:
    """Builds the scene; every method adds one thing at its place."""

    def __init__(self, rng: np.random.Generator, library: TextureLibrary) -> None:
        self.rng = rng
        self.library = library
        self.builder = SolidsBuilder()

    def skin(
        self,
        name: str,
        tile: float,
        gloss: float = 0.0,
        light: float = 1.0,
        wrapped: bool = False,
        centred: bool = False,
    ) -> Material:
        """Return a named texture, at a random offset (or centred on each face), slightly brighter or darker."""
        shift = (0.5, 0.5) if centred else tuple(self.rng.uniform(0, 1, 2))
        tint = np.diag(np.full(3, light) * self.rng.uniform(0.94, 1.06, 3))
        return Material(
            self.library.kinds.index(name),
            tile,
            shift,
            0.0 if centred else 0.37,
            wrapped,
            tint=tint,
            gloss=gloss,
            shine=60.0,
        )

    def table(self) -> None:
        """Add five planks with gaps."""
        for row in range(5):
            light = self.rng.uniform(0.88, 1.1)
            at = (self.rng.normal(0, 0.01), -0.72 + 0.4 * row, -0.03)
            self.builder.add(BOX, at, (1.45, 0.197, 0.03), self.skin("oak", 1.1, gloss=0.25, light=light))
        for x, y in ((-1.3, -0.75), (1.3, -0.75), (-1.3, 0.9), (1.3, 0.9)):
            self.builder.add(BOX, (x, y, -0.5), (0.05, 0.05, 0.44), self.skin("oak", 0.9))

    def house(self, at: np.ndarray, turn: float) -> None:
        """Add plastered walls, a gable, a tiled roof, a chimney, windows and a door."""
        axes, walls = turn_z(turn), self.skin("plaster", 0.5)
        half = np.array([0.25, 0.18, 0.14])

        def put(kind: int, local: tuple[float, float, float], size, material: Material, extra=None) -> None:
            inner = np.eye(3) if extra is None else extra
            self.builder.add(kind, at + axes @ np.array(local), size, material, axes @ inner)

        put(BOX, (0, 0, half[2]), half, walls)
        put(BOX, (0, 0, 0.025), half * [1.02, 1.03, 0] + _xyz(0, 0, 0.025), self.skin("stone", 0.3))
        gable = half[1] / 2**0.5
        put(BOX, (0, 0, 2 * half[2]), (half[0], gable, gable), walls, turn_x(np.pi / 4))
        for side in (-1, 1):
            slope = turn_x(-side * np.pi / 4)
            middle = np.array([0, side * half[1] / 2, 2 * half[2] + half[1] / 2])
            put(BOX, middle + _xyz(0, side * 0.008, 0.003), (0.29, 0.155, 0.011), self.skin("roof", 0.42), slope)
        put(BOX, (0.13, 0.06, 0.47), (0.032, 0.032, 0.075), self.skin("brick", 0.3))
        for x in (-0.15, 0.15):
            put(BOX, (x, -half[1], 0.165), (0.042, 0.006, 0.05), plain(0.93, 0.92, 0.88))
            put(BOX, (x, -half[1] - 0.003, 0.165), (0.035, 0.006, 0.042), plain(0.25, 0.33, 0.42, gloss=3))
            put(BOX, (x, -half[1] - 0.006, 0.165), (0.003, 0.006, 0.042), plain(0.93, 0.92, 0.88))
        put(BOX, (0, -half[1], 0.09), (0.045, 0.008, 0.09), self.skin("dark wood", 0.3))
        put(BOX, (0, -half[1] - 0.03, 0.012), (0.07, 0.035, 0.012), self.skin("stone", 0.3))

    def tree(self, at: np.ndarray, height: float, leaves: str = "leaves") -> None:
        """Add a trunk and a crown of overlapping balls."""
        trunk = 0.07 * height
        self.builder.rest(
            FRUSTUM, tuple(at[:2]), at[2], (trunk, trunk, 0.28 * height), self.skin("bark", 0.3), taper=0.6
        )
        for number in range(9):
            angle, out = 2.4 * number, 0.2 * height * (number > 0)
            spot = [out * np.cos(angle), out * np.sin(angle), height * (0.62 + 0.05 * (number % 4))]
            size = height * self.rng.uniform(0.17, 0.24) * (1.25 if number == 0 else 1.0)
            material = self.skin(leaves, 0.45 * height**0.5, light=self.rng.uniform(0.8, 1.15))
            self.builder.add(ELLIPSOID, at + np.array(spot), (size, size, 0.85 * size), material, turn_z(angle))

    def conifer(self, at: np.ndarray, height: float) -> None:
        """Add a trunk and stacked cones."""
        self.builder.rest(FRUSTUM, tuple(at[:2]), at[2], (0.03, 0.03, 0.1 * height), self.skin("bark", 0.2))
        for level in range(4):
            radius, low = height * (0.27 - 0.05 * level), height * (0.14 + 0.2 * level)
            half = (radius, radius, 0.16 * height)
            self.builder.rest(FRUSTUM, tuple(at[:2]), at[2] + low, half, self.skin("needles", 0.35), taper=0.08)

    def pot(self, at: np.ndarray) -> None:
        """Add a clay pot with a leafy plant: thin stems, flat leaves."""
        upside_down = turn_x(np.pi)
        self.builder.rest(FRUSTUM, tuple(at[:2]), at[2], (0.115, 0.115, 0.1), self.skin("clay", 0.5), upside_down, 0.7)
        self.builder.rest(FRUSTUM, tuple(at[:2]), at[2] + 0.17, (0.13, 0.13, 0.025), self.skin("clay", 0.5))
        self.builder.rest(FRUSTUM, tuple(at[:2]), at[2] + 0.215, (0.108, 0.108, 0.004), self.skin("soil", 0.2))
        for number in range(13):
            angle, lean = 2.4 * number, self.rng.uniform(0.15, 0.75)
            length = self.rng.uniform(0.1, 0.17)
            axes = turn_z(angle) @ turn_x(lean)
            foot = at + np.array([0, 0, 0.22])
            self.builder.add(FRUSTUM, foot + axes[:, 2] * length, (0.004, 0.004, length), plain(0.33, 0.45, 0.2), axes)
            tip = axes @ turn_x(self.rng.uniform(0.3, 0.9))
            half = np.array([0.045, 0.008, 0.085]) * self.rng.uniform(0.8, 1.2)
            leaf = self.skin("leaves", 0.5, gloss=0.4, light=self.rng.uniform(0.8, 1.3))
            self.builder.add(ELLIPSOID, foot + axes[:, 2] * 2 * length + tip[:, 2] * half[2] * 0.8, half, leaf, tip)

    def blocks(self, at: np.ndarray) -> None:
        """Add toy blocks that spell LIFT, two more on top."""
        for number, letter in enumerate("LIFT"):
            spot = at + np.array([0.175 * number, self.rng.normal(0, 0.015), 0.075])
            self._block(letter, spot, self.rng.uniform(-0.18, 0.18))
        self._block("3", at + np.array([0.18, 0.01, 0.225]), 0.12)
        self._block("D", at + np.array([0.355, 0.01, 0.225]), -0.1)

    def _block(self, letter: str, at: np.ndarray, turn: float) -> None:
        self.builder.add(
            BOX, at, (0.075,) * 3, self.skin("letter " + letter, 0.15, gloss=0.3, centred=True), turn_z(turn)
        )

    def fruit(self, name: str, at: np.ndarray, radius: float) -> None:
        """Add an apple or an orange with a stem."""
        half = (radius, radius, 0.88 * radius)
        top = self.builder.rest(
            ELLIPSOID, tuple(at[:2]), at[2], half, self.skin(name, 4 * radius, gloss=0.7, wrapped=True)
        )
        stem = turn_z(self.rng.uniform(0, 6)) @ turn_x(0.35)
        length = 0.3 * radius if name == "apple" else 0.08 * radius
        self.builder.add(FRUSTUM, (*at[:2], top + length / 2), (0.006, 0.006, length), self.skin("bark", 0.1), stem)

    def mug(self, at: np.ndarray) -> None:
        """Add a striped mug with a handle bent from short rods."""
        enamel = self.skin("cloth", 0.35, gloss=1.0)
        top = self.builder.rest(FRUSTUM, tuple(at[:2]), at[2], (0.095, 0.095, 0.105), enamel)
        self.builder.rest(FRUSTUM, tuple(at[:2]), top - 0.002, (0.084, 0.084, 0.002), plain(0.2, 0.11, 0.06, gloss=2))
        for angle in np.linspace(-1.5, 1.5, 9):
            spot = at + np.array([0.095 + 0.055 * np.cos(angle), 0, 0.105 + 0.065 * np.sin(angle)])
            lean = np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])
            self.builder.add(FRUSTUM, spot, (0.013, 0.013, 0.018), enamel, lean)

    def books(self, at: np.ndarray) -> None:
        """Add three books on top of each other."""
        height = at[2]
        for colour, turn, half in (
            ((0.30, 0.36, 0.30), 0.15, (0.21, 0.15, 0.03)),
            ((0.56, 0.22, 0.18), -0.1, (0.19, 0.14, 0.024)),
            ((0.72, 0.62, 0.42), 0.3, (0.16, 0.12, 0.02)),
        ):
            axes, size = turn_z(turn), np.array(half)
            for level in (0.004, 2 * half[2] - 0.004):
                cover = plain(*colour, gloss=0.3)
                self.builder.add(BOX, (*at[:2], height + level), (*size[:2], 0.004), cover, axes)
            spine = np.array([*at[:2], height + half[2]]) - axes[:, 0] * (half[0] - 0.004)
            self.builder.add(BOX, spine, (0.004, half[1], half[2]), plain(*colour, gloss=0.3), axes)
            pages = self.skin("pages", 0.2)
            turned = axes @ np.array([[0, 0, -1.0], [0, 1, 0], [1, 0, 0]])  # the texture's stripes are horizontal
            self.builder.add(
                BOX, (*at[:2], height + half[2]), (size[2] - 0.006, size[1] - 0.006, size[0] - 0.006), pages, turned
            )
            height += 2 * half[2]

    def fence(self, start: np.ndarray, end: np.ndarray) -> None:
        """Add white pickets on two rails."""
        along = end - start
        axes = turn_z(np.arctan2(along[1], along[0]))
        length = float(np.linalg.norm(along))
        for share in np.linspace(0, 1, round(length / 0.055)):
            at = start + share * along + _xyz(0, 0, 0.065)
            self.builder.add(BOX, at, (0.013, 0.006, 0.065), self.skin("plaster", 0.4), axes)
        for height in (0.04, 0.095):
            at = start + along / 2 + axes @ np.array([0, 0.01, height])
            self.builder.add(BOX, at, (length / 2, 0.005, 0.008), self.skin("plaster", 0.4), axes)

    def garden(self) -> None:
        """Add the lawn and everything on it."""
        self.builder.add(FRUSTUM, (0, 0.3, 0.015), (0.92, 0.56, 0.015), self.skin("grass", 0.6))
        lawn = np.array([0.0, 0.3, 0.03])
        self.house(lawn + _xyz(-0.08, 0.1, 0), 0.22)
        self.tree(lawn + _xyz(0.52, 0.14, 0), 0.62)
        self.tree(lawn + _xyz(-0.62, 0.12, 0), 0.48, "dark leaves")
        self.conifer(lawn + _xyz(0.26, 0.36, 0), 0.6)
        self.conifer(lawn + _xyz(-0.42, 0.35, 0), 0.45)
        self.fence(lawn + _xyz(-0.72, -0.26, 0), lawn + _xyz(-0.16, -0.42, 0))
        self.fence(lawn + _xyz(0.12, -0.44, 0), lawn + _xyz(0.66, -0.3, 0))
        self.builder.add(FRUSTUM, lawn + _xyz(0.4, -0.16, 0.002), (0.19, 0.12, 0.004), self.skin("water", 0.6, gloss=5))
        for angle in np.arange(0, 2 * np.pi, 0.42):
            at = lawn + _xyz(0.4 + 0.2 * np.cos(angle), -0.16 + 0.13 * np.sin(angle), 0.008)
            half = self.rng.uniform(0.018, 0.036, 3) * [1, 1, 0.7]
            self.builder.add(ELLIPSOID, at, half, self.skin("stone", 0.3), turn_z(self.rng.uniform(0, 6)))
        for number in range(5):
            at = lawn + _xyz(-0.02 + 0.03 * np.sin(2.5 * number), -0.16 - 0.075 * number, 0.002)
            self.builder.add(FRUSTUM, at, (0.045, 0.032, 0.005), self.skin("stone", 0.3), turn_z(number))
        for number in range(7):
            at = lawn + _xyz(-0.58 + 0.05 * number, -0.16 - 0.02 * number, 0.0)
            colour = [(0.85, 0.3, 0.35), (0.95, 0.8, 0.3), (0.9, 0.88, 0.9), (0.6, 0.4, 0.75)][number % 4]
            self.builder.rest(FRUSTUM, tuple(at[:2]), at[2], (0.004, 0.004, 0.035), plain(0.3, 0.42, 0.18))
            self.builder.add(ELLIPSOID, at + _xyz(0, 0, 0.075), (0.022, 0.022, 0.014), plain(*colour))

    def surroundings(self) -> None:
        """Add a paved terrace, a lawn, hedges, a wall, large trees and the landscape beyond."""
        floor = -0.95
        self.builder.add(BOX, (0, 0, floor - 0.1), (3.6, 3.2, 0.1), self.skin("paving", 2.4))
        self.builder.add(BOX, (0, 0, floor - 0.2), (60, 60, 0.1), self.skin("grass", 3.0))
        self.builder.add(BOX, (-3.0, 4.6, floor + 0.6), (1.9, 0.15, 0.75), self.skin("brick", 1.5))
        self.builder.add(BOX, (-3.0, 4.6, floor + 1.38), (2.0, 0.22, 0.05), self.skin("stone", 0.8))
        for x, y, turn, length in ((1.3, 5.0, 0.05, 2.3), (5.2, 3.2, -0.9, 2.4), (-6.2, 2.0, 1.1, 2.6)):
            material = self.skin("dark leaves", 1.4)
            self.builder.add(BOX, (x, y, floor + 0.55), (length, 0.4, 0.65), material, turn_z(turn))
        for x, y, height in (
            (-5.0, 8.0, 3.4),
            (-1.2, 9.5, 3.0),
            (2.4, 8.0, 3.8),
            (6.5, 7.0, 3.2),
            (8.5, 2.0, 3.6),
            (-8.5, 4.0, 3.4),
        ):
            self.tree(np.array([x, y, floor]), height, "leaves" if x > 0 else "dark leaves")
        sky = Material(self.library.kinds.index("sky"), shift=(0.2, 0.0), mirrored=True, emissive=True)
        self.builder.add(ELLIPSOID, _ORIGIN, (45, 45, 45), sky, hollow=True)


def tabletop(seed: int, device: torch.device | str = "cpu") -> ProceduralScene:
    """Build the example scene; the seed changes textures, rotations and details, not the objects."""
    rng = np.random.default_rng(seed)
    library = TextureLibrary.of(tabletop_textures(torch.Generator(device).manual_seed(seed)))
    garden = _Garden(rng, library)
    garden.surroundings()
    garden.table()
    garden.garden()
    garden.blocks(np.array([-0.42, -0.6, 0]))
    garden.pot(np.array([1.02, -0.18, 0]))
    garden.books(np.array([-1.0, -0.28, 0]))
    garden.fruit("apple", np.array([-1.0, -0.28, 0.148]), 0.085)
    garden.fruit("apple", np.array([0.62, -0.55, 0]), 0.09)
    garden.fruit("orange", np.array([0.82, -0.62, 0]), 0.095)
    garden.mug(np.array([-0.78, -0.62, 0]))
    garden.builder.rest(
        ELLIPSOID, (1.05, 0.55), 0.0, (0.16, 0.16, 0.16), garden.skin("ball", 0.5, gloss=0.6, wrapped=True), turn_x(0.5)
    )
    arrangement = Arrangement(
        FOCUS, np.array([[-3.0, -3.0, 0.1], [3.0, 3.0, 3.0]]), (-np.pi / 2, ARC / 2), indoors=False
    )
    scene = ProceduralScene(garden.builder.build(device), library, _afternoon(device), arrangement)
    scene.exposure = 1.1
    return scene


def _afternoon(device: torch.device | str) -> Light:
    direction = torch.tensor([-0.5, -0.55, 0.75], device=device)
    return Light(
        direction=direction / direction.norm(),
        key=torch.tensor([0.98, 0.88, 0.7], device=device),
        sky=torch.tensor([0.46, 0.54, 0.66], device=device),
        ground=torch.tensor([0.2, 0.18, 0.14], device=device),
        softness=0.05,
        ripple=torch.zeros(3, device=device),
        ripple_strength=0.0,
    )
