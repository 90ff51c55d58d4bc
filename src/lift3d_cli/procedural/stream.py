"""An endless stream of small multi-view examples with exact depth, for training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lift3d_cli.procedural.layouts import RIGS
from lift3d_cli.procedural.library import TextureLibrary
from lift3d_cli.procedural.lighting import Quality
from lift3d_cli.procedural.scene import ProceduralScene, SceneSpec


@dataclass(frozen=True)
class StreamSpec:
    """Sizes and contents of a stream.

    Args:
        num_views, width, height: number of views per example, and their size in pixels.
        rigs: kinds of rigs, drawn with equal probability.
        num_objects: smallest and largest number of objects in a scene.
        photo_variation: 0 for ideal pictures, 1 for a phone's variation from photo to photo (see `vary_photos`).
        num_textures, texture_size: the textures that all scenes share; one texture is renewed per scene.
        plain: share of the textures that show next to nothing, as painted walls do.
        quality: quality of the pictures.
    """

    num_views: int = 5
    width: int = 192
    height: int = 144
    rigs: tuple[str, ...] = RIGS
    num_objects: tuple[int, int] = (10, 40)
    photo_variation: float = 1.0
    num_textures: int = 48
    texture_size: int = 256
    plain: float = 0.0
    quality: Quality = field(default_factory=Quality)


def stream(
    seed: int,
    spec: StreamSpec | None = None,
    device: torch.device | str = "cpu",
    textures: Sequence[Tensor] = (),
) -> Iterator[dict[str, Tensor]]:
    """Render random scenes endlessly; deterministic for the same arguments on the same kind of device.

    Args:
        seed: seed of all random numbers.
        spec: sizes and variety.
        device: device to render on, and of the tensors.
        textures: photos [3, h, w] in [0, 1] that half of the textures are cut from.

    Yields:
        images [V, 3, H, W] sRGB in [0, 1], depth [V, H, W] z-depth, K [V, 3, 3] pixels, w2c [V, 4, 4], and
            depth_range [2], the smallest and largest depth of all views; float32. The order of the views is random.
    """
    spec = spec or StreamSpec()
    generator = torch.Generator(device).manual_seed(seed)
    library = TextureLibrary(spec.num_textures, spec.texture_size, generator, textures, spec.plain)
    seeds = np.random.default_rng(seed)
    while True:
        rng = np.random.default_rng(seeds.integers(2**63))
        scene_spec = SceneSpec(str(rng.choice(spec.rigs)), spec.num_objects)
        scene = ProceduralScene.random(int(rng.integers(2**31)), device=device, spec=scene_spec, textures=library)
        cameras = scene.rig(spec.num_views, spec.width, spec.height, rng)
        cameras = [cameras[i] for i in rng.permutation(len(cameras))]
        images, depth = scene.render_batch(cameras, spec.quality)
        if spec.photo_variation > 0:
            images = vary_photos(images, generator, spec.photo_variation)
        yield {
            "images": images,
            "depth": depth,
            "K": torch.from_numpy(np.stack([camera.K for camera in cameras])).float().to(device),
            "w2c": torch.from_numpy(np.stack([camera.w2c for camera in cameras])).float().to(device),
            "depth_range": torch.stack([depth.min(), depth.max()]),
        }
        library.refresh()


def vary_photos(images: Tensor, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Change exposure, white balance, vignetting and noise from photo to photo, as an automatic camera does.

    Args:
        images: [V, 3, H, W] sRGB in [0, 1].
        generator: random numbers, on the images' device.
        strength: 1 for about 0.15 stops of exposure, 3 % of white balance, up to 10 % darker corners, and noise of up
            to 0.012; other values scale these.

    Returns:
        [V, 3, H, W] sRGB in [0, 1].
    """
    views, _, height, width = images.shape

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=images.device) * strength

    gain = torch.exp2(0.15 * normal(views, 1, 1, 1)) * torch.exp(0.03 * normal(views, 3, 1, 1))
    y = torch.linspace(-1, 1, height, device=images.device)[:, None]
    x = torch.linspace(-1, 1, width, device=images.device)[None]
    darker = 0.05 * normal(views, 1, 1, 1).abs().clamp(max=2 * strength)
    gain = gain * (1 - darker * (x * x + y * y) / 2)
    level = 0.012 * torch.rand(views, 1, 1, 1, generator=generator, device=images.device)
    noise = level * normal(*images.shape)
    return (((images**2.2) * gain) ** (1 / 2.2) + noise).clamp(0, 1)
