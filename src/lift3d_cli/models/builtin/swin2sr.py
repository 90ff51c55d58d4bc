"""`swin2sr`: super-resolution by window attention (Conde et al. 2022, arXiv:2209.11345), split before its upsampler."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.errors import ModelError
from lift3d_cli.geometry.grids import sample_map
from lift3d_cli.models.base import FeatureMap, Model, ModelSpec, RenderedView
from lift3d_cli.models.pretrained import load_transformers

# The upsamplers that enlarge. Networks with another or none restore pictures, and add their result to the photo's
# pixels.
UPSAMPLERS = ("pixelshuffle", "pixelshuffledirect", "nearest+conv", "pixelshuffle_aux")


class Swin2SR(Model):
    """Enlarges pictures `spec.scale` times; the photo is the small picture.

    The features are the upsampler's input: the first convolution's result plus that of the body, one cell per pixel.
    The body needs whole windows, so photos are mirrored at right and bottom, as the authors do; only cells of the photo
    itself are features. The upsampler is local (3 cells, 5 with `pixelshuffle_aux`): except that far from a padded
    side, decode(encode(photo)) equals the unsplit model.
    """

    spec = ModelSpec(
        name="swin2sr",
        channels=180,
        stride=1,
        tasks=("superres",),
        version="1",
        license="Apache-2.0",
        summary="super-resolution, twice as wide and high (x4 with other checkpoints)",
        max_size=512,
        scale=2,
        hub="caidas/swin2SR-classical-sr-x2-64",
        revision="cee1c923c6a37361c6e5650b65dcf4be821e5d52",
        download_bytes=48_500_000,
        extra="hf",
    )

    def __init__(self, checkpoint: str = "") -> None:
        """Load the default weights, or those of a folder or repository `checkpoint`, with its channels and scale."""
        super().__init__()
        self.net = load_transformers(self.spec, {"swin2sr": "Swin2SRForImageSuperResolution"}, checkpoint)
        config = self.net.config
        where = f"model {self.spec.name}: {checkpoint or self.spec.hub}"
        if config.upsampler not in UPSAMPLERS:
            raise ModelError(
                f"{where} has the upsampler {config.upsampler!r}: it enlarges nothing. hint: such as {self.spec.hub}"
            )
        if (config.num_channels, config.num_channels_out, config.patch_size) != (3, 3, 1):
            raise ModelError(f"{where} is not from red, green and blue to the same, with patches of one pixel")
        self.spec = dataclasses.replace(self.spec, channels=config.embed_dim, scale=config.upscale)

    def encode(self, image: Tensor) -> FeatureMap:
        """Encode a photo [3, H, W] in [0, 1]; the network itself subtracts its mean colour."""
        height, width = image.shape[1:]
        pixels = _mirrored(image, self.net.config.window_size)
        features = self.net.swin2sr(pixels[None]).last_hidden_state[0]
        return FeatureMap(features[:, :height, :width], self.grid(width, height))

    def decode(self, features: FeatureMap, view: RenderedView, task: str) -> Tensor:
        """Enlarge a view [3, H, W] to [3, scale * H, scale * W] in [0, 1].

        The upsampler runs on the features' own cells, since it was trained on maps of that sharpness; if these are not
        the view's pixels, its result is resampled.
        """
        scale = self.spec.scale
        colors = self._upsample(features, view.image)[0]
        colors = (colors / self.net.swin2sr.img_range + self.net.swin2sr.mean[0].to(colors)).clamp(0, 1)
        # Its grid is in pixels of the view; the result has `scale` times as many.
        grid = features.finer(colors).grid.rescaled(scale, scale)
        out = FeatureMap(colors, grid).at_pixels(scale * view.image.shape[2], scale * view.image.shape[1])
        return out.clamp(0, 1)  # again, since interpolation rounds

    def _upsample(self, features: FeatureMap, image: Tensor) -> Tensor:
        """Map features on h x w cells to [1, 3, scale * h, scale * w], in the network's range."""
        data, grid = features.data[None], features.grid
        if self.net.upsampler != "pixelshuffle_aux":
            return self.net.upsample(data)
        # This upsampler also reads the small picture, enlarged bicubically: the view, sampled at the cells.
        small = sample_map(image[None], grid.cell_centers()[None].to(image)).reshape(1, 3, grid.height, grid.width)
        bicubic = F.interpolate(small, scale_factor=self.spec.scale, mode="bicubic", align_corners=False)
        return self.net.upsample(data, bicubic, grid.height, grid.width)[0]


def _mirrored(image: Tensor, multiple: int) -> Tensor:
    """Pad [3, H, W] at right and bottom to a multiple of pixels by mirroring; H and W may be 1."""
    for dim in (1, 2):
        size = image.shape[dim]
        index = torch.arange(math.ceil(size / multiple) * multiple, device=image.device) % (2 * size)
        image = image.index_select(dim, torch.minimum(index, 2 * size - 1 - index))
    return image
