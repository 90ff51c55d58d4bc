"""`rgb`: the identity. Its features are the photo's colours, so that rendering them is plain novel view synthesis."""

from __future__ import annotations

from torch import Tensor

from lift3d_cli.models.base import FeatureMap, Model, ModelSpec, RenderedView


class Rgb(Model):
    """Features are the pixels, and the decoder returns them."""

    spec = ModelSpec(
        name="rgb",
        channels=3,
        stride=1,
        tasks=("rgb",),
        license="Apache-2.0",
        summary="the photo's own colours, for checks",
    )

    def encode(self, image: Tensor) -> FeatureMap:
        """Return the image [3, H, W] itself."""
        return FeatureMap(image, self.grid(image.shape[2], image.shape[1]))

    def decode(self, features: FeatureMap, view: RenderedView, task: str) -> Tensor:
        """Interpolate the features at the view's pixels: [3, H, W] in [0, 1]."""
        _, height, width = view.image.shape
        return features.at_pixels(width, height).clamp(0, 1)
