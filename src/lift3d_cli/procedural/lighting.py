"""Light and shading: one soft key light with shadows, a sky, a bounce from below, and gloss."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.procedural.atlas import TextureAtlas
from lift3d_cli.procedural.raycast import is_shadowed
from lift3d_cli.procedural.solids import ELLIPSOID, Solids, unit_normals

# Solids larger than this (world units) are ground and walls; the sky's gradient already accounts for them.
_LARGEST_OCCLUDER = 1.0
# How often a panorama repeats around the horizon; its height then covers 90 degrees.
_PANORAMA_REPEATS = 4
_GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))


@dataclass(frozen=True)
class Light:
    """The light of a scene; colours [3] are linear, 1 = a white surface facing it appears white.

    Args:
        direction: [3] unit vector towards the key light.
        key, sky, ground: [3] colours of the key light, of the sky above (+z) and of the bounce from below.
        softness: radius of the key light in radians, as seen from the scene.
        ripple: [3] wave vector of a slow variation of brightness through space, as from lamps indoors; 0 for none.
        ripple_strength: its amplitude, 0 to 1.
    """

    direction: Tensor
    key: Tensor
    sky: Tensor
    ground: Tensor
    softness: float
    ripple: Tensor
    ripple_strength: float


@dataclass(frozen=True)
class Quality:
    """The effort for a picture.

    Args:
        supersample: samples per pixel along each side.
        smooth_edges: with one sample per pixel, take 2 x 2 in the pixels at the outlines of solids.
        shadow_rays: directions of the key light that each sample tests; the samples of a pixel test different ones.
        sky_rays: directions of the sky likewise; 0 estimates the sky's shadows from spheres around the solids.
    """

    supersample: int = 1
    smooth_edges: bool = True
    shadow_rays: int = 1
    sky_rays: int = 0


@dataclass(frozen=True)
class Surface:
    """P points where rays hit solids.

    Args:
        index: [P] int64 solid.
        xyz: [P, 3] world.
        viewdirs: [P, 3] unit, from the camera to the point.
        pixel: [P] world length of a pixel at the point, on a plane that faces the camera.
        angle: [P] the same in radians, for surfaces at infinity.
    """

    index: Tensor
    xyz: Tensor
    viewdirs: Tensor
    pixel: Tensor
    angle: Tensor


def radiance(
    solids: Solids, atlas: TextureAtlas, light: Light, surface: Surface, quality: Quality, subset: tuple[int, int]
) -> Tensor:
    """Return the linear colour [P, 3] of the points as seen by the camera.

    Args:
        solids, atlas, light: the scene.
        surface: the points.
        quality: numbers of rays.
        subset: (i, n): take the i-th of n interleaved sets of light directions.
    """
    to_unit = solids.unit_from_world[surface.index]
    unit = torch.einsum("pij,pj->pi", to_unit, surface.xyz - solids.centre[surface.index])
    local_normals, faces = unit_normals(solids.kind[surface.index], solids.taper[surface.index], unit)
    normals = F.normalize(torch.einsum("pij,pi->pj", to_unit, local_normals), dim=1)
    normals = torch.where(solids.hollow[surface.index, None], -normals, normals)
    facing = -(normals * surface.viewdirs).sum(1)
    albedo = _albedo(solids, atlas, surface, unit, faces, facing)
    lit, shine = _illumination(solids, light, surface, normals, quality, subset)
    # Schlick's approximation: lacquer reflects 4 % head-on and everything at grazing angles.
    gloss = solids.gloss[surface.index] * (0.04 + 0.96 * (1 - facing.clamp(0, 1)) ** 5)
    gloss = gloss.clamp(max=0.9)[:, None]
    mirrored = surface.viewdirs + 2 * facing[:, None] * normals
    around = torch.lerp(light.ground, light.sky, ((mirrored[:, 2:] * 2 + 1) / 2).clamp(0, 1))
    lacquer = (solids.gloss[surface.index, None].clamp(max=1) * 0.35) * shine + gloss * around
    colours = albedo * lit * (1 - gloss) + lacquer
    return torch.where(solids.emissive[surface.index, None], albedo, colours)


def _illumination(
    solids: Solids, light: Light, surface: Surface, normals: Tensor, quality: Quality, subset: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Return the light that arrives at the points [P, 3], and the key light's highlight [P, 3]."""
    off_surface = surface.xyz + 1e-3 * normals
    count = quality.shadow_rays * subset[1]
    directions = _disc_directions(light.direction, light.softness, count)[subset[0] :: subset[1]]
    arriving = torch.zeros_like(surface.pixel)
    for direction in directions:
        cosine = (normals @ direction).clamp_min(0)
        arriving += cosine * _unblocked(solids, off_surface, surface.index, cosine, direction) / len(directions)
    half = F.normalize(light.direction - surface.viewdirs, dim=1)
    shine = (normals * half).sum(1).clamp_min(0) ** solids.shine[surface.index] * (arriving > 0)
    shine = shine * (solids.shine[surface.index] + 8) / 30  # narrow highlights are brighter
    if quality.sky_rays:
        sky = torch.zeros_like(surface.pixel)
        dome = _dome_directions(quality.sky_rays * subset[1], normals)[subset[0] :: subset[1]]
        for direction in dome:
            cosine = (normals @ direction).clamp_min(0)
            sky += 2 * cosine * _unblocked(solids, off_surface, surface.index, cosine, direction) / len(dome)
    else:
        sky = (1 + normals[:, 2]) / 2 * _openness(solids, surface.xyz, normals)
    bounce = (1 - normals[:, 2]) / 2
    ripple = 1 + light.ripple_strength * torch.sin(surface.xyz @ light.ripple)
    lit = arriving[:, None] * light.key + sky[:, None] * light.sky + bounce[:, None] * light.ground
    return lit * ripple[:, None], shine[:, None] * light.key


