"""Swin2SR: split exactly before its upsampler, on the photo's own pixels, and enlarging what it is given."""

from __future__ import annotations

import sys

import pytest
import torch
from tiny_checkpoints import save_swin2sr
from torch.nn import functional as F

from lift3d_cli import FeatureGrid, FeatureMap, RenderedView
from lift3d_cli.errors import ModelError
from lift3d_cli.models import conformance
from lift3d_cli.models.builtin.swin2sr import UPSAMPLERS, Swin2SR
from lift3d_cli.models.registry import find_model

pytest.importorskip("transformers")

WINDOW = 4
# By upsampler: the scale, and how many cells around a cell its result depends on.
VARIANTS = {"pixelshuffle": (2, 3), "pixelshuffledirect": (3, 1), "nearest+conv": (4, 3), "pixelshuffle_aux": (2, 5)}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Swin2SR]:
    folder = tmp_path_factory.mktemp("swin2sr")
    refs = {
        name: f"swin2sr:{save_swin2sr(folder / str(i), upsampler=name, upscale=scale)}"
        for i, (name, (scale, _)) in enumerate(VARIANTS.items())
    }
    return {name: find_model(ref).load() for name, ref in refs.items()}


@pytest.fixture(scope="module")
def model(models) -> Swin2SR:
    return models["pixelshuffle"]


def _view(image: torch.Tensor) -> RenderedView:
    return RenderedView(image, torch.ones(image.shape[1:]))


def _picture(height: int, width: int) -> torch.Tensor:
    # Well inside of [0, 1]: clamped results would be equal for no good reason.
    return 0.3 + 0.4 * torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))


def _unsplit(model: Swin2SR, image: torch.Tensor) -> torch.Tensor:
    """The library's own forward on the photo, mirrored to whole windows by other means; cut to the photo."""
    height, width = image.shape[1:]
    right, below = image.flip(2)[:, :, : -width % WINDOW], image.flip(1)[:, : -height % WINDOW]
    corner = right.flip(1)[:, : -height % WINDOW]
    padded = torch.cat([torch.cat([image, right], 2), torch.cat([below, corner], 2)], 1)
    scale = model.spec.scale
    return model.net(padded[None]).reconstruction[0, :, : scale * height, : scale * width].clamp(0, 1)


@torch.inference_mode()
@pytest.mark.parametrize("upsampler", UPSAMPLERS)
def test_decode_of_encode_is_the_unsplit_model_on_whole_windows(models, upsampler):
    model = models[upsampler]
    assert model.spec.scale == VARIANTS[upsampler][0]
    image = _picture(12, 20)
    out = model.decode(model.checked_encode(image), _view(image), "superres")
    assert out.shape == (3, model.spec.scale * 12, model.spec.scale * 20)
    assert out.std() > 0.02
    torch.testing.assert_close(out, _unsplit(model, image), atol=1e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("upsampler", UPSAMPLERS)
@pytest.mark.parametrize("size", [(13, 20), (12, 17), (11, 19)], ids=str)
def test_padding_is_missed_only_by_the_upsamplers_reach_at_the_padded_sides(models, upsampler, size):
    model, (height, width) = models[upsampler], size
    image = _picture(height, width)
    error = (model.decode(model.checked_encode(image), _view(image), "superres") - _unsplit(model, image)).abs()
    scale, reach = VARIANTS[upsampler]
    bottom = scale * (height - reach if height % WINDOW else height)
    right = scale * (width - reach if width % WINDOW else width)
    assert error[:, :bottom, :right].max() < 1e-5
    assert error.max() > 1e-4  # it is really missed: otherwise the line above would say nothing


@torch.inference_mode()
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (5, 2), (3, 3)], ids=str)
def test_photos_smaller_than_a_window_work(model, size):
    image = _picture(*size)
    out = model.decode(model.checked_encode(image), _view(image), "superres")
    assert out.shape == (3, 2 * size[0], 2 * size[1])
    assert out.isfinite().all()


def test_photos_are_mirrored_to_whole_windows_as_often_as_it_takes():
    from lift3d_cli.models.builtin.swin2sr import _mirrored

    row = torch.tensor([1.0, 2.0, 3.0]).expand(3, 1, 3)
    assert _mirrored(row, 8)[0, 7].tolist() == [1, 2, 3, 3, 2, 1, 1, 2]
    assert _mirrored(row, 3).shape == (3, 3, 3)


@pytest.mark.parametrize("check", conformance.CHECKS)
def test_conforms(model, check):
    check(model)


