"""The command line in a folder of its own, in which the scene is encoded and rendered already if a test wants that."""

from __future__ import annotations

import shutil
from pathlib import Path

import plane_world
import pytest
from commands import FAST, Run, invoke


@pytest.fixture(scope="session")
def shared_model(tmp_path_factory) -> str:
    """The reference of a model that no test changes."""
    path = tmp_path_factory.mktemp("models") / "patches.py"
    path.write_text(plane_world.MODEL_SOURCE)
    return f"{path}:Patches"


@pytest.fixture(scope="session")
def done_folder(tmp_path_factory, shared_model, use_untrained) -> Path:
    """A folder where `encode scene`, `path scene orbit` and `render` are done: 4 photos, 2 poses."""
    folder = tmp_path_factory.mktemp("done")
    plane_world.write_scene(folder / "scene", plane_world.rig(4))
    with pytest.MonkeyPatch.context() as patch:
        use_untrained(patch)
        patch.chdir(folder)
        for argv in (
            ["encode", "scene", "--model", shared_model],
            ["path", "scene", "orbit", "--frames", "2", "--max-size", "48"],
            ["render", *FAST],
        ):
            done = invoke(argv)
            assert done.exit_code == 0, done.stderr
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    """Runs commands in the test's empty folder."""
    monkeypatch.chdir(tmp_path)
    return Run(tmp_path)


@pytest.fixture
def done(done_folder, tmp_path, monkeypatch) -> Run:
    """Runs commands in a copy of `done_folder`."""
    shutil.copytree(done_folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Run(tmp_path)


@pytest.fixture(scope="module", autouse=True)
def _untrained_network(use_untrained):
    with pytest.MonkeyPatch.context() as patch:
        use_untrained(patch)
        yield
