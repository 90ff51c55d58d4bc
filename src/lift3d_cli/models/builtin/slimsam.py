"""`slimsam`: a small Segment Anything (Kirillov et al. 2023; SlimSAM, Chen et al. 2024) segments the object at a point.

The features are SAM's image embedding, and its mask decoder runs for each view. The point is in one photo, and is
transferred to the views as in PerSAM (Zhang et al. 2023, "Personalize Segment Anything Model with One Shot"), without
its fine-tuning and guided attention: the object's mask in that photo gives a prototype embedding of the object, and one
of everything else; in each view SAM is prompted at the cell that is most similar to the one and dissimilar to the
other. Of several similar objects, a view may thus show another one than was clicked.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.errors import ModelError
from lift3d_cli.geometry.grids import FeatureGrid, inside
from lift3d_cli.models.base import DecodeContext, Decoder, FeatureMap, Model, ModelSpec, RenderedView, Segmentation
from lift3d_cli.models.builtin.vit import IMAGENET_MEAN, IMAGENET_STD
from lift3d_cli.models.pretrained import load_transformers


class SlimSam(Model):
    """Any `SamModel` checkpoint of transformers. A map always has 64 x 64 cells, covering a square.

    SAM sees squares: an image is resized so that its longer side fits, and the rest at right or bottom is empty. The
    empty cells are kept, so that a photo's features are those of the unsplit model. In rendered features, these cells
    show what the scene has beside the view, and are replaced by those of the clicked photo.
    """

    spec = ModelSpec(
        name="slimsam",
        channels=256,
        stride=16,
        tasks=("segment",),
        version="1",
        license="Apache-2.0",
        summary="segments the thing at --point, in all views (a small Segment Anything)",
        max_size=1024,
        hub="Zigeng/SlimSAM-uniform-77",
        revision="42517748c0b6082c5a351e2c8a430394fe7bdc0d",
        download_bytes=38_900_000,
        extra="hf",
    )

    def __init__(self, checkpoint: str = "") -> None:
        """Load the weights of `checkpoint`, a folder or `owner/repository@revision`, or those of the spec."""
        super().__init__()
        spec = type(self).spec
        self.network = load_transformers(spec, {"sam": "SamModel"}, checkpoint)
        vision = self.network.config.vision_config
        sizes = {"channels": vision.output_channels, "stride": vision.patch_size, "max_size": vision.image_size}
        self.spec = dataclasses.replace(spec, **sizes)

    def grid(self, width: int, height: int) -> FeatureGrid:
        """Return the cells of the square; one covers `spec.stride` pixels of an image whose longer side fills it."""
        cells = self.spec.max_size // self.spec.stride
        resized = self._resized(width, height)
        scale = tuple(new / (self.spec.stride * old) for new, old in zip(resized, (width, height), strict=True))
        return FeatureGrid(cells, cells, scale)

    def encode(self, image: Tensor) -> FeatureMap:
        """Encode a photo [3, H, W]."""
        width, height = self._resized(image.shape[2], image.shape[1])
        pixels = F.interpolate(
            image[None].float(), size=(height, width), mode="bilinear", antialias=True, align_corners=False
        )
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        pixels = F.pad((pixels - mean) / std, (0, self.spec.max_size - width, 0, self.spec.max_size - height))
        data = self.network.get_image_embeddings(pixels)[0]
        return FeatureMap(data, self.grid(image.shape[2], image.shape[1]))

    def decoder(self, context: DecodeContext) -> Decoder:
        """Segment into "other" and "object", the object at the point; see the module.

        Raises:
            ModelError: if there is no point, or it is outside of the photo.
        """
        point = context.options.point
        if point is None:
            raise self._no_point()
        if not all(0 <= coordinate <= 1 for coordinate in point):
            raise ModelError(f"model {self.spec.name}: the point is not on the photo. hint: --point X,Y in its pixels")
        features, image = context.photo(context.options.point_view)
        size = (image.shape[2], image.shape[1])
        masks, quality = self.masks(features, torch.tensor(point) * torch.tensor(size))
        # SAM always returns masks of a whole, a part and a subpart, in this order: views use the same one as the photo.
        chosen = int(quality.argmax())
        like = _likeness(features, masks[chosen], size)
        photo = features

        def decode(features: FeatureMap, view: RenderedView) -> Segmentation:
            height, width = view.image.shape[1:]
            features = _with_empty_cells(features, (width, height), photo, size)
            score = (F.normalize(features.data.float().flatten(1), dim=0) * like[:, None]).sum(0)
            centers = features.grid.cell_centers()
            score = score.masked_fill(~inside(centers, width, height).to(score.device), -torch.inf)
            best = int(score.argmax())
            if score[best] <= 0:  # more like the rest than the object: the view does not show it
                shown = torch.zeros(height, width, device=score.device)
            else:
                masks, _ = self.masks(features, centers[best])
                shown = features.finer(masks[chosen][None]).at_pixels(width, height)[0].sigmoid()
            return Segmentation(torch.stack([1 - shown, shown]), ("other", "object"))

        return decode

    def decode(self, features: FeatureMap, view: RenderedView, task: str) -> Tensor:
        """Raise an error: there is no point, see `decoder`."""
        raise self._no_point()

    def masks(self, features: FeatureMap, point: Tensor) -> tuple[Tensor, Tensor]:
        """Return SAM's masks of the object at a point.

        Args:
            features: features of a square of cells.
            point: [2] pixels of the image that the features' grid refers to.

        Returns:
            logits [3, 4h, 4w], of the whole square; and SAM's estimate of their quality, [3].
        """
        cells = point * torch.tensor(features.grid.scale) + torch.tensor(features.grid.offset)
        # The library's pixels have the first one's centre at (0, 0).
        pixels = (cells * self.spec.stride - 0.5).reshape(1, 1, 1, 2).to(features.data.device)
        out = self.network(image_embeddings=features.data[None].float(), input_points=pixels)
        return out.pred_masks[0, 0], out.iou_scores[0, 0]

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Return (width, height) of an image of this size, resized to the square."""
        factor = self.spec.max_size / max(width, height)
        return tuple(max(1, int(n * factor + 0.5)) for n in (width, height))

    def _no_point(self) -> ModelError:
        return ModelError(f"model {self.spec.name}: segment what? hint: --point X,Y --view PHOTO")


