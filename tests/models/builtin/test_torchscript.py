"""Scripted networks of the user's own: split exactly, with the stride that they have, each with its fingerprint."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from scripted import IGNORE_DEPRECATION, error_of, load, save
from tiny_checkpoints import Encoder
from torch import Tensor, nn
from torch.nn import functional as F
from views import as_view

from lift3d_cli import FeatureMap
from lift3d_cli.models import conformance
from lift3d_cli.models.base import DecodeContext, DecodeOptions
from lift3d_cli.models.builtin.torchscript import TorchScript
from lift3d_cli.models.fingerprint import fingerprint
from lift3d_cli.models.registry import find_model

pytestmark = IGNORE_DEPRECATION


def _unsplit(folder: Path, decoder: str, image: Tensor) -> Tensor:
    """The two files one after the other, without lift3d: at the size of the padded image."""
    encoder, decoder = (torch.jit.load(folder / f"{name}.pt").eval() for name in ("encoder", decoder))
    padded = F.pad(image[None], (0, -image.shape[2] % 4, 0, -image.shape[1] % 4), mode="replicate")
    features = encoder(padded)
    return decoder(features, padded) if len(decoder.forward.schema.arguments) > 2 else decoder(features)


@torch.inference_mode()
def test_decode_of_encode_is_the_unsplit_network(scripted):
    model = load(scripted / "encoder.pt", scripted / "refiner.pt")
    for image in [*conformance.sample_images(), torch.rand(3, 3, 2)]:
        out = model.decode(model.checked_encode(image), as_view(image), "decode")
        whole = _unsplit(scripted, "refiner", image)[0, :, : image.shape[1], : image.shape[2]]
        torch.testing.assert_close(out, whole, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_a_coarser_result_is_interpolated_to_the_views_pixels_without_its_padding(scripted):
    model = load(scripted / "encoder.pt", scripted / "decoder.pt")
    for image in conformance.sample_images():
        out = model.decode(model.checked_encode(image), as_view(image), "decode")
        whole = _unsplit(scripted, "decoder", image)
        whole = F.interpolate(whole, scale_factor=2, mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(out, whole[:, : image.shape[1], : image.shape[2]], atol=1e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("decoder", ["decoder", "refiner"])
def test_features_on_a_shifted_grid_are_decoded_where_they_lie(scripted, decoder):
    """Here, on the grid of a view cut 8 pixels from the left."""
    model = load(scripted / "encoder.pt", scripted / f"{decoder}.pt")
    image = next(conformance.sample_images())
    features = model.encode(image)
    whole = model.decode(features, as_view(image), "decode")
    shifted = dataclasses.replace(features.grid, offset=(2.0, 0.0))
    cut = model.decode(FeatureMap(features.data, shifted), as_view(image[:, :, 8:]), "decode")
    inner = 4 if decoder == "refiner" else 0  # the cells cut off see the border's pixels, and their neighbours half
    torch.testing.assert_close(cut[:, :, inner:], whole[:, :, 8 + inner :], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_a_larger_view_gives_the_image_to_the_decoder_at_the_size_that_it_knows(scripted):
    model = load(scripted / "encoder.pt", scripted / "refiner.pt")
    image = next(conformance.sample_images())
    features = model.encode(image)
    twice = image.repeat_interleave(2, 1).repeat_interleave(2, 2)
    out = model.decode(FeatureMap(features.data, features.grid.rescaled(2, 2)), as_view(twice), "decode")
    # Half a new pixel beside the centres of the old ones, it is interpolated: three quarters of the near one.
    small = model.decode(features, as_view(image), "decode")
    want = F.interpolate(small[None], scale_factor=2, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(out, want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("decoder", ["", ",{}/decoder.pt", ",{}/refiner.pt"])
def test_every_rule_of_a_model_holds(scripted, decoder):
    conformance.check_model(f"torchscript:{scripted}/encoder.pt{decoder.format(scripted)}")


@torch.inference_mode()
@pytest.mark.parametrize("cell", [(0, 0), (5, 2), (9, 7)])
def test_a_bright_square_lights_the_cell_below_it(scripted, cell):
    model = load(scripted / "encoder.pt")
    image = torch.zeros(3, 31, 41)
    background = model.encode(image).data
    image[:, 4 * cell[1] : 4 * cell[1] + 4, 4 * cell[0] : 4 * cell[0] + 4] = 1
    change = (model.encode(image).data - background).square().sum(0)
    v, u = torch.nonzero(change > 0, as_tuple=True)
    # One 3x3 layer lets it reach the neighbours, where there are some.
    assert (u.min(), u.max()) == (max(cell[0] - 1, 0), min(cell[0] + 1, 10))
    assert (v.min(), v.max()) == (max(cell[1] - 1, 0), min(cell[1] + 1, 7))


@pytest.mark.parametrize("stride", [1, 2, 7, 8, 14, 16, 32])
def test_channels_and_stride_are_found_out(tmp_path, stride):
    model = load(save(Encoder(stride), tmp_path / "e.pt"))
    assert (model.spec.channels, model.spec.stride) == (6, stride)


def test_a_stride_that_does_not_divide_the_images_tried_can_be_told(tmp_path):
    path = save(Encoder(20), tmp_path / "e.pt")
    assert "not of one whole stride" in error_of(lambda: load(path))
    assert load(path, query="?stride=20").spec.stride == 20
    assert "not of one whole stride of 40" in error_of(lambda: load(path, query="?stride=40"))


@torch.inference_mode()
def test_a_file_saved_in_training_mode_runs_in_eval_mode_with_the_averages_it_came_with(tmp_path):
    torch.manual_seed(1)
    network = Encoder()
    network(torch.rand(4, 3, 32, 32))  # averages other than the initial ones
    path = save(network, tmp_path / "e.pt")
    image = torch.rand(3, 32, 32)
    torch.testing.assert_close(load(path).encode(image).data, network.eval()(image[None])[0])


@torch.inference_mode()
def test_without_a_decoder_there_are_the_tasks_that_need_none(scripted):
    model = load(scripted / "encoder.pt")
    assert model.spec.tasks == ("features", "segment")
    assert TorchScript.spec.tasks == ("decode", "features", "segment")
    image = next(conformance.sample_images())
    features = model.encode(image)
    assert model.decode(features, as_view(image), "features").shape == image.shape
    context = DecodeContext("segment", DecodeOptions(clusters=2), [features], None)
    assert model.decoder(context)(features, as_view(image)).scores.shape == (2, *image.shape[1:])
    line = error_of(lambda: model.decoder(dataclasses.replace(context, task="decode")))
    assert f"no decoder, only {scripted / 'encoder.pt'}" in line
    assert "--task features" in line


@torch.inference_mode()
def test_results_are_clamped(scripted, tmp_path):
    class Loud(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            return 100 * features[:, :3]

    model = load(scripted / "encoder.pt", save(Loud(), tmp_path / "d.pt"))
    image = next(conformance.sample_images())
    out = model.decode(model.encode(image), as_view(image), "decode")
    assert (out.min(), out.max()) == (0, 1)


def _fingerprint(*paths: Path) -> dict[str, object]:
    ref = find_model(f"torchscript:{','.join(map(str, paths))}")
    return fingerprint(ref.load(), ref)


def test_fingerprint_is_the_same_at_each_load(scripted):
    paths = scripted / "encoder.pt", scripted / "decoder.pt"
    assert _fingerprint(*paths) == _fingerprint(*paths)


def test_fingerprint_changes_with_a_weight(scripted, tmp_path):
    network = torch.jit.load(scripted / "encoder.pt")
    with torch.no_grad():
        network.near.bias[0] += 1e-6
    network.save(tmp_path / "encoder.pt")
    first, second = _fingerprint(scripted / "encoder.pt"), _fingerprint(tmp_path / "encoder.pt")
    assert first["weights"] != second["weights"]
    assert first["preprocessing"] != second["preprocessing"]


def test_fingerprint_changes_with_the_code_alone(scripted, tmp_path):
    class Other(Encoder):
        def forward(self, image: Tensor) -> Tensor:
            return self.near(torch.relu(self.norm(self.patches(image))))

    torch.manual_seed(0)
    first, second = _fingerprint(scripted / "encoder.pt"), _fingerprint(save(Other(), tmp_path / "encoder.pt"))
    assert first["weights"] == second["weights"]
    assert first != second


@torch.inference_mode()
def test_a_frozen_network_whose_weights_are_part_of_its_code_works_and_has_a_fingerprint(tmp_path):
    prints = []
    for seed in range(2):
        torch.manual_seed(seed)
        network = Encoder().eval()
        torch.jit.freeze(torch.jit.script(network)).save(tmp_path / "e.pt")
        image = torch.rand(3, 32, 32)
        torch.testing.assert_close(load(tmp_path / "e.pt").encode(image).data, network(image[None])[0])
        prints.append(_fingerprint(tmp_path / "e.pt"))
    assert prints[0] != prints[1]


@torch.inference_mode()
def test_a_traced_network_works(tmp_path):
    network = Encoder().eval()
    torch.jit.trace(network, torch.rand(1, 3, 8, 8)).save(tmp_path / "e.pt")
    image = torch.rand(3, 16, 24)
    torch.testing.assert_close(load(tmp_path / "e.pt").encode(image).data, network(image[None])[0])