@torch.inference_mode()
@pytest.mark.parametrize("upsampler", UPSAMPLERS)
def test_decode_gives_the_enlarged_picture_twice_the_same_from_half_precision(models, upsampler):
    model = models[upsampler]
    image = _picture(17, 13)
    features = model.checked_encode(image)
    stored = FeatureMap(features.data.half().float(), features.grid)
    out = model.decode(stored, _view(image), "superres")
    assert out.shape == (3, model.spec.scale * 17, model.spec.scale * 13)
    assert out.min() >= 0
    assert out.max() <= 1
    assert torch.equal(out, model.decode(stored, _view(image), "superres"))
    torch.testing.assert_close(out, model.decode(features, _view(image), "superres"), atol=1e-2, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("upsampler", UPSAMPLERS)
def test_features_on_a_shifted_grid_give_the_pixels_that_they_lie_on(models, upsampler):
    """Rendered features may come on a grid of their own; here, that of a view cut 4 pixels from the left."""
    model = models[upsampler]
    image = _picture(16, 24)
    features = model.checked_encode(image)
    grid = FeatureGrid(24, 16, (1.0, 1.0), (4.0, 0.0))
    whole = model.decode(features, _view(image), "superres")
    cut = model.decode(FeatureMap(features.data, grid), _view(image[:, :, 4:]), "superres")
    scale, reach = VARIANTS[upsampler]
    # Of the left side, `pixelshuffle_aux` sees no pixels of the view.
    torch.testing.assert_close(cut[:, :, scale * reach :], whole[:, :, scale * (4 + reach) :], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_a_view_of_twice_the_pixels_gets_the_same_picture_at_twice_the_size(model):
    image = _picture(16, 24)
    features = model.checked_encode(image)
    small = model.decode(features, _view(image), "superres")
    grid = features.grid.rescaled(2, 2)
    large = model.decode(FeatureMap(features.data, grid), _view(torch.zeros(3, 32, 48)), "superres")
    assert large.shape == (3, 64, 96)
    wanted = F.interpolate(small[None], scale_factor=2, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(large, wanted, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_a_bright_pixel_changes_features_and_result_around_where_it_is(model):
    image = torch.full((3, 21, 26), 0.4)
    for v, u in ((3, 5), (10, 17), (18, 22)):
        bright = image.clone()
        bright[:, v, u] = 0.6
        change = (model.checked_encode(bright).data - model.checked_encode(image).data).square().sum(0)
        found = divmod(change.argmax().item(), 26)
        assert max(abs(found[0] - v), abs(found[1] - u)) <= 1  # random 3x3 filters need not be centred
        before, after = (model.decode(model.checked_encode(i), _view(i), "superres") for i in (image, bright))
        change = (after - before).square().sum(0)
        weights = change / change.sum()
        center = [(weights.sum(1 - axis) * (torch.arange(change.shape[axis]) + 0.5)).sum() / 2 for axis in (0, 1)]
        torch.testing.assert_close(torch.stack(center), torch.tensor([v + 0.5, u + 0.5]), atol=0.8, rtol=0)


def test_checkpoint_says_channels_and_scale_and_the_class_is_left_alone(models):
    assert (models["nearest+conv"].spec.channels, models["nearest+conv"].spec.scale) == (12, 4)
    assert (Swin2SR.spec.channels, Swin2SR.spec.scale) == (180, 2)


def test_checkpoint_in_half_precision_runs_in_full(tmp_path, models):
    models["pixelshuffle"].net.half().save_pretrained(tmp_path / "half")
    models["pixelshuffle"].net.float()
    model = find_model(f"swin2sr:{tmp_path / 'half'}").load()
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def _refused(ref: str) -> str:
    with pytest.raises(ModelError) as error:
        find_model(ref).load()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_checkpoint_of_another_kind_of_network_is_one_line(tmp_path):
    from transformers import Dinov2Config

    Dinov2Config(hidden_size=12, num_hidden_layers=1, num_attention_heads=2).save_pretrained(tmp_path)
    assert "is a network of type 'dinov2'" in _refused(f"swin2sr:{tmp_path}")


def test_checkpoint_that_lacks_weights_is_one_line_and_not_filled_at_random(tmp_path):
    from safetensors.torch import load_file, save_file

    file = tmp_path / "model.safetensors"
    save_swin2sr(tmp_path)
    tensors = load_file(file)
    del tensors["upsample.final_convolution.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    assert "lacks 1 weights, such as upsample.final_convolution.weight" in _refused(f"swin2sr:{tmp_path}")
    tensors["upsample.final_convolution.weight"] = torch.zeros(3, 5, 3, 3)
    save_file(tensors, file, metadata={"format": "pt"})
    assert "cannot load" in _refused(f"swin2sr:{tmp_path}")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"upsampler": "", "upscale": 1}, "enlarges nothing"),
        ({"num_channels": 1, "num_channels_out": 1}, "not from red, green and blue"),
    ],
    ids=["denoiser", "grey"],
)
def test_swin2sr_for_something_else_is_one_line(tmp_path, settings, words):
    assert words in _refused(f"swin2sr:{save_swin2sr(tmp_path, **settings)}")


def test_folder_without_a_network_is_one_line(tmp_path):
    assert "cannot load" in _refused(f"swin2sr:{tmp_path}")
    assert "there is no folder" in _refused(f"swin2sr:{tmp_path / 'nowhere'}")


def test_missing_library_is_one_line_with_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "pip install 'lift3d-cli[hf]'" in _refused(f"swin2sr:{tmp_path}")
