"""One photo, one encoder and their features, small enough to write a thousand times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lift3d_cli.cache.format import EncoderRecord, PhotoRecord
from lift3d_cli.cache.store import SceneCache, describe_photo
from lift3d_cli.geometry.grids import FeatureGrid

K = np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]])


@pytest.fixture
def encoder() -> EncoderRecord:
    return EncoderRecord("tiny", "./tiny.py:Tiny", "fp16", {"weights": "ab12", "version": "1"}, {"channels": 2})


@pytest.fixture
def photo(tmp_path: Path) -> PhotoRecord:
    path = tmp_path / "photos" / "one.jpg"
    path.parent.mkdir()
    path.write_bytes(b"not decoded, only hashed")
    return describe_photo("photos/one.jpg", path, K, 64, 48, working_size=(32, 24))


@pytest.fixture
def grid() -> FeatureGrid:
    return FeatureGrid.from_stride(32, 24, 8)


@pytest.fixture
def data() -> torch.Tensor:
    return torch.arange(24, dtype=torch.float32).reshape(2, 3, 4) / 8


@pytest.fixture
def cache(tmp_path: Path) -> SceneCache:
    return SceneCache(tmp_path / ".lift3d", scene="garden")


@pytest.fixture
def written(cache, encoder, photo, data, grid) -> Path:
    """The path of features that are there."""
    cache.write_features(encoder, photo, data, grid)
    return cache.features_path(encoder, photo)