def _unblocked(solids: Solids, points: Tensor, own: Tensor, cosine: Tensor, direction: Tensor) -> Tensor:
    """Return 1 where light from `direction` arrives, 0 where it is blocked or the surface faces away: [P]."""
    free = torch.zeros_like(cosine)
    facing = (cosine > 0).nonzero()[:, 0]
    free[facing] = (~is_shadowed(solids, points[facing], own[facing], direction)).to(free)
    return free


def _openness(solids: Solids, xyz: Tensor, normals: Tensor) -> Tensor:
    """Return the unoccluded share of the sky [P], with each solid as a sphere (Quilez, "sphere ambient occlusion")."""
    near = (~solids.hollow) & (solids.bound < _LARGEST_OCCLUDER)
    # The radius of a sphere of about the same volume.
    centres, radii = solids.centre[near], solids.half[near].prod(1) ** (1 / 3)
    squared = (xyz * xyz).sum(1, keepdim=True) - 2 * xyz @ centres.T + (centres * centres).sum(1)
    squared = torch.maximum(squared, radii**2)
    toward = normals @ centres.T - (normals * xyz).sum(1, keepdim=True)
    hidden = toward.clamp_min(0) * radii**2 / (squared * squared.sqrt())
    return (1 - hidden).clamp_min(0.05).log().sum(1).exp()


def _albedo(
    solids: Solids, atlas: TextureAtlas, surface: Surface, unit: Tensor, faces: Tensor, facing: Tensor
) -> Tensor:
    """Return the linear colour [P, 3] of the material, which depends only on the place on the surface, up to mips."""
    index = surface.index
    half, tile = solids.half[index], solids.tile[index]
    metric = unit * half
    axis = (faces // 2).clamp(max=2)
    turned = (faces % 2 == 1) ^ (axis == 1)  # so that letters read left to right on every face
    u = torch.where(axis == 0, metric[:, 1], metric[:, 0]) * torch.where(turned, -1.0, 1.0) / tile
    v = torch.where(axis == 2, metric[:, 1], metric[:, 2]) / tile
    azimuth = torch.atan2(unit[:, 1], unit[:, 0]) / (2 * math.pi)
    elevation = torch.asin(F.normalize(metric, dim=1)[:, 2].clamp(-1, 1))
    ball = solids.kind[index] == ELLIPSOID
    wrapped = ball & solids.wrapped[index]
    around = wrapped | (faces == 6)
    girth = math.pi * half[:, 0] * torch.where(ball, 2.0, 1 + solids.taper[index])
    u = torch.where(around, azimuth * (girth / tile).round().clamp_min(1), u)
    v = torch.where(around, torch.where(ball, elevation * half[:, 2], metric[:, 2]) / tile, v)
    size = surface.pixel / tile / facing.clamp_min(0.1).sqrt()
    sky = solids.hollow[index] & ball
    u = torch.where(sky, azimuth * _PANORAMA_REPEATS, u)
    v = torch.where(sky, 0.5 + elevation / (math.pi / 2), v)
    size = torch.where(sky, surface.angle * _PANORAMA_REPEATS / (2 * math.pi), size)
    shift = solids.shift[index] + (torch.where(wrapped, 0, faces) * solids.face_shift[index])[:, None]
    uv = torch.stack([u, v], 1) + torch.where(sky[:, None], shift * torch.tensor([1.0, 0.0]).to(shift), shift)
    colours = atlas.sample(solids.texture[index], uv, size, solids.mirrored[index])
    return (torch.einsum("pij,pj->pi", solids.tint[index], colours) + solids.base[index]).clamp(0.005, 0.95)


def _disc_directions(direction: Tensor, radius: float, count: int) -> Tensor:
    """Return unit vectors [count, 3] evenly over a disc around `direction` (sunflower); its centre for one."""
    if count == 1:
        return direction[None]
    index = torch.arange(count, dtype=direction.dtype, device=direction.device)
    r = math.tan(radius) * ((index + 0.5) / count).sqrt()
    helper = torch.zeros_like(direction)
    helper[int(direction.abs().argmin())] = 1.0
    right = F.normalize(torch.linalg.cross(direction, helper), dim=0)
    up = torch.linalg.cross(direction, right)
    offsets = (r * (index * _GOLDEN_ANGLE).cos())[:, None] * right + (r * (index * _GOLDEN_ANGLE).sin())[:, None] * up
    return F.normalize(direction + offsets, dim=1)


def _dome_directions(count: int, like: Tensor) -> Tensor:
    """Return unit vectors [count, 3] evenly over the upper hemisphere (Fibonacci spiral)."""
    index = torch.arange(count, dtype=like.dtype, device=like.device)
    z = (index + 0.5) / count
    r = (1 - z * z).sqrt()
    return torch.stack([r * (index * _GOLDEN_ANGLE).cos(), r * (index * _GOLDEN_ANGLE).sin(), z], 1)
