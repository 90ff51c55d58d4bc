"""The workbench of these tests."""

from __future__ import annotations

import pytest
from workbench import Work


@pytest.fixture
def work(scene_dir, model_ref, tmp_path) -> Work:
    return Work(scene_dir, model_ref, tmp_path / "out")
