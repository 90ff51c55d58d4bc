"""A procedural scene: random or built by hand, rendered with exact depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.procedural import layouts, viewpoints
from lift3d_cli.procedural.builder import SolidsBuilder
from lift3d_cli.procedural.library import TextureLibrary
from lift3d_cli.procedural.lighting import Light, Quality, Surface, radiance
from lift3d_cli.procedural.raycast import Hits, first_hits
from lift3d_cli.procedural.solids import Solids

# Rays shaded at a time, which bounds the memory (about 1 KiB per ray).
_RAYS_AT_ONCE = 1 << 18
# Mean linear brightness of a picture, and the brightness at which highlights are clipped before averaging: brighter
# ones would alias.
_MEDIUM, _CLIP = 0.25, 1.5
# Brightness from which highlights are compressed instead of clipped.
_KNEE = 0.75


@dataclass(frozen=True)
class SceneSpec:
    """The contents of a random scene.

    Args:
        rig: "forward", "arc" or "walk"; the arrangement suits it.
        num_objects: smallest and largest number of objects, besides ground, walls and far background.
        num_textures, texture_size: the textures to make for the scene if none are passed in.
    """

    rig: str = "arc"
    num_objects: tuple[int, int] = (10, 40)
    num_textures: int = 16
    texture_size: int = 256


class ProceduralScene:
    """Solids, textures and light, arranged for camera rigs. World: z up, content with a radius of about 1."""

    def __init__(
        self, solids: Solids, library: TextureLibrary, light: Light, arrangement: layouts.Arrangement, rig: str = "arc"
    ) -> None:
        self.solids = solids
        self.library = library
        self.light = light
        self.arrangement = arrangement
        self.rig_kind = rig
        self.exposure = 1.0

    @classmethod
    def random(
        cls,
        seed: int,
        rig: str | None = None,
        device: torch.device | str = "cpu",
        spec: SceneSpec | None = None,
        textures: Sequence[Tensor] | TextureLibrary = (),
    ) -> ProceduralScene:
        """Make a random scene; deterministic for the same arguments on the same kind of device.

        Args:
            seed: seed of all random numbers.
            rig: overrides the rig of `spec`.
            device: device to render on.
            spec: contents of the scene.
            textures: photos [3, h, w] in [0, 1] to cut textures from, or a texture library on the same device.
        """
        spec = spec or SceneSpec()
        rig = rig or spec.rig
        if rig not in layouts.RIGS:
            raise ValueError(f"no rig named {rig!r}, there are {', '.join(layouts.RIGS)}")
        if not isinstance(textures, TextureLibrary):
            generator = torch.Generator(device).manual_seed(seed)
            textures = TextureLibrary(spec.num_textures, spec.texture_size, generator, textures)
        rng = np.random.default_rng(seed)
        builder = SolidsBuilder()
        arrangement = layouts.random_arrangement(builder, rng, textures, rig, spec.num_objects)
        scene = cls(builder.build(device), textures, _random_light(rng, arrangement.indoors, device), arrangement, rig)
        scene.exposure = scene._auto_exposure()
        return scene

    def rig(self, num_views: int, width: int, height: int, generator: np.random.Generator | int = 0) -> list[Camera]:
        """Make random cameras for the scene's kind of rig.

        Args:
            num_views: number of cameras.
            width, height: size of their pictures in pixels.
            generator: random numbers or a seed.
        """
        rng = np.random.default_rng(generator)
        solid = self.solids.select(~self.solids.hollow)
        boxes = tuple(part.double().cpu().numpy() for part in (solid.centre, solid.axes, solid.half))
        return viewpoints.random_rig(self.rig_kind, self.arrangement, boxes, (num_views, width, height), rng)

    def render(self, camera: Camera, quality: Quality | None = None) -> tuple[Tensor, Tensor]:
        """Render one picture: image [3, H, W] sRGB in [0, 1], depth [H, W] z-depth at the pixel centres."""
        images, depth = self.render_batch([camera], quality)
        return images[0], depth[0]

    def render_batch(self, cameras: Sequence[Camera], quality: Quality | None = None) -> tuple[Tensor, Tensor]:
        """Render pictures of one size: images [V, 3, H, W] sRGB in [0, 1], depth [V, H, W]."""
        pictures = [self._picture(camera, quality or Quality()) for camera in cameras]
        images = torch.stack([tone_map(linear * self.exposure) for linear, _ in pictures])
        return images.permute(0, 3, 1, 2).contiguous(), torch.stack([depth for _, depth in pictures])

    def _picture(self, camera: Camera, quality: Quality) -> tuple[Tensor, Tensor]:
        """Return linear colours [H, W, 3] and z-depth [H, W] of one view."""
        height, width, s = camera.height, camera.width, quality.supersample
        v, u = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
        centres = np.stack([u, v], -1).reshape(-1, 2)
        if s > 1:
            colours = self._antialiased(camera, centres, quality)
            depth = self._cast(camera, centres)[1].t
        else:
            colours, hits = self._sample(camera, centres, quality, (0, 1))
            depth = hits.t
            if quality.smooth_edges:
                edge = _outlines(hits.solid.reshape(height, width)).reshape(-1).nonzero()[:, 0]
                finer = replace(quality, supersample=2)
                colours[edge] = self._antialiased(camera, centres[edge.cpu().numpy()], finer)
        return colours.reshape(height, width, 3), depth.reshape(height, width)

    def _antialiased(self, camera: Camera, centres: np.ndarray, quality: Quality) -> Tensor:
        """Return mean colours [R, 3] of s x s samples in the pixels around `centres` [R, 2]."""
        s = quality.supersample
        total = torch.zeros(len(centres), 3, device=self.solids.centre.device)
        for number in range(s * s):
            place = (np.array([number % s, number // s]) + 0.5) / s - 0.5
            colours, _ = self._sample(camera, centres + place, quality, (number, s * s))
            total += colours.clamp(max=_CLIP / self.exposure) / (s * s)
        return total

    def _cast(self, camera: Camera, uv: np.ndarray) -> tuple[Tensor, Hits]:
        """Return world directions [R, 3] with unit camera-z through the pixels `uv` [R, 2], and what the rays hit."""
        # In float64 up to here: otherwise the camera's rotation times K^-1 loses precision.
        rays = np.concatenate([uv, np.ones((len(uv), 1))], 1) @ np.linalg.inv(camera.K).T @ camera.w2c[:3, :3]
        directions = torch.from_numpy(rays.astype(np.float32)).to(self.solids.centre.device)
        return directions, first_hits(self.solids, self._position(camera), directions)

    def _position(self, camera: Camera) -> Tensor:
        return torch.from_numpy(camera.position.astype(np.float32)).to(self.solids.centre.device)

    def _sample(self, camera: Camera, uv: np.ndarray, quality: Quality, subset: tuple[int, int]) -> tuple[Tensor, Hits]:
        """Return linear colours [R, 3] and hits of one ray through each of the pixels `uv` [R, 2]."""
        directions, hits = self._cast(camera, uv)
        xyz = self._position(camera) + hits.t[:, None] * directions
        viewdirs = F.normalize(directions, dim=1)
        angle = torch.full_like(hits.t, 1 / (camera.K[0, 0] * quality.supersample))
        colours = torch.zeros_like(directions)
        for part in (hits.solid >= 0).nonzero()[:, 0].split(_RAYS_AT_ONCE):
            values = (value[part] for value in (hits.solid, xyz, viewdirs, hits.t * angle, angle))
            colours[part] = radiance(self.solids, self.library.atlas, self.light, Surface(*values), quality, subset)
        return colours, hits

    def _auto_exposure(self) -> float:
        """Return the factor that brings a few small pictures to medium brightness, as a camera does per capture."""
        quality = Quality(smooth_edges=False)
        mean = [self._picture(camera, quality)[0].mean() for camera in self.rig(3, 32, 24)]
        return float(np.clip(_MEDIUM / max(float(torch.stack(mean).mean()), 1e-3), 0.5, 3.0))


def _outlines(solid: Tensor) -> Tensor:
    """Return True for pixels with another solid at the pixel to the right, left, below or above: [H, W] bool."""
    across, down = solid[:, 1:] != solid[:, :-1], solid[1:] != solid[:-1]
    edge = torch.zeros_like(solid, dtype=torch.bool)
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge


def tone_map(linear: Tensor) -> Tensor:
    """Convert linear light to sRGB in [0, 1], with highlights compressed as cameras do."""
    over = (linear - _KNEE).clamp_min(0)
    room = 1 - _KNEE
    soft = torch.where(linear > _KNEE, _KNEE + room * (1 - torch.exp(-over / room)), linear)
    return soft.clamp(0, 1) ** (1 / 2.2)


def _random_light(rng: np.random.Generator, indoors: bool, device: torch.device | str) -> Light:
    """Choose sun and sky, an overcast day, or lamps."""

    def tensor(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(values, dtype=np.float32)).to(device)

    elevation, azimuth = rng.uniform(0.5, 1.4), rng.uniform(-np.pi, np.pi)
    level = np.cos(elevation)
    direction = np.array([level * np.cos(azimuth), level * np.sin(azimuth), np.sin(elevation)])
    warm = 1 + rng.uniform(0, 0.15) * np.array([1, 0.2, -1])
    strength = rng.uniform(0.3, 1.3)
    return Light(
        direction=tensor(direction),
        key=tensor(strength * warm),
        sky=tensor(rng.uniform(0.45, 0.9) * (2 - warm)),
        ground=tensor(rng.uniform(0.15, 0.45) * warm),
        softness=float(rng.uniform(0.02, 0.2)),
        ripple=tensor(rng.normal(0, 0.8 if indoors else 0.2, 3)),
        ripple_strength=float(rng.uniform(0, 0.35)),
    )
