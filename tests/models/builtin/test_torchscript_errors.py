"""Scripted networks of the user's own that break the rules: refused in one line that names the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scripted import IGNORE_DEPRECATION, error_of, load, save
from tiny_checkpoints import Decoder, Encoder
from torch import Tensor, nn
from torch.nn import functional as F
from views import as_view

from lift3d_cli.models.registry import find_model

pytestmark = IGNORE_DEPRECATION


def _state_dict(path: Path) -> None:
    torch.save(Encoder().state_dict(), path)


@pytest.mark.parametrize("write", [lambda path: path.write_bytes(b"hello"), _state_dict])
def test_a_file_that_is_no_torchscript_is_one_line(tmp_path, write):
    write(tmp_path / "e.pt")
    line = error_of(lambda: load(tmp_path / "e.pt"))
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
def test_wrong_references_are_one_line(scripted, ref, part):
    assert part in error_of(lambda: find_model(ref.format(scripted)).load())


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
    path = save(network(), tmp_path / "network.pt")
    line = error_of(lambda: load(path))
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
def test_a_decoder_that_breaks_the_rules_is_one_line_that_names_its_file(scripted, tmp_path, network, part):
    path = save(network(), tmp_path / "network.pt")
    model = load(scripted / "encoder.pt", path)
    image = torch.rand(3, 16, 20)
    line = error_of(lambda: model.decode(model.encode(image), as_view(image), "decode"))
    assert str(path) in line
    assert part in line


def test_features_that_are_not_finite_name_the_file(tmp_path):
    class Sometimes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / x

    path = save(Sometimes(), tmp_path / "e.pt")
    line = error_of(lambda: load(path).encode(torch.zeros(3, 8, 8)))
    assert f"{path} gives NaN" in line
