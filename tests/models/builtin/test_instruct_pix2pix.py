"""InstructPix2Pix: the library's own edit, split at the latents, from one field of noise, and told what to do."""

from __future__ import annotations

import importlib.util
import json
import sys
import urllib.parse

import pytest
import torch
from tiny_checkpoints import save_instruct_pix2pix
from torch import nn
from torch.nn import functional as F

from lift3d_cli import FeatureGrid, FeatureMap, RenderedView
from lift3d_cli.errors import ModelError
from lift3d_cli.models import conformance
from lift3d_cli.models.builtin.diffusion import NOISE_CELLS
from lift3d_cli.models.builtin.instruct_pix2pix import InstructPix2Pix
from lift3d_cli.models.fingerprint import fingerprint
from lift3d_cli.models.registry import find_model

pytest.importorskip("transformers")
pytest.importorskip("diffusers")

PROMPT = "make it snow"
WHOLE = 16  # the tiny UNet has 2 levels: photos are padded to 2 cells of 8 pixels


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return save_instruct_pix2pix(tmp_path_factory.mktemp("pix2pix"))


def _ref(folder: str, **settings) -> str:
    return f"instruct-pix2pix:{folder}?" + urllib.parse.urlencode({"prompt": PROMPT, "steps": "2", **settings})


@pytest.fixture(scope="module")
def model(folder) -> InstructPix2Pix:
    return find_model(_ref(folder)).load()


def _view(image: torch.Tensor) -> RenderedView:
    return RenderedView(image, torch.ones(image.shape[1:]))


def _photo(height: int, width: int) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(1))


def _unsplit(model: InstructPix2Pix, image: torch.Tensor, output_type: str) -> torch.Tensor:
    """The library's own pipeline on the photo, padded by other means."""
    height, width = image.shape[1:]
    rows, columns = (torch.arange(n + -n % WHOLE).clamp(max=n - 1) for n in (height, width))
    image = image[:, rows[:, None], columns]
    latents, generator = model.noise(image.shape[2] // 8, image.shape[1] // 8)
    return model.pipeline(
        PROMPT,
        image=image[None],
        num_inference_steps=2,
        guidance_scale=7.5,
        image_guidance_scale=1.5,
        latents=latents,
        generator=generator,
        output_type=output_type,
    ).images[0]


@torch.inference_mode()
@pytest.mark.parametrize("scheduler", ["EulerAncestralDiscreteScheduler", "DDIMScheduler"])
def test_decode_of_encode_is_the_unsplit_pipeline_at_whole_sizes(model, tmp_path, scheduler):
    if type(model.pipeline.scheduler).__name__ != scheduler:
        model = find_model(_ref(save_instruct_pix2pix(tmp_path, scheduler=scheduler))).load()
    image = _photo(32, 48)
    out = model.decode(model.checked_encode(image), _view(image), "edit")
    assert out.std() > 0.02
    torch.testing.assert_close(out, _unsplit(model, image, "pt"), atol=1e-4, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(27, 41), (24, 40), (5, 3)], ids=str)
