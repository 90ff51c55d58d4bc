"""Built-in models keep the rules, and the checks of `models/conformance.py` notice who does not."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lift3d_cli import FeatureGrid, FeatureMap, Model, ModelSpec
from lift3d_cli.errors import ModelError
from lift3d_cli.models import conformance
from lift3d_cli.models.registry import find_model


# Those that need no download; the others are checked with small weights, each in its own file.
@pytest.fixture(scope="module", params=["rgb", "style", "tiny-colorizer", "tiny-superres"])
def built_in(request):
    return find_model(request.param).load()


@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__)
def test_built_in_keeps_the_rule(built_in, check):
    check(built_in)


class Toy(Model):
    """A correct model of stride 4; the broken ones below each change one thing of it."""

    spec = ModelSpec(name="toy", channels=3, stride=4, tasks=("show",))

    def encode(self, image):
        padded = F.pad(image[None], (0, -image.shape[2] % 4, 0, -image.shape[1] % 4), mode="replicate")
        return FeatureMap(F.avg_pool2d(padded, 4)[0], self.grid(image.shape[2], image.shape[1]))

    def decode(self, features, view, task):
        return features.at_pixels(view.image.shape[2], view.image.shape[1]).clamp(0, 1)


class CropsTheImage(Toy):
    def encode(self, image):
        data = F.avg_pool2d(image[None], 4)[0]
        return FeatureMap(data, FeatureGrid(data.shape[2], data.shape[1], (0.25, 0.25)))


class CountsCalls(Toy):
    calls = 0

    def encode(self, image):
        features = super().encode(image)
        self.calls += 1
        return FeatureMap(features.data + self.calls, features.grid)


class ChangesItsInput(Toy):
    def encode(self, image):
        return super().encode(image.clamp_(max=0.5))


class GivesWholeNumbers(Toy):
    def encode(self, image):
        features = super().encode(image)
        return FeatureMap((features.data * 255).byte().int(), features.grid)


class GivesNotANumber(Toy):
    def encode(self, image):
        features = super().encode(image)
        return FeatureMap(features.data / 0, features.grid)


class DecodesFeatures(Toy):
    def decode(self, features, view, task):
        return features.data


class DecodesBeyondOne(Toy):
    def decode(self, features, view, task):
        return super().decode(features, view, task) + 0.5


class ForgetsHalfPixels(Toy):
    """Two 3x3 layers of stride 2 look at pixel 0.5 + 4 i, not at the middle of four."""

    def encode(self, image):
        height, width = image.shape[1:]
        data = image[None]
        kernel = torch.ones(3, 1, 3, 3) / 9
        for _ in range(2):
            data = F.conv2d(F.pad(data, (1, 1, 1, 1), mode="replicate"), kernel, stride=2, groups=3)
        return FeatureMap(data[0], self.grid(width, height))


class RemembersHalfPixels(ForgetsHalfPixels):
    def grid(self, width, height):
        return FeatureGrid((width + 3) // 4, (height + 3) // 4, (0.25, 0.25), (0.375, 0.375))


@pytest.mark.parametrize("model_class", [Toy, RemembersHalfPixels])
def test_a_correct_model_passes(model_class):
    for check in conformance.CHECKS:
        check(model_class())


@pytest.mark.parametrize(
    ("model_class", "complaint"),
    [
        (CropsTheImage, "its spec and grid() say"),
        (CountsCalls, "other features the second time"),
        (ChangesItsInput, "changes its input"),
        (GivesWholeNumbers, "not floating point"),
        (GivesNotANumber, "NaN or infinite"),
        (DecodesFeatures, "decode() of task show gives (3, 24, 32)"),
        (DecodesBeyondOne, "outside of [0, 1]"),
        (ForgetsHalfPixels, "beside the grid"),
    ],
)
def test_a_broken_model_is_told_what_is_wrong(model_class, complaint):
    complaints = []
    for check in conformance.CHECKS:
        try:
            check(model_class())
        except ModelError as e:
            complaints.append(str(e))
    assert complaints
    assert complaint in " ".join(complaints)
    assert all(line.startswith("model toy: ") and "\n" not in line for line in complaints)


def test_a_model_with_random_weights_is_told_so(tmp_path):
    file = tmp_path / "unseeded.py"
    file.write_text(
        "import torch\nfrom lift3d_cli import Model, ModelSpec\n"
        "class Unseeded(Model):\n"
        "    spec = ModelSpec(name='unseeded', channels=1, stride=1, tasks=('show',))\n"
        "    def __init__(self):\n        super().__init__()\n        self.a = torch.nn.Parameter(torch.rand(3))\n"
        "    def encode(self, image): ...\n    def decode(self, features, view, task): ...\n"
    )
    with pytest.raises(ModelError, match="two instances differ"):
        conformance.check_model(f"{file}:Unseeded")


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "My Model"},
        {"name": "../up"},
        {"name": ""},
        {"channels": 0},
        {"channels": 2.0},
        {"stride": 0},
        {"stride": True},
        {"tasks": ()},
        {"tasks": "rgb"},
        {"tasks": ["rgb"]},
        {"tasks": ("a", "a")},
        {"version": 1},
        {"summary": "two\nlines"},
    ],
    ids=str,
)
def test_a_spec_with_a_bad_value_cannot_be_made(fields):
    with pytest.raises(ModelError, match="model") as error:
        ModelSpec(**{"name": "toy", "channels": 1, "stride": 1, "tasks": ("show",), **fields})
    assert "\n" not in str(error.value)


def test_at_pixels_reads_a_ramp_exactly_and_leaves_padding_out():
    # Each cell holds the image x of its centre, so that interpolation must give back every pixel's own x.
    grid = FeatureGrid.from_stride(30, 9, 4)
    features = FeatureMap(grid.cell_centers().T.reshape(2, grid.height, grid.width), grid)
    x, y = features.at_pixels(30, 9)
    inner = slice(2, 28)  # beyond the outermost cell centres the border's value is held
    torch.testing.assert_close(x[0, inner], torch.arange(30)[inner] + 0.5)
    torch.testing.assert_close(y[2:7, 0], torch.arange(9)[2:7] + 0.5)


def test_finer_map_keeps_its_place_in_the_image():
    grid = FeatureGrid(8, 6, (0.25, 0.25), (0.375, 0.0))
    features = FeatureMap(torch.rand(5, 6, 8), grid)
    finer = features.finer(nn.Upsample(scale_factor=4)(features.data[None])[0])
    blocks = finer.grid.cell_centers().reshape(6, 4, 8, 4, 2).mean((1, 3)).reshape(-1, 2)
    torch.testing.assert_close(blocks, grid.cell_centers())
