"""What the tests of procedural scenes share."""

from __future__ import annotations

import pytest
import torch

from lift3d_cli.procedural import TextureLibrary


@pytest.fixture(scope="module")
def library() -> TextureLibrary:
    return TextureLibrary(12, 64, torch.Generator().manual_seed(0))
