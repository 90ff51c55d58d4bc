"""What the tests of procedural scenes share."""

from __future__ import annotations

import pytest
import torch

from lift3d_cli.scene.procedural import TextureLibrary


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def library() -> TextureLibrary:
    return TextureLibrary(12, 64, torch.Generator().manual_seed(0))
