"""SlimSAM: the library's own forward in two halves, and a click carried to other views. A tiny random network."""

from __future__ import annotations

import sys

import pytest
import torch
from tiny_checkpoints import save_slimsam
from torch.nn import functional as F

from lift3d_cli import FeatureMap, RenderedView
from lift3d_cli.errors import ModelError
from lift3d_cli.geometry.grids import inside
from lift3d_cli.models.base import DecodeContext, DecodeOptions
from lift3d_cli.models.conformance import CHECKS
from lift3d_cli.models.registry import find_model

transformers = pytest.importorskip("transformers")

SIDE, PATCH, CHANNELS = 64, 8, 32
CELLS = SIDE // PATCH
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint as the library saves it."""
    path = tmp_path_factory.mktemp("slimsam")
    save_slimsam(path, SIDE, PATCH, CHANNELS)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return find_model(f"slimsam:{folder}").load()


@pytest.fixture(scope="module")
def network(folder):
    """The library's own network of the same checkpoint."""
    return transformers.SamModel.from_pretrained(folder).eval()


def _photo(width: int, height: int) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(width + height))


def _view(image: torch.Tensor) -> RenderedView:
    return RenderedView(image, torch.ones(image.shape[1:]))


def _library(network, image: torch.Tensor, point: tuple[float, float]):
    """Masks and their quality by the library's forward, with the preprocessing as SamProcessor documents it."""
    height, width = image.shape[1:]
    factor = SIDE / max(height, width)
    size = (int(height * factor + 0.5), int(width * factor + 0.5))
    resized = F.interpolate(image[None], size=size, mode="bilinear", antialias=True)
    pixels = F.pad((resized - MEAN[:, None, None]) / STD[:, None, None], (0, SIDE - size[1], 0, SIDE - size[0]))
    # Of pixels counted from the first one's centre, as OpenCV does.
    x, y = point[0] * size[1] / width - 0.5, point[1] * size[0] / height - 0.5
    out = network(pixel_values=pixels, input_points=torch.tensor([[[[x, y]]]]))
    return out.pred_masks[0, 0], out.iou_scores[0, 0], size


def _decoder(model, features, image, point):
    options = DecodeOptions(point=point, point_view="a.jpg")
    return model.decoder(DecodeContext("segment", options, [features], {"a.jpg": (features, image)}.__getitem__))


def test_declaration_names_hub_licence_and_size():
    spec = find_model("slimsam").spec()
    assert (spec.hub, spec.license, spec.extra) == ("Zigeng/SlimSAM-uniform-77", "Apache-2.0", "hf")
    assert (spec.channels, spec.stride, spec.max_size) == (256, 16, 1024)
    assert len(spec.revision) == 40


