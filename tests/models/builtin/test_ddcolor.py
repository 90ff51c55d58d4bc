"""DDColor: the official network's numbers, split exactly, on any size and grid."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import filled, save_ddcolor, with_singular_vectors
from torch.nn import functional as F

from lift3d_cli import FeatureGrid, FeatureMap, RenderedView
from lift3d_cli.errors import ModelError
from lift3d_cli.models.builtin.color_space import lab_from_rgb, lightness, rgb_from_lab
from lift3d_cli.models.builtin.ddcolor import DDColor, _grey_under
from lift3d_cli.models.builtin.ddcolor_net import DDColorNet, Sizes
from lift3d_cli.models.conformance import CHECKS, sample_images
from lift3d_cli.models.registry import find_model

PARITY = Path(__file__).parents[4] / "shared" / "parity" / "ddcolor"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return Path(save_ddcolor(tmp_path_factory.mktemp("ddcolor")))


@pytest.fixture(scope="module")
def model(checkpoint) -> DDColor:
    return find_model(f"ddcolor:{checkpoint}").load()


def _view(image: torch.Tensor) -> RenderedView:
    return RenderedView(image, torch.ones(image.shape[1:]))


def _unsplit(model: DDColor, image: torch.Tensor) -> torch.Tensor:
    """The whole network on a photo, without lift3d's seam."""
    light = lightness(image)
    padded = F.pad(light[None], (0, -light.shape[2] % 32, 0, -light.shape[1] % 32), mode="replicate")[0]
    grey = rgb_from_lab(torch.cat([padded, 0 * padded, 0 * padded]))
    ab = model.net(grey[None])[0, :, : light.shape[1], : light.shape[2]]
    return rgb_from_lab(torch.cat([light, ab]))


@torch.inference_mode()
@pytest.mark.parametrize("variant", ["convnext-t", pytest.param("convnext-l", marks=pytest.mark.slow)])
def test_network_agrees_with_the_official_one_in_names_shapes_and_numbers(variant):
    if not PARITY.is_dir():
        pytest.skip(f"no numbers of the official network in {PARITY}")
    shapes = json.loads((PARITY / "state_dict_shapes.json").read_text())[variant]
    with torch.device("meta"):
        empty = {key: torch.empty(shape) for key, shape in shapes.items()}
        net = DDColorNet(Sizes.of_state(empty)).eval()
    assert {key: list(tensor.shape) for key, tensor in net.state_dict().items()} == shapes
    state = {key: filled(key, tensor) for key, tensor in net.state_dict().items()}
    state |= {"mean": torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)}
    state |= {"std": torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)}
    net.load_state_dict(with_singular_vectors(state), assign=True)
    want = {key.split(".")[1]: value for key, value in load_file(PARITY / "io.safetensors").items() if variant in key}
    maps = net.encode(want["input"])
    for got, key in (
        (net.decoder.last_shuf(maps[-1])[:, ::8, ::4, ::4], "image_features_sample"),
        (net(want["input"]), "ab"),
    ):
        torch.testing.assert_close(got, want[key], rtol=0, atol=1e-4 * want[key].abs().max().item())


@torch.inference_mode()
def test_decode_of_encode_is_the_unsplit_network(model):
    for image in sample_images():
        whole = _unsplit(model, image)
        assert lab_from_rgb(whole)[1:].std() > 3  # there is colour to get wrong
        split = model.decode(model.checked_encode(image), _view(image), "colorize")
        torch.testing.assert_close(split, whole, atol=1e-4, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(1, 1), (7, 40), (33, 8)], ids=str)
def test_photos_smaller_than_the_deepest_stride_work(model, size):
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    out = model.decode(model.checked_encode(image), _view(image), "colorize")
    torch.testing.assert_close(out, _unsplit(model, image), atol=1e-4, rtol=0)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_model_conforms(model, check):
    check(model)


@torch.inference_mode()
def test_bright_square_changes_its_own_cells_most(model):
    flat = torch.full((3, 128, 160), 0.4)
    image = flat.clone()
    image[:, 64:72, 96:104] = 1
    change = (model.encode(image).data - model.encode(flat).data)[:16].abs().sum(0)  # of the stride-4 map
    row, column = divmod(change.argmax().item(), change.shape[1])
    assert row in (16, 17)
    assert column in (24, 25)


@torch.inference_mode()
def test_colour_and_grey_photo_have_the_same_features(model):
    image = next(sample_images())
    light = lightness(image)
    grey = rgb_from_lab(torch.cat([light, torch.zeros_like(light), torch.zeros_like(light)]))
    torch.testing.assert_close(model.encode(grey).data, model.encode(image).data, atol=1e-3, rtol=1e-3)


