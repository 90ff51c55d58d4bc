"""Checks of the rules for 2D models, for anyone to run: `check_model("./my_model.py:MyModel")`."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lift3d_cli.errors import ModelError
from lift3d_cli.models.base import (
    DecodeContext,
    DecodeOptions,
    Decoder,
    FeatureMap,
    Model,
    RenderedView,
    Segmentation,
)
from lift3d_cli.models.fingerprint import fingerprint
from lift3d_cli.models.registry import find_model

# Widths and heights in pixels: multiples of most networks' strides, odd ones, and portrait.
SIZES = ((128, 96), (131, 93), (75, 110))
# Largest distance of features from their place on the grid, in cells, across and down. A forgotten half pixel causes
# 0.25 with one 3x3 layer of stride 2, 0.38 with two, 0.44 with three, equally across and down. Trained filters are not
# symmetric either: nearly so from left to right, but the sky is above (tiny-colorizer: 0.11 across and 0.46 down,
# though its layers are exactly centred, as a test with equal weights shows).
MAX_OFFSET_CELLS = (0.3, 0.75)


def check_model(ref: str) -> None:
    """Load the model of `--model REF`, and run every check on it.

    Raises:
        ModelError: with the rule that it breaks.
    """
    found = find_model(ref)
    model = found.load()
    if fingerprint(model, found) != fingerprint(found.load(), found):
        raise ModelError(
            f"model {found.name}: two instances differ; weights must not be random. hint: torch.manual_seed"
        )
    for check in CHECKS:
        check(model)


def check_features_match_declaration(model: Model) -> None:
    """Check that channels and grid match the spec and `grid()`, at any size, and that values are finite floats."""
    for image in sample_images():
        features = model.checked_encode(image)
        if not features.data.is_floating_point():
            raise _broken(model, f"features are {features.data.dtype}, not floating point")


def check_encode_is_repeatable(model: Model) -> None:
    """Check that encoding is deterministic, and leaves the photo unchanged."""
    for image in sample_images():
        before = image.clone()
        first = model.checked_encode(image).data.clone()
        # Another size in between: the model must not remember the previous photo.
        model.checked_encode(image[:, :64, :64])
        if not torch.equal(first, model.checked_encode(image).data):
            raise _broken(model, "encode() gives other features the second time")
        if not torch.equal(before, image):
            raise _broken(model, "encode() changes its input")


@torch.inference_mode()
def check_decode_gives_images(model: Model) -> None:
    """Check that each task decodes half-precision features to a valid result of the right size, deterministically."""
    for image in sample_images():
        features = model.checked_encode(image)
        stored = FeatureMap(features.data.half().float(), features.grid)  # as read from the cache
        view = RenderedView(image, torch.ones(image.shape[1:]))
        for task in model.spec.tasks:
            decoder = _decoder(model, task, stored, image)
            out = _values(decoder(stored, view))
            where = f"decode() of task {task}"
            factor = model.spec.scale if task == "superres" else 1
            size = tuple(factor * n for n in image.shape[1:])
            if out.shape[1:] != size or out.dim() != 3 or not out.is_floating_point():
                raise _broken(model, f"{where} gives {tuple(out.shape)} {out.dtype} for a view {tuple(image.shape)}")
            if not (out.isfinite().all() and out.min() >= 0 and out.max() <= 1):
                raise _broken(model, f"{where} gives values outside of [0, 1]")
            if not torch.equal(out, _values(decoder(stored, view))):
                raise _broken(model, f"{where} gives another image the second time")


def _decoder(model: Model, task: str, features: FeatureMap, image: Tensor) -> Decoder:
    """Make a task's decoder, with the first options that it accepts."""
    problem = None
    view = RenderedView(image, torch.ones_like(image[0]))
    for options in (
        DecodeOptions(),
        DecodeOptions(clusters=2),
        DecodeOptions(text=("a thing", "another")),
        DecodeOptions(point=(0.5, 0.5), point_view="photo"),
        DecodeOptions(style=image),
    ):
        try:
            return model.decoder(DecodeContext(task, options, [features], lambda name: (features, image), [view]))
        except ModelError as e:
            problem = problem or e
    raise problem


def _values(out: Tensor | Segmentation) -> Tensor:
    return out.scores if isinstance(out, Segmentation) else out


def check_features_lie_where_the_grid_says(model: Model) -> None:
    """Check that a spot in the photo changes the features around its cell on the grid, averaged over many places."""
    offsets = feature_offsets(model)
    mean = offsets.mean(0)
    if (mean.abs() > torch.tensor(MAX_OFFSET_CELLS)).any():
        raise _broken(
            model,
            f"features lie ({mean[0]:+.2f}, {mean[1]:+.2f}) cells (x, y) beside the grid. hint: give grid() the offset "
            "that the network's padding makes; see docs/adding-a-model.md",
        )


CHECKS = (
    check_features_match_declaration,
    check_encode_is_repeatable,
    check_decode_gives_images,
    check_features_lie_where_the_grid_says,
)


def feature_offsets(model: Model) -> Tensor:
    """Measure the offset of the features' change from a spot in the image: [N, 2] cells (x, y), for N spots."""
    stride = model.spec.stride
    side = max(stride, 2)
    size = max(24 * stride, 48)
    spots = range(size // 3, 2 * size // 3, max(1, size // 10))
    offsets = []
    for level in (0.35, 0.65):
        flat = torch.full((3, size, size), level)
        background = model.checked_encode(flat)
        for top in spots:
            for left in spots:
                image = flat.clone()
                image[:, top : top + side, left : left + side] = 1 - level
                change = (model.checked_encode(image).data - background.data).float().square().sum(0)
                center = torch.tensor([left + side / 2, top + side / 2])
                offsets.append(_offset_cells(change, center, background))
    return torch.stack(offsets)


def _offset_cells(change: Tensor, center: Tensor, features: FeatureMap) -> Tensor:
    """Return the offset from `center` (image pixels) to the centroid of `change` [h, w] near it: [2] cells (x, y)."""
    scale = torch.tensor(features.grid.scale)
    delta = (features.grid.cell_centers() - center) * scale
    # Far away, networks with attention or normalisation change everywhere a little; the window is symmetric.
    near = change.reshape(-1) * (delta.abs() <= 3).all(1)
    return (delta * near[:, None]).sum(0) / near.sum().clamp_min(1e-20)


def sample_images() -> Iterator[Tensor]:
    """Yield images [3, H, W] with edges, slopes and noise, one per size; deterministic."""
    for width, height in SIZES:
        noise = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))
        v, u = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
        steps = ((u * 7).floor() + (v * 5).floor()) % 2
        yield (0.3 * noise + 0.4 * torch.stack([u, v, steps]) + 0.3 * steps).clamp(0, 1)


def _broken(model: Model, what: str) -> ModelError:
    return ModelError(f"model {model.spec.name}: {what}")