def _likeness(features: FeatureMap, mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the difference of the mean directions in and outside of a mask, to multiply normalised cells with.

    Args:
        features: features of a photo.
        mask: logits of the mask, in the same square.
        size: (width, height) of the photo, in pixels.
    """
    cells = F.normalize(features.data.float().flatten(1), dim=0)
    within = F.adaptive_avg_pool2d(mask.sigmoid()[None], features.data.shape[1:]).flatten()
    on_photo = inside(features.grid.cell_centers(), *size).to(within)
    means = [cells @ (share * on_photo) for share in (within, 1 - within)]
    return F.normalize(means[0], dim=0) - F.normalize(means[1], dim=0)


def _with_empty_cells(
    features: FeatureMap, size: tuple[int, int], photo: FeatureMap, photo_size: tuple[int, int]
) -> FeatureMap:
    """Replace a view's cells beside the image by a photo's; where the photo has none, by their mean.

    Args:
        features, size: the view's features, and its (width, height) in pixels.
        photo, photo_size: the photo's features and size.
    """
    on_view, on_photo = (
        inside(f.grid.cell_centers(), *pixels).reshape(f.grid.height, f.grid.width).to(f.data.device)
        for f, pixels in ((features, size), (photo, photo_size))
    )
    if on_view.all() or on_photo.all():
        return features
    empty = photo.data[:, ~on_photo].mean(1)[:, None, None].expand_as(photo.data)
    beside = torch.where(on_photo, empty, photo.data)
    return FeatureMap(torch.where(on_view, features.data, beside), features.grid)
