"""`tiny-superres`: a small network that doubles an image's width and height, split at full size. Ships with lift3d."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from lift3d_cli.errors import ModelError
from lift3d_cli.models.base import FeatureMap, Model, ModelSpec, RenderedView
from lift3d_cli.weights import load_weights

SCALE = 2
CHANNELS = 32
_BLOCKS = 6


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(x)))


class SuperresNet(nn.Module):
    """The network that is trained, without photos or grids. A small EDSR (Lim et al. 2017): no normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, CHANNELS, 3, padding=1)
        # No ReLU at the end: features of several views are averaged, and a clipped average is not the average.
        self.body = nn.Sequential(
            *(_Residual(CHANNELS) for _ in range(_BLOCKS)), nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        )
        last = nn.Conv2d(CHANNELS, 3 * SCALE**2, 3, padding=1)
        nn.init.zeros_(last.weight)  # training starts at the interpolated image
        nn.init.zeros_(last.bias)
        self.decoder = nn.Sequential(
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.ReLU(), last, nn.PixelShuffle(SCALE)
        )

    def encode(self, image: Tensor) -> Tensor:
        """Map images [B, 3, H, W] in [0, 1] to features [B, 32, H, W]."""
        x = self.head(2 * image - 1)
        return x + self.body(x)

    def decode(self, features: Tensor) -> Tensor:
        """Map features [B, 32, H, W] to the detail that the interpolated image lacks, [B, 3, 2H, 2W]."""
        return self.decoder(features)

    def forward(self, image: Tensor) -> Tensor:
        """Run the unsplit model: images [B, 3, H, W] in [0, 1] to [B, 3, 2H, 2W], not clamped."""
        return enlarged(image) + self.decode(self.encode(image))


def enlarged(image: Tensor) -> Tensor:
    """Enlarge [B, 3, H, W] to twice the size by bicubic interpolation: what the network's detail is added to."""
    return F.interpolate(image, scale_factor=SCALE, mode="bicubic", align_corners=False)


class TinySuperres(Model):
    """Doubles the resolution: the features hold the detail, which is added to the view's interpolated colour.

    The detail comes from the photos, before the blur of rendering, and depends on only 5 x 5 cells.
    """

    spec = ModelSpec(
        name="tiny-superres",
        channels=CHANNELS,
        stride=1,
        tasks=("superres",),
        version="1",
        license="Apache-2.0",
        summary="doubles width and height; ships with lift3d, no download",
        max_size=640,
        scale=SCALE,
    )

    def __init__(self, checkpoint: str = "") -> None:
        """Load the shipped weights, or those of the file `checkpoint`."""
        super().__init__()
        self.net = SuperresNet()
        tensors = load_weights("tiny-superres.safetensors", Path(checkpoint) if checkpoint else None)
        try:
            self.net.load_state_dict({name: t.float() for name, t in tensors.items()})
        except RuntimeError as e:
            # torch's own message names every tensor: kept as the cause, not shown.
            raise ModelError(f"weights {checkpoint or 'of lift3d'} do not fit the network of tiny-superres") from e

    def encode(self, image: Tensor) -> FeatureMap:
        """Encode a photo [3, H, W]; a cell is a pixel."""
        return FeatureMap(self.net.encode(image[None])[0], self.grid(image.shape[2], image.shape[1]))

    def decode(self, features: FeatureMap, view: RenderedView, task: str) -> Tensor:
        """Enlarge the view to twice its size: [3, 2H, 2W] in [0, 1]."""
        detail = features.finer(self.net.decode(features.data[None])[0])
        detail = FeatureMap(detail.data, detail.grid.rescaled(SCALE, SCALE))  # the grid in pixels of the result
        image = enlarged(view.image[None])[0]
        return (image + detail.at_pixels(image.shape[2], image.shape[1])).clamp(0, 1)
