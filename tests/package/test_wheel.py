"""The wheel carries the weights, and works where there is no checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def run(*command: object, cwd: Path) -> str:
    """Standard output of a command that must succeed, run without a trace of this checkout."""
    environment = {n: v for n, v in os.environ.items() if not n.startswith(("LIFT3D_", "PYTHON", "VIRTUAL_ENV"))}
    out = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert out.returncode == 0, out.stdout + out.stderr
    return out.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--wheel-dir", folder]
    run(sys.executable, "-m", "pip", "wheel", ROOT, *options, cwd=folder)
    return next(folder.glob("lift3d_cli-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The `bin` of a fresh environment with the wheel, which borrows the dependencies of this one."""
    folder = tmp_path_factory.mktemp("env")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    options = ["--no-deps", "--no-index", "--disable-pip-version-check"]
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel, cwd=folder)
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    # After the environment's own packages on the path; .pth files in there, such as an editable lift3d's, do not count.
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = run(python, "-c", "import lift3d_cli; print(lift3d_cli.__file__)", cwd=folder)
    assert Path(where.strip()).is_relative_to(packages)
    return folder / "bin"


@pytest.fixture
def scene(tmp_path) -> Path:
    """One photo."""
    from PIL import Image

    folder = tmp_path / "scene"
    folder.mkdir()
    Image.radial_gradient("L").resize((96, 64)).save(folder / "photo.png")
    pose = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    frames = [{"file_path": "photo.png", "transform_matrix": pose}]
    (folder / "transforms.json").write_text(json.dumps({"fl_x": 80, "w": 96, "h": 64, "frames": frames}))
    return folder


def test_wheel_has_the_weights_and_nothing_but_the_package(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    shipped = json.loads((ROOT / "weights" / "manifest.json").read_text())
    for name in ["manifest.json", *shipped]:
        assert f"lift3d_cli/_weights/{name}" in names
    tops = {name.split("/")[0] for name in names}
    assert len(tops) == 2
    assert all(top == "lift3d_cli" or top.endswith(".dist-info") for top in tops)
    assert not [name for name in names if "__pycache__" in name]


def test_installed_wheel_encodes_and_decodes_outside_of_the_checkout(installed, scene, tmp_path):
    lift3d = installed / "lift3d"
    assert run(lift3d, "--version", cwd=tmp_path).startswith("lift3d ")
    assert "tiny-colorizer" in run(lift3d, "models", cwd=tmp_path)
    features = tmp_path / run(lift3d, "encode", "scene", "--model", "tiny-colorizer", cwd=tmp_path).strip()
    assert len(list(features.glob("photo-*.safetensors"))) == 1
    run(lift3d, "path", "scene", "views", cwd=tmp_path)
    run(lift3d, "render", "--planes", 8, "--samples", 2, cwd=tmp_path)
    shown = run(lift3d, "decode", "--task", "colorize", cwd=tmp_path).split()
    assert (tmp_path / shown[0] / "photo.png").is_file()


def test_source_distribution_can_build_the_wheel(tmp_path):
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path, cwd=ROOT)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "LICENSE", "weights/manifest.json", "src/lift3d_cli/__init__.py"} <= names
    made_here = (".venv", "demo", "dist", "build", "runs", "lift3d-out", ".git")
    assert not [name for name in names if name.split("/")[0] in made_here or "/.lift3d/" in name]
