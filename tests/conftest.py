"""What the tests share: a tiny scene on disk, a tiny model in a file, and the one place that skips GPU tests."""

from __future__ import annotations

from pathlib import Path

import plane_world
import pytest
import torch

# The tests' tensors are far too small to share among threads.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch):
    """The user's own settings and cache change no test."""
    for name in ("LIFT3D_CACHE", "LIFT3D_DEVICE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def wall_scene(tmp_path_factory) -> Path:
    """The scene of `scene_dir`, to look at but not to change."""
    return plane_world.write_scene(tmp_path_factory.mktemp("wall") / "scene", plane_world.rig(8))


@pytest.fixture
def scene_dir(wall_scene, tmp_path) -> Path:
    """A scene of 8 photos of a wall, 96x72, in `scene` of the test's folder."""
    return plane_world.copy_of(wall_scene, tmp_path / "scene")


@pytest.fixture
def model_file(tmp_path) -> Path:
    """A file with the model `Patches`: 6 channels, stride 4, tasks recolor and negative."""
    path = tmp_path / "patches.py"
    path.write_text(plane_world.MODEL_SOURCE)
    return path


@pytest.fixture
def model_ref(model_file) -> str:
    """What `--model` takes for the model of `model_file`."""
    return f"{model_file}:Patches"
