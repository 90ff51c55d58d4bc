"""The networks of `examples/encoders.py` give what their makers' do, on grids that say where the cells lie."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from lift3d_cli.errors import ModelError
from lift3d_cli.models.conformance import check_model

EXAMPLES = Path(__file__).parents[2] / "examples"
WEIGHTS = Path(__file__).parents[3] / "shared" / "models"


@pytest.fixture(scope="module")
def encoders():
    """The module, with its networks' weights; where they are not, the tests are skipped."""
    if not WEIGHTS.is_dir():
        pytest.skip(f"no pretrained networks in {WEIGHTS}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFT3D_MODELS", str(WEIGHTS))
        patch.syspath_prepend(str(EXAMPLES))
        import encoders

        yield encoders
    sys.modules.pop("encoders", None)


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(WEIGHTS / "golden.safetensors")


@pytest.mark.parametrize(
    ("name", "input_name", "output_name"),
    [
        ("Vgg19", "input", "vgg19.relu3_1"),
        ("SqueezeNet4", "input", "squeezenet.fire4"),
        ("SqueezeNet9", "input", "squeezenet.fire9"),
        ("Colorizer", "input", "colorizer.features"),
        ("Rlfn", "rlfn.input", "rlfn.features"),
    ],
)
def test_features_are_those_of_the_makers_network(encoders, golden, name, input_name, output_name):
    model = getattr(encoders, name)().eval().requires_grad_(False)
    want = golden[output_name][0]
    got = model.checked_encode(golden[input_name][0]).data
    torch.testing.assert_close(got, want, atol=1e-5 * float(want.abs().max()), rtol=1e-3)


def test_decoders_give_what_the_whole_networks_do(encoders, golden):
    colorizer, rlfn = (getattr(encoders, name)().eval().requires_grad_(False) for name in ("Colorizer", "Rlfn"))
    ab = colorizer.upsample(golden["colorizer.features"]) * 255 - 128
    torch.testing.assert_close(ab, golden["colorizer.ab_units"], atol=1e-2, rtol=1e-3)
    large = rlfn.upsampler(golden["rlfn.features"]) / 255
    torch.testing.assert_close(large, golden["rlfn.output"], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    "name",
    ["Vgg19", "Vgg19Relu1", "Vgg19Relu2", "SqueezeNet4", "SqueezeNet8", "SqueezeNet9", "Colorizer", "Rlfn"],
)
def test_models_do_what_every_model_must(encoders, name):
    check_model(f"{EXAMPLES / 'encoders.py'}:{name}")


def test_folder_that_is_not_named_is_asked_for(encoders, monkeypatch):
    monkeypatch.delenv("LIFT3D_MODELS")
    with pytest.raises(ModelError, match="hint: set LIFT3D_MODELS"):
        encoders.Vgg19()
