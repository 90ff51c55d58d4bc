"""What the tests share: a tiny scene on disk, a tiny model in a file, and the one place that skips GPU tests."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from pathlib import Path

import plane_world
import pytest
import safetensors.torch
import torch

from lift3d_cli import weights

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


@pytest.fixture(autouse=True, scope="session")
def _no_cache_of_the_user(tmp_path_factory):
    """Nor does a test, or what several of them share, leave anything in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("LIFT3D_CACHE", raising=False)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("user-cache")))
        yield


@pytest.fixture(scope="session")
def untrained(tmp_path_factory) -> Path:
    """A folder of weights with the network as it begins, which renders exactly as the training-free renderer does; its
    corrector, which begins by doing something, is told to do nothing.

    What the tests of the pipeline and the commands expect then does not depend on how well a network was trained.
    """
    from lift3d_cli.lifting.network import Lift3DNetwork

    folder = tmp_path_factory.mktemp("weights")
    network = Lift3DNetwork()
    network.corrector.log_noise.data += 40
    network.corrector.ray_head[-1].bias.data -= torch.tensor([0.0, 40.0])
    content = safetensors.torch.save(network.state_dict())
    (folder / "lift3d.safetensors").write_bytes(content)
    facts = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), "license": "Apache-2.0"}
    (folder / "manifest.json").write_text(json.dumps({"lift3d.safetensors": facts}))
    return folder


@pytest.fixture(scope="session")
def use_untrained(untrained) -> Callable[[pytest.MonkeyPatch], None]:
    """Makes the untrained network the one that ships, for as long as the given patch lasts."""
    folders = (untrained, *weights.WEIGHT_FOLDERS)
    return lambda patch: patch.setattr(weights, "WEIGHT_FOLDERS", folders)


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


def threads() -> list[str]:
    """Names of the threads of ours that live."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("lift3d-")]


@pytest.fixture
def no_thread_is_left():
    """At the end of a test."""
    yield
    assert threads() == []
