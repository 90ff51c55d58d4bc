"""The shipped colorizer: split exactly, blind to colour, centred on its cells, and better than no colour."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lift3d_cli import FeatureGrid, FeatureMap, RenderedView
from lift3d_cli.errors import ModelError
from lift3d_cli.models.builtin.color_space import lightness, rgb_from_lab
from lift3d_cli.models.builtin.tiny_colorizer import ColorizerNet, TinyColorizer
from lift3d_cli.models.conformance import sample_images
from lift3d_cli.models.registry import find_model

PHOTOS = Path(__file__).parents[4] / "shared" / "photos" / "val"


@pytest.fixture(scope="module")
def model() -> TinyColorizer:
    return find_model("tiny-colorizer").load()


def _view(image: torch.Tensor) -> RenderedView:
    return RenderedView(image, torch.ones(image.shape[1:]))


@torch.inference_mode()
def test_decode_of_encode_is_the_unsplit_model(model):
    for image in sample_images():
        split = model.decode(model.encode(image), _view(image), "colorize")
        torch.testing.assert_close(split, model.colorize(image), atol=1e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(1, 1), (7, 40), (33, 8)], ids=str)
def test_photos_smaller_than_the_deepest_stride_work(model, size):
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    out = model.decode(model.checked_encode(image), _view(image), "colorize")
    torch.testing.assert_close(out, model.colorize(image), atol=1e-5, rtol=0)


@torch.inference_mode()
def test_colour_and_grey_photo_have_the_same_features(model):
    for image in sample_images():
        light = lightness(image)
        grey = rgb_from_lab(torch.cat([light, torch.zeros_like(light), torch.zeros_like(light)]))
        torch.testing.assert_close(model.encode(grey).data, model.encode(image).data, atol=1e-2, rtol=1e-3)


@torch.inference_mode()
def test_output_has_the_lightness_of_the_view_and_the_colour_of_the_features(model):
    image = next(sample_images())
    features = model.encode(image)
    # Middle greys, where every modest colour can be shown, so that clipping does not change L.
    dark, bright = (torch.full_like(image, level) for level in (0.45, 0.55))
    for view in (dark, bright):
        out = model.decode(features, _view(view), "colorize")
        torch.testing.assert_close(lightness(out), lightness(view), atol=1.0, rtol=0)


@torch.inference_mode()
def test_features_on_a_shifted_grid_colour_the_pixels_that_they_lie_on(model):
    """Rendered features may come on a grid of their own; here, that of a view cut 16 pixels from the left."""
    image = next(sample_images())
    features = model.encode(image)
    grid = FeatureGrid(features.grid.width, features.grid.height, features.grid.scale, (2.0, 0.0))
    whole = model.decode(features, _view(image), "colorize")
    cut = model.decode(FeatureMap(features.data, grid), _view(image[:, :, 16:]), "colorize")
    torch.testing.assert_close(cut, whole[:, :, 16:], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_receptive_field_is_centred_on_its_cell():
    """With equal weights everywhere, a spot over a cell's centre must reach left and right, up and down, alike."""
    net = ColorizerNet().eval()
    for parameter in net.parameters():
        if parameter.dim() == 4:
            parameter.fill_(1 / parameter[0].numel())
    cells = 80  # far enough from the borders on all sides
    flat = torch.full((1, 1, cells * 8, cells * 8), 50.0)
    offsets = []
    # By way of strides 16 and 32 a cell is one of four parts of a larger one, at its left or right: all four together.
    for cell in range(36, 40):
        spot = flat.clone()
        spot[:, :, cell * 8 : cell * 8 + 8, cell * 8 : cell * 8 + 8] = 100.0
        change = (net.encode(spot) - net.encode(flat)).abs().sum(1)[0]
        assert divmod(change.argmax().item(), cells) == (cell, cell)
        offsets.append([(change.sum(dim) * (torch.arange(cells) - cell)).sum() / change.sum() for dim in (0, 1)])
    torch.testing.assert_close(torch.tensor(offsets).mean(0), torch.zeros(2), atol=0.01, rtol=0)


@torch.inference_mode()
def test_shipped_weights_beat_no_colour_on_held_out_photos(model):
    from lift3d_cli.training.colorizer import held_out_scores
    from lift3d_cli.training.photo_set import read_image

    paths = sorted(PHOTOS.glob("*.jpg"))[::10]
    if not paths:
        pytest.skip(f"no photos in {PHOTOS}")
    scores = held_out_scores(model.net, [read_image(path) for path in paths])
    assert scores["ab_error"] < 0.95 * scores["ab_error_of_no_colour"]


def test_weights_of_another_network_are_one_line(tmp_path):
    from safetensors.torch import save_file

    save_file({"somewhere.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="do not fit the network") as error:
        TinyColorizer(tmp_path / "other.safetensors")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300
