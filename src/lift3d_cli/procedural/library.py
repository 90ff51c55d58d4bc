"""The textures of scenes: a set of patterns and photos that is renewed one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from lift3d_cli.procedural import collage, patterns
from lift3d_cli.procedural.atlas import TextureAtlas

PHOTO = "photo"


def _foliage(size: int, generator: Generator) -> Tensor:
    return collage.dead_leaves(size, generator, foliage=True)


# Relative number of textures of each pattern.
_PATTERNS: dict[str, tuple[Callable[[int, Generator], Tensor], float]] = {
    "fractal": (patterns.fractal_colour, 4),
    "leaves": (collage.dead_leaves, 5),
    "foliage": (_foliage, 2),
    "grain": (patterns.grain, 3),
    "marble": (patterns.marble, 1),
    "tiles": (patterns.tiles, 2),
    "stripes": (patterns.stripes, 2),
    "speckle": (patterns.speckle, 2),
    "pebbles": (collage.pebbles, 2),
    "letters": (collage.letters, 2),
    "sign": (collage.sign, 2),
    "panorama": (patterns.panorama, 2),
}


class TextureLibrary:
    """A set of square textures.

    Args:
        count: number of textures; at least one of each kind is made if there is room.
        size: side in texels, a power of two.
        generator: random numbers; its device is the library's.
        photos: pictures [3, h, w] in [0, 1], of any size; half of the textures are cut from them.
        plain: share of the textures that show next to nothing.
    """

    def __init__(
        self, count: int, size: int, generator: Generator, photos: Sequence[Tensor] = (), plain: float = 0.0
    ) -> None:
        self._generator = generator
        self._plain = plain
        self._photos = list(photos)
        share = torch.tensor([float(weight) for _, weight in _PATTERNS.values()])
        names = list(_PATTERNS)
        drawn = torch.multinomial(share.to(generator.device), max(count, 1), replacement=True, generator=generator)
        self.kinds = [*names[:count], *(names[i] for i in drawn.tolist())][:count]
        if self._photos:
            self.kinds[len(names) :: 2] = [PHOTO] * len(self.kinds[len(names) :: 2])
        self.size = size
        self.atlas = TextureAtlas(torch.stack([self._make(kind) for kind in self.kinds]))

    @classmethod
    def of(cls, pictures: dict[str, Tensor]) -> TextureLibrary:
        """Make a set of just these pictures [3, S, S] in [0, 1], with their names as kinds."""
        library = cls.__new__(cls)
        first = next(iter(pictures.values()))
        library._generator, library._photos = torch.Generator(first.device), list(pictures.values())
        library._plain = 0.0
        library.kinds, library.size = list(pictures), first.shape[-1]
        library.atlas = TextureAtlas(torch.stack(list(pictures.values())))
        return library

    def indices(self, *kinds: str) -> list[int]:
        """Return the indices of the textures of these kinds."""
        return [index for index, kind in enumerate(self.kinds) if kind in kinds]

    def refresh(self) -> None:
        """Replace one texture by a new one of its kind, so that a long stream of scenes does not repeat itself."""
        index = patterns.integer(self._generator, 0, len(self.kinds))
        self.atlas.replace(index, self._make(self.kinds[index]))

    def _make(self, kind: str) -> Tensor:
        texture = self._pattern(kind)
        if self._plain and patterns.number(self._generator, 0, 1) < self._plain:
            texture = patterns.faded(texture, self._generator)
        return texture

    def _pattern(self, kind: str) -> Tensor:
        if kind != PHOTO:
            return _PATTERNS[kind][0](self.size, self._generator)
        photo = self._photos[patterns.integer(self._generator, 0, len(self._photos))].to(self._generator.device)
        side = round(min(photo.shape[1:]) * patterns.number(self._generator, 0.5, 1.0))
        top = patterns.integer(self._generator, 0, photo.shape[1] - side + 1)
        left = patterns.integer(self._generator, 0, photo.shape[2] - side + 1)
        crop = photo[None, :, top : top + side, left : left + side].float()
        return torch.nn.functional.interpolate(
            crop, size=(self.size, self.size), mode="bilinear", antialias=True, align_corners=False
        )[0]
