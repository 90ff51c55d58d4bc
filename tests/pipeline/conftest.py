"""The workbench of these tests."""

from __future__ import annotations

import pytest
from workbench import Work


@pytest.fixture
def work(scene_dir, model_ref, tmp_path) -> Work:
    return Work(scene_dir, model_ref, tmp_path / "out")


@pytest.fixture(scope="module", autouse=True)
def _untrained_network(use_untrained):
    with pytest.MonkeyPatch.context() as patch:
        use_untrained(patch)
        yield
