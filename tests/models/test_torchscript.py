"""Scripted networks of the user's own: split exactly, tried before they are used, refused in one line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_checkpoints import Decoder, Encoder, save_torchscript
from torch import Tensor, nn
from torch.nn import functional as F

from lift3d_cli import FeatureMap, Model, RenderedView
from lift3d_cli.errors import ModelError
from lift3d_cli.models import conformance
from lift3d_cli.models.base import DecodeContext, DecodeOptions
from lift3d_cli.models.fingerprint import fingerprint
from lift3d_cli.models.torchscript import TorchScript
from lift3d_cli.registry import find_model

# torch says that TorchScript will go some day.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


def _save(network: nn.Module, path: Path) -> Path:
    torch.jit.script(network).save(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Saved in training mode, as `script` leaves it: encoder.pt, decoder.pt, refiner.pt."""
    path = tmp_path_factory.mktemp("scripted")
    save_torchscript(path)
    return path


def _load(*paths: Path, query: str = "") -> Model:
    return find_model(f"torchscript:{','.join(map(str, paths))}{query}").load()


def _unsplit(folder: Path, decoder: str, image: Tensor) -> Tensor:
    """The two files one after the other, without lift3d: at the size of the padded image."""
    encoder, decoder = (torch.jit.load(folder / f"{name}.pt").eval() for name in ("encoder", decoder))
    padded = F.pad(image[None], (0, -image.shape[2] % 4, 0, -image.shape[1] % 4), mode="replicate")
    features = encoder(padded)
    return decoder(features, padded) if len(decoder.forward.schema.arguments) > 2 else decoder(features)


def _view(image: Tensor) -> RenderedView:
    return RenderedView(image, torch.ones(image.shape[1:]))


def _error(make: Callable[[], object]) -> str:
    with pytest.raises(ModelError) as error, torch.inference_mode():
        make()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600
    return str(error.value)