def test_features_are_the_unsplit_latents_of_the_photos_own_cells(model, size):
    image = _photo(*size)
    features = model.checked_encode(image)
    rows, columns = -(-size[0] // 8), -(-size[1] // 8)
    torch.testing.assert_close(features.data, _unsplit(model, image, "latent")[:, :rows, :columns])
    assert model.decode(features, _view(image), "edit").shape == image.shape


def test_declaration_repeatability_and_decoding_conform(model, monkeypatch):
    monkeypatch.setattr(conformance, "SIZES", ((35, 21),))
    conformance.check_features_match_declaration(model)
    conformance.check_encode_is_repeatable(model)
    conformance.check_decode_gives_images(model)


def test_a_cell_begins_from_the_same_noise_whatever_the_size_of_the_photo(model):
    small, large = model.noise(6, 4)[0], model.noise(9, 7)[0]
    assert torch.equal(small, large[:, :, :4, :6])
    assert len(large.unique()) == large.numel()
    huge = model.noise(NOISE_CELLS + 3, 2)[0]
    assert huge.shape == (1, 4, 2, NOISE_CELLS + 3)
    assert torch.equal(huge[..., NOISE_CELLS:], huge[..., :3])


def test_noise_of_the_steps_is_not_the_noise_of_the_beginning_again(model):
    latents, generator = model.noise(8, 8)
    step = torch.randn(1, 4, 8, 8, generator=generator)
    assert not torch.equal(step.flatten()[:8], latents.flatten()[:8])
    assert torch.equal(step, torch.randn(1, 4, 8, 8, generator=model.noise(3, 2)[1]))


@torch.inference_mode()
def test_prompt_seed_and_guidance_change_the_features_and_the_cache_key(model, folder):
    image = _photo(16, 16)
    features = model.checked_encode(image).data
    keys = [fingerprint(model, find_model(_ref(folder)))]
    for change in ({"prompt": "a zoo"}, {"seed": "1"}, {"guidance": "3"}, {"image_guidance": "1.2"}, {"steps": "1"}):
        ref = find_model(_ref(folder, **change))
        other = ref.load()
        assert not torch.allclose(other.checked_encode(image).data, features, atol=1e-4), change
        keys.append(fingerprint(other, ref))
    assert len({json.dumps(key, sort_keys=True) for key in keys}) == len(keys)
    assert keys[0]["preprocessing"]["prompt"] == PROMPT
    assert keys[0]["preprocessing"]["scheduler"][0] == "EulerAncestralDiscreteScheduler"
    assert keys[0] == fingerprint(find_model(_ref(folder)).load(), find_model(_ref(folder)))


@pytest.fixture(scope="module")
def even(folder) -> InstructPix2Pix:
    """A model of local layers with equal weights only, which shows where its cells lie."""
    model = find_model(_ref(folder)).load()
    for name, module in model.named_modules():
        if isinstance(module, nn.GroupNorm):
            module.forward = lambda x: x
        if isinstance(module, nn.Conv2d):
            module.weight.fill_(1 / module.weight[0].numel())
            module.bias.zero_()
        if name.endswith(("to_out.0", "proj_out")):  # the last layers of attention
            module.weight.zero_()
    return model


def _center(change: torch.Tensor) -> torch.Tensor:
    """Of [C, h, w]: (y, x), the first pixel's centre being 0.5."""
    weights = change.abs().sum(0) / change.abs().sum()
    return torch.stack([(weights.sum(1 - i) * (torch.arange(weights.shape[i]) + 0.5)).sum() for i in (0, 1)])


@torch.inference_mode()
def test_a_bright_square_lights_its_cell(even):
    image = torch.full((3, 133, 187), 0.4)
    for row, column in ((7, 9), (9, 14)):
        bright = image.clone()
        bright[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 0.5
        center = _center(even.checked_encode(bright).data - even.checked_encode(image).data)
        torch.testing.assert_close(center, torch.tensor([row + 0.5, column + 0.5]), atol=0.5, rtol=0)


@torch.inference_mode()
def test_a_cell_decodes_to_its_own_pixels(even):
    flat = torch.zeros(4, 16, 24)
    spot = flat.clone()
    spot[:, 7, 13] = 0.01
    grid, view = FeatureGrid.from_stride(192, 128, 8), _view(torch.zeros(3, 128, 192))
    with_spot, without = (even.decode(FeatureMap(data, grid), view, "edit") for data in (spot, flat))
    torch.testing.assert_close(_center(with_spot - without), torch.tensor([60.0, 108.0]), atol=0.01, rtol=0)


@torch.inference_mode()
def test_features_on_a_finer_grid_of_the_view_are_shown_where_they_lie(model):
    """A view of twice the photo's pixels keeps the photo's cells: the same picture, twice as large."""
    image = _photo(32, 48)
    features = model.checked_encode(image)
    small = model.decode(features, _view(image), "edit")
    large = model.decode(FeatureMap(features.data, features.grid.rescaled(2, 2)), _view(torch.zeros(3, 64, 96)), "edit")
    wanted = F.interpolate(small[None], scale_factor=2, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(large, wanted, atol=1e-4, rtol=0)


def test_networks_are_part_of_the_model_and_in_full_precision(model):
    names = {name.split(".")[0] for name, _ in model.named_parameters()}
    assert names == {"text_encoder", "unet", "vae"}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert (model.spec.channels, model.spec.stride) == (4, 8)


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="it is installed: diffusers takes it")
def test_needs_no_torchvision(model):
    model.checked_encode(_photo(16, 16))
    assert "torchvision" not in sys.modules


def _refused(ref: str) -> str:
    with pytest.raises(ModelError) as error:
        find_model(ref).load()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("query", ["", "?prompt=", "?prompt=+", "?seed=1"])
def test_missing_prompt_is_one_line_with_the_flag(folder, query):
    assert "hint: --prompt" in _refused(f"instruct-pix2pix:{folder}{query}")


def test_listing_needs_no_prompt():
    assert find_model("instruct-pix2pix").spec().tasks == ("edit",)


@pytest.mark.parametrize(
    "setting",
    [{"steps": "0"}, {"steps": "2.5"}, {"guidance": "nan"}, {"image_guidance": "0.5"}, {"seed": "-1"}, {"seed": "x"}],
    ids=str,
)
def test_setting_out_of_range_is_one_line(folder, setting):
    ((name, text),) = setting.items()
    assert f"{name} is {text!r}, needs" in _refused(_ref(folder, **setting))


def test_pipeline_of_another_kind_is_one_line(tmp_path):
    assert "is of another network: its UNet takes 4 channels" in _refused(
        _ref(save_instruct_pix2pix(tmp_path, in_channels=4))
    )


def test_folder_without_a_pipeline_is_one_line(tmp_path):
    assert "cannot load" in _refused(_ref(str(tmp_path)))


@pytest.mark.parametrize("library", ["diffusers", "transformers"])
def test_missing_library_is_one_line_with_the_command_that_installs_it(folder, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    assert f"needs {library}" in (message := _refused(_ref(folder)))
    assert "pip install 'lift3d-cli[hf]'" in message
