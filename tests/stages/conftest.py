"""The workbench of these tests."""

from __future__ import annotations

import threading

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


def threads() -> list[str]:
    """Names of the threads of ours that live."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("lift3d-")]


@pytest.fixture
def no_thread_is_left():
    """At the end of a test."""
    yield
    assert threads() == []