@torch.inference_mode()
def test_decode_of_encode_is_the_unsplit_network(folder):
    model = _load(folder / "encoder.pt", folder / "refiner.pt")
    for image in [*conformance.sample_images(), torch.rand(3, 3, 2)]:
        out = model.decode(model.checked_encode(image), _view(image), "decode")
        whole = _unsplit(folder, "refiner", image)[0, :, : image.shape[1], : image.shape[2]]
        torch.testing.assert_close(out, whole, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_a_coarser_result_is_interpolated_to_the_views_pixels_without_its_padding(folder):
    model = _load(folder / "encoder.pt", folder / "decoder.pt")
    for image in conformance.sample_images():
        out = model.decode(model.checked_encode(image), _view(image), "decode")
        whole = _unsplit(folder, "decoder", image)
        whole = F.interpolate(whole, scale_factor=2, mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(out, whole[:, : image.shape[1], : image.shape[2]], atol=1e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("decoder", ["decoder", "refiner"])
def test_features_on_a_shifted_grid_are_decoded_where_they_lie(folder, decoder):
    """Here, on the grid of a view cut 8 pixels from the left."""
    model = _load(folder / "encoder.pt", folder / f"{decoder}.pt")
    image = next(conformance.sample_images())
    features = model.encode(image)
    whole = model.decode(features, _view(image), "decode")
    shifted = dataclasses.replace(features.grid, offset=(2.0, 0.0))
    cut = model.decode(FeatureMap(features.data, shifted), _view(image[:, :, 8:]), "decode")
    inner = 4 if decoder == "refiner" else 0  # the cells cut off see the border's pixels, and their neighbours half
    torch.testing.assert_close(cut[:, :, inner:], whole[:, :, 8 + inner :], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_a_larger_view_gives_the_image_to_the_decoder_at_the_size_that_it_knows(folder):
    model = _load(folder / "encoder.pt", folder / "refiner.pt")
    image = next(conformance.sample_images())
    features = model.encode(image)
    twice = image.repeat_interleave(2, 1).repeat_interleave(2, 2)
    out = model.decode(FeatureMap(features.data, features.grid.rescaled(2, 2)), _view(twice), "decode")
    # Half a new pixel beside the centres of the old ones, it is interpolated: three quarters of the near one.
    small = model.decode(features, _view(image), "decode")
    want = F.interpolate(small[None], scale_factor=2, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(out, want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("decoder", ["", ",{}/decoder.pt", ",{}/refiner.pt"])
def test_every_rule_of_a_model_holds(folder, decoder):
    conformance.check_model(f"torchscript:{folder}/encoder.pt{decoder.format(folder)}")


@torch.inference_mode()
@pytest.mark.parametrize("cell", [(0, 0), (5, 2), (9, 7)])
def test_a_bright_square_lights_the_cell_below_it(folder, cell):
    model = _load(folder / "encoder.pt")
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
    model = _load(_save(Encoder(stride), tmp_path / "e.pt"))
    assert (model.spec.channels, model.spec.stride) == (6, stride)


def test_a_stride_that_does_not_divide_the_images_tried_can_be_told(tmp_path):
    path = _save(Encoder(20), tmp_path / "e.pt")
    assert "not of one whole stride" in _error(lambda: _load(path))
    assert _load(path, query="?stride=20").spec.stride == 20
    assert "not of one whole stride of 40" in _error(lambda: _load(path, query="?stride=40"))


@torch.inference_mode()
def test_a_file_saved_in_training_mode_runs_in_eval_mode_with_the_averages_it_came_with(tmp_path):
    torch.manual_seed(1)
    network = Encoder()
    network(torch.rand(4, 3, 32, 32))  # averages other than the initial ones
    path = _save(network, tmp_path / "e.pt")
    image = torch.rand(3, 32, 32)
    torch.testing.assert_close(_load(path).encode(image).data, network.eval()(image[None])[0])


@torch.inference_mode()
def test_without_a_decoder_there_are_the_tasks_that_need_none(folder):
    model = _load(folder / "encoder.pt")
    assert model.spec.tasks == ("features", "segment")
    assert TorchScript.spec.tasks == ("decode", "features", "segment")
    image = next(conformance.sample_images())
    features = model.encode(image)
    assert model.decode(features, _view(image), "features").shape == image.shape
    context = DecodeContext("segment", DecodeOptions(clusters=2), [features], None)
    assert model.decoder(context)(features, _view(image)).scores.shape == (2, *image.shape[1:])
    line = _error(lambda: model.decoder(dataclasses.replace(context, task="decode")))
    assert f"no decoder, only {folder / 'encoder.pt'}" in line
    assert "--task features" in line


@torch.inference_mode()
def test_results_are_clamped(folder, tmp_path):
    class Loud(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            return 100 * features[:, :3]

    model = _load(folder / "encoder.pt", _save(Loud(), tmp_path / "d.pt"))
    image = next(conformance.sample_images())
    out = model.decode(model.encode(image), _view(image), "decode")
    assert (out.min(), out.max()) == (0, 1)


def _fingerprint(*paths: Path) -> dict[str, object]:
    ref = find_model(f"torchscript:{','.join(map(str, paths))}")
    return fingerprint(ref.load(), ref)


def test_fingerprint_is_the_same_at_each_load(folder):
    paths = folder / "encoder.pt", folder / "decoder.pt"
    assert _fingerprint(*paths) == _fingerprint(*paths)


def test_fingerprint_changes_with_a_weight(folder, tmp_path):
    network = torch.jit.load(folder / "encoder.pt")
    with torch.no_grad():
        network.near.bias[0] += 1e-6
    network.save(tmp_path / "encoder.pt")
    first, second = _fingerprint(folder / "encoder.pt"), _fingerprint(tmp_path / "encoder.pt")
    assert first["weights"] != second["weights"]
    assert first["preprocessing"] != second["preprocessing"]


def test_fingerprint_changes_with_the_code_alone(folder, tmp_path):
    class Other(Encoder):
        def forward(self, image: Tensor) -> Tensor:
            return self.near(torch.relu(self.norm(self.patches(image))))

    torch.manual_seed(0)
    first, second = _fingerprint(folder / "encoder.pt"), _fingerprint(_save(Other(), tmp_path / "encoder.pt"))
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
        torch.testing.assert_close(_load(tmp_path / "e.pt").encode(image).data, network(image[None])[0])
        prints.append(_fingerprint(tmp_path / "e.pt"))
    assert prints[0] != prints[1]


@torch.inference_mode()
def test_a_traced_network_works(tmp_path):
    network = Encoder().eval()
    torch.jit.trace(network, torch.rand(1, 3, 8, 8)).save(tmp_path / "e.pt")
    image = torch.rand(3, 16, 24)
    torch.testing.assert_close(_load(tmp_path / "e.pt").encode(image).data, network(image[None])[0])


def _state_dict(path: Path) -> None:
    torch.save(Encoder().state_dict(), path)


@pytest.mark.parametrize("write", [lambda path: path.write_bytes(b"hello"), _state_dict])
def test_a_file_that_is_no_torchscript_is_one_line(tmp_path, write):
    write(tmp_path / "e.pt")
    line = _error(lambda: _load(tmp_path / "e.pt"))
    assert f"{tmp_path / 'e.pt'} is no TorchScript" in line
    assert "hint: torch.jit.script" in line


@pytest.mark.parametrize(
    ("ref", "part"),
    [
        ("torchscript", "needs one file or two"),
        ("torchscript:a.pt,b.pt,c.pt", "needs one file or two"),
        ("torchscript:a.pt", "there is no file a.pt"),
        ("torchscript:{}/encoder.pt,b.pt", "there is no file b.pt"),
        ("torchscript:{}/encoder.pt?stride=0", "stride is '0'"),
    ],
)
def test_wrong_references_are_one_line(folder, ref, part):
    assert part in _error(lambda: find_model(ref.format(folder)).load())


class Valid(nn.Module):
    """Without padding: 224 pixels are 55 cells, 448 are 111."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 7, 4)


class Fixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, 14)


class Wide(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, (2, 4))


class Tokens(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 8).flatten(2)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Whole(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.argmax(1, keepdim=True)


class Nan(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 0 - x / 0


class Two(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class Silent(nn.Module):
    @torch.jit.export
    def run(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize(
    ("network", "part"),
    [
        (Valid, "gives [1, 3, 111, 55] for [1, 3, 448, 224]: not of one whole stride"),
        (Fixed, "not of one whole stride"),
        (Wide, "not of one whole stride"),
        (Tokens, "needs features [1, C, h, w]"),
        (Pair, "gives tuple"),
        (Whole, "gives torch.int64"),
        (Nan, "NaN"),
        (Two, "fails on [1, 3, 224, 448]"),
        (Silent, "no forward()"),
        (Decoder, "expected input[1, 3, 224, 448] to have 6 channels"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_an_encoder_that_breaks_the_rules_is_refused_before_any_photo(tmp_path, network, part):
    path = _save(network(), tmp_path / "network.pt")
    line = _error(lambda: _load(path))
    assert str(path) in line
    assert part in line


class Gray(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features[:, :1]


class Cropped(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features[:, :3, 1:]


@pytest.mark.parametrize(
    ("network", "part"),
    [
        (Gray, "gives [1, 1, 4, 5] for features [1, 6, 4, 5], needs [1, 3, 4 * k, 5 * k]"),
        (Cropped, "gives [1, 3, 3, 5]"),
        (Tokens, "fails on"),
        (Pair, "gives tuple"),
        (Nan, "NaN"),
        (Encoder, "fails on [1, 6, 4, 5]"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_decoder_that_breaks_the_rules_is_one_line_that_names_its_file(folder, tmp_path, network, part):
    path = _save(network(), tmp_path / "network.pt")
    model = _load(folder / "encoder.pt", path)
    image = torch.rand(3, 16, 20)
    line = _error(lambda: model.decode(model.encode(image), _view(image), "decode"))
    assert str(path) in line
    assert part in line


def test_features_that_are_not_finite_name_the_file(tmp_path):
    class Sometimes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / x

    path = _save(Sometimes(), tmp_path / "e.pt")
    line = _error(lambda: _load(path).encode(torch.zeros(3, 8, 8)))
    assert f"{path} gives NaN" in line