@torch.inference_mode()
def test_output_has_the_lightness_of_the_view_and_the_colour_of_the_features(model):
    image = next(sample_images())
    bright = torch.full_like(image, 0.5)
    colors = [model.decode(model.encode(photo), _view(bright), "colorize") for photo in (image, bright)]
    assert (lightness(colors[0]) - lightness(bright)).abs().mean() < 0.1
    assert (lab_from_rgb(colors[0])[1:] - lab_from_rgb(colors[1])[1:]).abs().max() > 3


@torch.inference_mode()
def test_features_on_a_shifted_grid_colour_the_pixels_that_they_lie_on(model):
    """Rendered features may come on a grid of their own; here, that of a view cut 32 pixels from the left."""
    image = next(sample_images())
    features = model.encode(image)
    grid = dataclasses.replace(features.grid, offset=(8.0, 0.0))
    whole = model.decode(features, _view(image), "colorize")
    cut = model.decode(FeatureMap(features.data, grid), _view(image[:, :, 32:]), "colorize")
    torch.testing.assert_close(cut, whole[:, :, 32:], atol=1e-4, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("factor", [2, 0.5])
def test_view_of_another_size_gets_the_same_colours(model, factor):
    image = F.avg_pool2d(F.interpolate(next(sample_images())[None], scale_factor=2), 4)[0]  # [3, 48, 64], smooth
    image = F.interpolate(image[None], scale_factor=2, mode="bilinear")[0]
    features = model.encode(image)
    resized = F.interpolate(image[None], scale_factor=factor, mode="bilinear", antialias=True)[0]
    grid = features.grid.rescaled(factor, factor)
    out = model.decode(FeatureMap(features.data, grid), _view(resized), "colorize")
    whole = lab_from_rgb(model.decode(features, _view(image), "colorize"))
    want = F.interpolate(whole[None, 1:], scale_factor=factor, mode="bilinear")[0]
    assert (lab_from_rgb(out)[1:] - want).abs().mean() < 0.1 * want.std()


def test_network_sees_a_large_view_without_aliasing():
    """Stripes of single pixels, four of which are one of the network's, are grey to it."""
    stripes = torch.full((3, 128, 128), 0.5)
    stripes[:, :, ::4] = 0.9
    grey = _grey_under(stripes, FeatureGrid(8, 8, (1 / 16, 1 / 16)))
    assert grey.shape == (1, 3, 32, 32)
    assert grey[..., 2:-2].std() < 0.01
    assert grey.mean() > 0.55


@torch.inference_mode()
def test_grid_of_any_number_of_cells_is_padded_by_replication(model):
    image = next(sample_images())
    cells = model.encode(image).data[:, :21, :27]
    view = _view(image[:, :83, :107])
    grid = FeatureGrid(27, 21, (0.25, 0.25))
    out = model.decode(FeatureMap(cells, grid), view, "colorize")
    padded = F.pad(cells[None], (0, 1, 0, 3), mode="replicate")[0]
    want = model.decode(FeatureMap(padded, FeatureGrid(28, 24, (0.25, 0.25))), view, "colorize")
    torch.testing.assert_close(out, want)


def test_size_of_the_checkpoint_decides_the_channels(model, checkpoint):
    assert (DDColor.spec.channels, model.spec.channels) == (1280, 80)
    assert model.spec.name == "ddcolor"
    assert find_model(f"ddcolor-tiny:{checkpoint}").load().spec.name == "ddcolor-tiny"


@torch.inference_mode()
def test_bare_safetensors_in_half_precision_load_as_well(model, checkpoint, tmp_path):
    state = torch.load(checkpoint, weights_only=True)["params"]
    save_file(
        {key: value.half() if value.is_floating_point() else value for key, value in state.items()},
        tmp_path / "a.safetensors",
    )
    image = next(sample_images())
    half = find_model(f"ddcolor:{tmp_path / 'a.safetensors'}").load()
    torch.testing.assert_close(half.encode(image).data, model.encode(image).data, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("change", ["another", "cut", "odd"])
def test_weights_of_another_network_are_one_line(checkpoint, tmp_path, change):
    state = torch.load(checkpoint, weights_only=True)["params"]
    if change == "another":
        state = {"somewhere.weight": torch.zeros(3)}
    elif change == "cut":
        del state["decoder.last_shuf.conv.0.bias"]
    else:
        state["decoder.layers.0.conv.0.weight_orig"] = torch.zeros(30, 2)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ModelError, match="does not hold a DDColor network") as error:
        find_model(f"ddcolor:{tmp_path / 'other.pth'}").load()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(ModelError, match=r"there is no file .*nowhere\.pth") as error:
        find_model(f"ddcolor:{tmp_path / 'nowhere.pth'}").load()
    assert "\n" not in str(error.value)
