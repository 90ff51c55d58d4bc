"""The seam between lift3d and a 2D model: a model is an encoder and a decoder, split at a feature map."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lift3d_cli.errors import ModelError
from lift3d_cli.geometry.grids import FeatureGrid


@dataclass(frozen=True)
class ModelSpec:
    """What the command line must know of a model before it is loaded.

    Args:
        name: what `--model` takes; lower case, digits and hyphens.
        channels: C of the feature map.
        stride: image pixels per feature cell.
        tasks: what `decode --task` can do with the features; the first is the default.
        version: changes whenever the features of the same photo change, so that cached ones are not reused.
        license: SPDX identifier of the weights' licence.
        summary: one line for `lift3d models`.
    """

    name: str
    channels: int
    stride: int
    tasks: tuple[str, ...]
    version: str = "1"
    license: str = "unknown"
    summary: str = ""


@dataclass(frozen=True)
class FeatureMap:
    """Features of one image.

    Args:
        data: [C, h, w] floating point.
        grid: where the h x w cells lie in the image.
    """

    data: Tensor
    grid: FeatureGrid


@dataclass(frozen=True)
class RenderedView:
    """What a decoder may use beside the features.

    Args:
        image: [3, H, W] rendered (or real) colour in [0, 1] sRGB.
        coverage: [H, W] in [0, 1]: how much of each pixel was seen by a source photo.
    """

    image: Tensor
    coverage: Tensor


class Model(nn.Module):
    """A 2D model, split. Subclass it, set `spec`, write `encode` and `decode`; `docs/adding-a-model.md` shows one.

    It is an `nn.Module`: parameters and buffers move with `.to(device)`, and their bytes are part of the cache key.
    """

    spec: ModelSpec

    def grid(self, width: int, height: int) -> FeatureGrid:
        """Where the feature cells of an image of this size (pixels) lie. The default pads to whole strides."""
        return FeatureGrid.from_stride(width, height, self.spec.stride)

    def encode(self, image: Tensor) -> FeatureMap:
        """Encode one image [3, H, W] in [0, 1] sRGB, of any size; the map's grid is `self.grid(W, H)`."""
        raise NotImplementedError

    def decode(self, features: FeatureMap, view: RenderedView, task: str) -> Tensor:
        """Decode features of a view to an image [3, H, W] in [0, 1], H x W being the size of `view.image`."""
        raise NotImplementedError

    def preprocessing(self) -> dict[str, object]:
        """Settings of `encode` beyond the weights that change the features; part of the cache key."""
        return {}

    @torch.inference_mode()
    def checked_encode(self, image: Tensor) -> FeatureMap:
        """`encode`, held to the model's own declaration.

        Raises:
            ModelError: if channels or grid are not the declared ones, or a value is not finite.
        """
        features = self.encode(image)
        grid = self.grid(image.shape[2], image.shape[1])
        want = (self.spec.channels, grid.height, grid.width)
        if tuple(features.data.shape) != want or features.grid != grid:
            raise ModelError(
                f"model {self.spec.name}: encode() gave features {tuple(features.data.shape)} on {features.grid}, "
                f"its spec and grid() say {want} on {grid}"
            )
        if not torch.isfinite(features.data).all():
            raise ModelError(f"model {self.spec.name}: encode() gave NaN or infinite features")
        return features
