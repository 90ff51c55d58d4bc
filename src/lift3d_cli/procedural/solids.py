"""Solids for ray casting: boxes, ellipsoids and frustums (cylinders, cones), many at once.

Every solid is a unit shape under an affine map, so a ray keeps its parameter t in the unit space:

- box: [-1, 1]^3
- ellipsoid: the unit ball
- frustum: |z| <= 1 and radius at most 1 at z = -1, `taper` at z = 1, linear between

All of them are convex, so a ray is inside one during a single interval of t.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

BOX, ELLIPSOID, FRUSTUM = 0, 1, 2
# Guards divisions by a ray's direction or by a cone's radius at its tip, in unit space.
_TINY = 1e-9


@dataclass(frozen=True)
class Solids:
    """N solids and their materials as tensors with the solids in the first dimension, all on one device.

    Args:
        kind: [N] int64: BOX, ELLIPSOID or FRUSTUM.
        centre: [N, 3] in the world.
        axes: [N, 3, 3] world from local rotation; its columns are the local axes in the world.
        half: [N, 3] half extents along the local axes (a frustum's first two are the radii of its bottom).
        taper: [N] radius of a frustum's top relative to its bottom, 0 to 1.
        hollow: [N] bool: seen from inside (a room, a sky), and casts no shadow.
        emissive: [N] bool: its colour is its texture whatever the light.
        texture: [N] int64 index into the atlas.
        tile: [N] world length that one repeat of the texture covers.
        shift: [N, 2] where in the texture the middle of a face lies, in repeats.
        face_shift: [N] shift from one face to the next, in repeats; 0 shows the same picture on all faces.
        wrapped: [N] bool: an ellipsoid's texture runs around its z axis instead of lying on six faces.
        mirrored: [N] bool: every other repeat is mirrored, for pictures that do not tile.
        tint: [N, 3, 3] and base [N, 3]: linear colour = tint @ texture + base.
        gloss: [N] strength of mirror-like reflection: 0 matt, 1 lacquer, 10 nearly a mirror.
        shine: [N] exponent of the highlight.
    """

    kind: Tensor
    centre: Tensor
    axes: Tensor
    half: Tensor
    taper: Tensor
    hollow: Tensor
    emissive: Tensor
    texture: Tensor
    tile: Tensor
    shift: Tensor
    face_shift: Tensor
    wrapped: Tensor
    mirrored: Tensor
    tint: Tensor
    base: Tensor
    gloss: Tensor
    shine: Tensor

    def __len__(self) -> int:
        return len(self.kind)

    @property
    def unit_from_world(self) -> Tensor:
        """[N, 3, 3] linear part of the map from the world to the unit space."""
        return self.axes.transpose(1, 2) / self.half[:, :, None]

    @property
    def bound(self) -> Tensor:
        """[N] radius of a sphere around `centre` that holds the solid."""
        lateral = self.half[:, :2].amax(1) ** 2
        corner = torch.where(self.kind == BOX, (self.half[:, :2] ** 2).sum(1), lateral)
        return torch.where(self.kind == ELLIPSOID, self.half.amax(1), (corner + self.half[:, 2] ** 2).sqrt())

    def select(self, mask: Tensor) -> Solids:
        """Select the solids where `mask` [N] is True."""
        return Solids(**{field.name: getattr(self, field.name)[mask] for field in fields(self)})


def unit_intervals(
    kind: Tensor,  # [P] int64
    taper: Tensor,  # [P]
    origins: Tensor,  # [P, 3] unit space
    directions: Tensor,  # [P, 3] unit space, any length
) -> tuple[Tensor, Tensor]:  # t_in, t_out [P]
    """Return the interval of t during which each ray is inside its unit shape; t_in > t_out where it misses."""
    t_in = torch.empty_like(taper)
    t_out = torch.empty_like(taper)
    for value, interval in ((BOX, _box), (ELLIPSOID, _ball), (FRUSTUM, _frustum)):
        where = (kind == value).nonzero()[:, 0]
        if len(where):
            t_in[where], t_out[where] = interval(origins[where], directions[where], taper[where])
    return t_in, t_out


def unit_normals(kind: Tensor, taper: Tensor, xyz: Tensor) -> tuple[Tensor, Tensor]:
    """Return the outward normals in unit space, and the faces of points on the surface.

    Args:
        kind: [P] int64.
        taper: [P].
        xyz: [P, 3] points on the unit shapes.

    Returns:
        normals [P, 3], not normalised, and faces [P] int64: for boxes 2 * axis + (0 on the positive side), for
        ellipsoids the face of the cube around them, for frustums 4 and 5 on the caps and 6 around.
    """
    major = xyz.abs().argmax(1)
    sign = xyz.gather(1, major[:, None])[:, 0].sign()
    faces = 2 * major + (sign < 0)
    along = torch.nn.functional.one_hot(major, 3).to(xyz) * sign[:, None]
    normals = torch.where((kind == BOX)[:, None], along, xyz)
    radius = ((1 + taper) + (taper - 1) * xyz[:, 2]) / 2
    rho = xyz[:, :2].norm(dim=1)
    around = rho / radius.clamp_min(1e-6) > xyz[:, 2].abs()
    side = torch.stack([xyz[:, 0], xyz[:, 1], rho * (1 - taper) / 2], 1)
    cap = torch.zeros_like(xyz)
    cap[:, 2] = xyz[:, 2].sign()
    is_frustum = kind == FRUSTUM
    normals = torch.where(is_frustum[:, None], torch.where(around[:, None], side, cap), normals)
    frustum_faces = torch.where(around, 6, 4 + (xyz[:, 2] < 0).long())
    return normals, torch.where(is_frustum, frustum_faces, faces)


def _slab(origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Return the interval during which |origin + t direction| <= 1."""
    safe = torch.where(direction.abs() < _TINY, torch.full_like(direction, _TINY), direction)
    a, b = (-1 - origin) / safe, (1 - origin) / safe
    return torch.minimum(a, b), torch.maximum(a, b)


def _box(o: Tensor, d: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
    near, far = _slab(o, d)
    return near.amax(1), far.amin(1)


def _ball(o: Tensor, d: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
    a, b, c = (d * d).sum(1), (o * d).sum(1), (o * o).sum(1) - 1
    root_squared = b * b - a * c
    root = root_squared.clamp_min(0).sqrt()
    missed = root_squared < 0
    return torch.where(missed, 1.0, (-b - root) / a), torch.where(missed, -1.0, (-b + root) / a)


def _frustum(o: Tensor, d: Tensor, taper: Tensor) -> tuple[Tensor, Tensor]:
    """Return the interval between the caps and inside the cone x^2 + y^2 = r(z)^2, r(z) = m + s z."""
    near, far = _slab(o[:, 2], d[:, 2])
    s = (taper - 1) / 2
    r, dr = (1 + taper) / 2 + s * o[:, 2], s * d[:, 2]
    a = d[:, 0] ** 2 + d[:, 1] ** 2 - dr**2
    a = torch.where(a.abs() < _TINY, torch.full_like(a, _TINY), a)
    b = o[:, 0] * d[:, 0] + o[:, 1] * d[:, 1] - r * dr
    c = o[:, 0] ** 2 + o[:, 1] ** 2 - r**2
    root_squared = b * b - a * c
    root = root_squared.clamp_min(0).sqrt()
    first, second = (-b - root) / a, (-b + root) / a
    first, second = torch.minimum(first, second), torch.maximum(first, second)
    # Steeper than the cone (a < 0), the ray is inside before the first or after the second crossing, one in each nappe;
    # the caps leave only one of the two.
    before = torch.minimum(far, first) - near > far - torch.maximum(near, second)
    shallow = a > 0
    t_in = torch.where(shallow, torch.maximum(near, first), torch.where(before, near, torch.maximum(near, second)))
    t_out = torch.where(shallow, torch.minimum(far, second), torch.where(before, torch.minimum(far, first), far))
    missed = shallow & (root_squared < 0)
    return torch.where(missed, 1.0, t_in), torch.where(missed, -1.0, t_out)
