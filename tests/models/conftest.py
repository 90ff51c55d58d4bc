"""Style networks and scripted ones, each loaded or saved once for a file of tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_checkpoints import save_adain, save_johnson, save_torchscript

from lift3d_cli.models.builtin.style import Style
from lift3d_cli.models.registry import find_model


@pytest.fixture(scope="module")
def shipped() -> Style:
    """The style network that ships."""
    return find_model("style").load()


@pytest.fixture(scope="module")
def candy(tmp_path_factory) -> Style:
    """A TransformerNet: the style is in its weights."""
    return find_model(f"style:{save_johnson(tmp_path_factory.mktemp('style'))}").load()


@pytest.fixture(scope="module")
def any_style(tmp_path_factory) -> Style:
    """AdaIN: the style is a picture."""
    return find_model(f"style:{save_adain(tmp_path_factory.mktemp('adain'))}").load()


@pytest.fixture(scope="module")
def scripted(tmp_path_factory) -> Path:
    """A folder of networks saved in training mode, as `script` leaves them: encoder.pt, decoder.pt, refiner.pt."""
    path = tmp_path_factory.mktemp("scripted")
    save_torchscript(path)
    return path