@torch.inference_mode()
@pytest.mark.parametrize("size", [(64, 64), (64, 41), (131, 98), (30, 17), (200, 3)], ids=str)
def test_decode_of_encode_is_the_unsplit_network(model, network, size):
    """At any size, square or not: the padding's cells are features as well."""
    image = _photo(*size)
    point = (0.3 * size[0], 0.6 * size[1])
    masks, quality, _ = _library(network, image, point)
    ours, our_quality = model.masks(model.checked_encode(image), torch.tensor(point))
    assert masks.std() > 0.1  # there is something to get wrong
    torch.testing.assert_close(ours, masks, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(our_quality, quality, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_masks_lie_on_the_pixels_as_in_the_library(model, network):
    """Its post-processing: masks to the square's pixels, without the padding."""
    image = _photo(64, 41)
    features = model.encode(image)
    masks, _, size = _library(network, image, (20, 20))
    want = F.interpolate(masks[None], size=(SIDE, SIDE), mode="bilinear", align_corners=False)[
        0, :, : size[0], : size[1]
    ]
    ours, _ = model.masks(features, torch.tensor([20.0, 20.0]))
    torch.testing.assert_close(features.finer(ours).at_pixels(64, 41), want, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(64, 48), (50, 100), (101, 60)], ids=str)
def test_bright_square_changes_the_cells_that_the_grid_says_it_is_on(model, size):
    width, height = size
    flat = torch.full((3, height, width), 0.4)
    image = flat.clone()
    image[:, height // 2 :, : width // 3] = 1
    change = (model.encode(image).data - model.encode(flat).data).square().sum(0)
    uv = model.grid(width, height).cell_centers().reshape(CELLS, CELLS, 2)
    inner = (uv[..., 0] < width / 3 - 3) & (uv[..., 1] > height / 2 + 3) & (uv[..., 1] < height - 3)
    outer = (uv[..., 0] > width / 3 + 9) | (uv[..., 1] < height / 2 - 9)
    assert inner.any()
    assert change[inner].mean() > 10 * change[outer & (uv[..., 1] < height)].mean()


@pytest.mark.parametrize("check", CHECKS[:3], ids=lambda check: check.__name__)
def test_model_conforms(model, check):
    """But for single spots: those of the check are smaller than a pixel of the tiny network's square."""
    check(model)


@torch.inference_mode()
def test_a_view_is_segmented_at_the_cell_most_like_the_thing(model):
    """The thing's cells, put elsewhere by hand, are where the view's mask is asked for."""
    image = _photo(64, 64)
    features = model.encode(image)
    point = ((2 + 0.5) / CELLS, (5 + 0.5) / CELLS)
    masks, quality = model.masks(features, torch.tensor(point) * 64)
    chosen = int(quality.argmax())
    within = F.avg_pool2d(masks[chosen].sigmoid()[None], 4)[0].flatten()
    cells = F.normalize(features.data.flatten(1), dim=0)
    thing, rest = (F.normalize(cells @ share, dim=0) for share in (within, 1 - within))
    # A view of what is not the thing, with one cell of it at row 3, column 6.
    data = rest[:, None, None].repeat(1, CELLS, CELLS)
    data[:, 3, 6] = 5 * thing
    moved = FeatureMap(data, features.grid)
    out = _decoder(model, features, image, point)(moved, _view(image))
    want = model.masks(moved, torch.tensor([6.5, 3.5]) * PATCH)[0][chosen]
    want = F.interpolate(want[None, None], scale_factor=2, mode="bilinear", align_corners=False)[0, 0].sigmoid()
    assert out.names == ("other", "object")
    torch.testing.assert_close(out.scores[1], want, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out.scores.sum(0), torch.ones(64, 64))


@torch.inference_mode()
def test_a_view_without_the_thing_shows_none(model):
    image = _photo(64, 64)
    features = model.encode(image)
    decoder = _decoder(model, features, image, (0.3, 0.7))
    masks, quality = model.masks(features, torch.tensor([0.3, 0.7]) * 64)
    outside = 1 - F.avg_pool2d(masks[int(quality.argmax())].sigmoid()[None], 4)[0]
    rest = (F.normalize(features.data, dim=0) * outside).sum((1, 2), keepdim=True).expand(-1, CELLS, CELLS)
    out = decoder(FeatureMap(rest.contiguous(), features.grid), _view(image))
    assert (out.scores[1] == 0).all()
    assert (out.scores[0] == 1).all()


@torch.inference_mode()
@torch.inference_mode()
def test_what_the_scene_has_beside_the_view_does_not_change_the_masks(model):
    image = _photo(48, 31)
    features = model.checked_encode(image)
    beside = ~inside(features.grid.cell_centers(), 48, 31).reshape(features.grid.height, features.grid.width)
    assert beside.any()
    rendered = FeatureMap(torch.where(beside, torch.randn_like(features.data), features.data), features.grid)
    decode = _decoder(model, features, image, (0.5, 0.5))
    want, got = (decode(f, _view(image)).scores for f in (features, rendered))
    assert torch.equal(want, got)
    assert want[1].std() > 0


def test_cells_beside_the_view_are_not_asked(model):
    """Of a wide view the lower cells are beside it, however much they are like the thing."""
    image = _photo(64, 32)
    features = model.encode(image)
    decoder = _decoder(model, features, image, (0.5, 0.5))
    changed = features.data.clone()
    changed[:, CELLS // 2 :] = -changed[:, CELLS // 2 :]
    asked = []
    masks, model.masks = model.masks, lambda features, point: asked.append(point) or masks(features, point)
    try:
        for data in (features.data, changed):
            decoder(FeatureMap(data, features.grid), _view(image))
    finally:
        del model.masks
    assert len(asked) == 2
    assert asked[0].tolist() == asked[1].tolist()
    assert asked[0][1] < 32


@torch.inference_mode()
def test_photo_larger_than_what_was_encoded_takes_the_same_point(model):
    """A photo comes with its features' grid in its own pixels, of which there may be more."""
    image = _photo(64, 48)
    features = model.encode(image)
    large = F.interpolate(image[None], scale_factor=3)[0]
    rescaled = FeatureMap(features.data, features.grid.rescaled(3, 3))
    one = _decoder(model, features, image, (0.2, 0.9))(features, _view(image))
    other = _decoder(model, rescaled, large, (0.2, 0.9))(features, _view(image))
    torch.testing.assert_close(one.scores, other.scores, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("point", [None, (1.2, 0.5)], ids=["none", "outside"])
def test_no_point_on_the_photo_is_one_line_with_the_flag(model, point):
    with pytest.raises(ModelError, match="--point") as error:
        model.decoder(DecodeContext("segment", DecodeOptions(point=point, point_view="a.jpg"), [], None))
    assert "\n" not in str(error.value)
    with pytest.raises(ModelError, match="--point"):
        model.decode(None, None, "segment")


def test_checkpoint_of_another_network_is_one_line(tmp_path):
    transformers.ViTConfig().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="sam") as error:
        find_model(f"slimsam:{tmp_path}").load()
    assert "\n" not in str(error.value)


def test_missing_library_is_one_line_with_the_command(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match=r"pip install 'lift3d-cli\[hf\]'") as error:
        find_model(f"slimsam:{folder}").load()
    assert "\n" not in str(error.value)
