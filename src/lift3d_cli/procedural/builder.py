"""Build a scene solid by solid, with plain numbers; they are converted to tensors at the end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from lift3d_cli.procedural.library import PHOTO, TextureLibrary
from lift3d_cli.procedural.solids import BOX, ELLIPSOID, Solids

_FLAGS = ("hollow", "emissive", "wrapped", "mirrored")
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


@dataclass(frozen=True)
class Material:
    """A surface's appearance; the fields are those of `Solids`, for one solid."""

    texture: int = 0
    tile: float = 0.5
    shift: tuple[float, float] = (0.5, 0.5)
    face_shift: float = 0.0
    wrapped: bool = False
    mirrored: bool = False
    tint: np.ndarray | None = None
    base: tuple[float, float, float] = (0.0, 0.0, 0.0)
    gloss: float = 0.0
    shine: float = 40.0
    emissive: bool = False


def plain(r: float, g: float, b: float, gloss: float = 0.0, shine: float = 40.0) -> Material:
    """Return a material of one sRGB colour without texture."""
    return Material(tint=np.zeros((3, 3)), base=(r**2.2, g**2.2, b**2.2), gloss=gloss, shine=shine)


def turn_z(angle: float) -> np.ndarray:
    """Return a rotation [3, 3] around the vertical axis."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def turn_x(angle: float) -> np.ndarray:
    """Return a rotation [3, 3] around x, from y to z."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1.0, 0, 0], [0, c, -s], [0, s, c]])


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    """Return a uniformly random rotation [3, 3]."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q *= np.sign(np.diag(r))
    return q * np.linalg.det(q)


def vertical_reach(kind: int, half: np.ndarray, axes: np.ndarray) -> float:
    """Return how far a solid reaches above and below its centre."""
    row = np.abs(axes[2])
    if kind == BOX:
        return float(row @ half)
    if kind == ELLIPSOID:
        return float(np.linalg.norm(row * half))
    return float(np.linalg.norm(row[:2] * half[:2]) + row[2] * half[2])


class SolidsBuilder:
    """Collects the solids of a scene."""

    def __init__(self) -> None:
        self._rows: list[dict] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(
        self,
        kind: int,
        centre: np.ndarray | tuple[float, float, float],
        half: np.ndarray | tuple[float, float, float],
        material: Material,
        axes: np.ndarray | None = None,
        taper: float = 1.0,
        hollow: bool = False,
    ) -> None:
        """Add one solid; the arguments are the fields of `Solids`."""
        fields = dict(vars(material))
        fields["tint"] = np.eye(3) if material.tint is None else material.tint
        axes = np.eye(3) if axes is None else axes
        self._rows.append({"kind": kind, "centre": centre, "half": half, "axes": axes, "taper": taper, **fields})
        self._rows[-1]["hollow"] = hollow

    def rest(
        self,
        kind: int,
        xy: tuple[float, float],
        ground: float,
        half: np.ndarray,
        material: Material,
        axes: np.ndarray | None = None,
        taper: float = 1.0,
    ) -> float:
        """Add a solid that stands at height `ground`; return the height of its top."""
        reach = vertical_reach(kind, np.asarray(half), np.eye(3) if axes is None else axes)
        self.add(kind, (*xy, ground + reach), half, material, axes, taper)
        return ground + 2 * reach

    def build(self, device: torch.device | str) -> Solids:
        """Convert all solids to tensors on a device."""
        tensors = {}
        for name in self._rows[0]:
            kind = np.int64 if name in ("kind", "texture") else bool if name in _FLAGS else np.float32
            tensors[name] = torch.from_numpy(np.array([row[name] for row in self._rows], dtype=kind)).to(device)
        return Solids(**tensors)


def random_material(rng: np.random.Generator, library: TextureLibrary, scale: float = 1.0) -> Material:
    """Choose a material with any texture except a sky, or none, in its own or other colours.

    Args:
        rng: random numbers.
        library: the textures.
        scale: size of the solid, which roughly determines the size of the pattern.
    """
    if rng.random() < 0.12:
        value, tone = rng.uniform(0.05, 0.9), rng.uniform(0.8, 1.2, 3)
        return plain(*np.clip(value * tone, 0.02, 0.95), gloss=_random_gloss(rng), shine=10 ** rng.uniform(1, 2.3))
    texture = int(rng.choice([i for i, kind in enumerate(library.kinds) if kind != "panorama"]))
    return Material(
        texture=texture,
        tile=float(scale * np.exp(rng.uniform(np.log(0.7), np.log(4.0)))),
        shift=tuple(rng.uniform(0, 1, 2)),
        face_shift=float(rng.uniform(0, 1)),
        wrapped=bool(rng.random() < 0.4),
        mirrored=library.kinds[texture] == PHOTO,
        tint=_random_tint(rng),
        gloss=_random_gloss(rng),
        shine=float(10 ** rng.uniform(1, 2.3)),
    )


def _random_gloss(rng: np.random.Generator) -> float:
    """Choose a gloss: most things are matt, some lacquered, a few like a mirror."""
    kind = rng.random()
    return 0.0 if kind < 0.65 else float(rng.uniform(0.1, 1.0)) if kind < 0.95 else float(rng.uniform(2.0, 10.0))


def _random_tint(rng: np.random.Generator) -> np.ndarray:
    """Choose a linear change of colour [3, 3]: brighter or darker, recoloured by luminance, or with rotated hues."""
    kind = rng.random()
    if kind < 0.7:
        return np.diag(rng.uniform(0.6, 1.5) * rng.uniform(0.85, 1.15, 3))
    if kind < 0.9:
        return np.outer(rng.uniform(0.4, 1.6, 3), _LUMINANCE)
    angle, axis = rng.uniform(0, 2 * np.pi), np.full(3, 3**-0.5)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
