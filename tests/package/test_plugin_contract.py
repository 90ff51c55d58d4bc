"""`docs/adding-a-model.md` is true: its example is run as a file and as an installed package."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from lift3d_cli import FeatureGrid, RenderedView
from lift3d_cli.models import registry
from lift3d_cli.models.conformance import check_model
from lift3d_cli.models.registry import find_model

DOCS = Path(__file__).parents[2] / "docs" / "adding-a-model.md"


def _block(language: str, containing: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    return next(block for block in blocks if containing in block)


@pytest.fixture
def example(tmp_path, monkeypatch) -> str:
    """The documented file, saved under the documented name in the working folder; the documented reference to it."""
    (tmp_path / "my_model.py").write_text(_block("python", "class Edges"))
    monkeypatch.chdir(tmp_path)
    return re.search(r"lift3d encode scene/ --model (\S+)", _block("sh", "lift3d encode"))[1]


def test_example_is_one_file_of_at_most_40_lines():
    assert len(_block("python", "class Edges").splitlines()) <= 40


def test_example_passes_the_conformance_checks(example):
    check_model(example)


def test_example_passes_by_the_documented_command(example, tmp_path):
    code = re.search(r'python -c "(.*)"', _block("sh", "check_model"))[1]
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (out.returncode, out.stdout, out.stderr) == (0, "", "")


def test_example_decodes_every_task_to_the_edges_of_the_picture(example):
    model = find_model(example).load()
    image = torch.zeros(3, 40, 62)
    image[:, :, 31:] = 1
    with torch.inference_mode():
        out = model.decode(model.checked_encode(image), RenderedView(image, torch.ones(40, 62)), model.spec.tasks[0])
    assert out.shape == image.shape
    row = out[0, 20]
    assert abs((row * (torch.arange(62) + 0.5)).sum() / row.sum() - 31) < 1
    assert row[:20].max() < 0.05


def test_documented_entry_point_is_found(tmp_path, monkeypatch):
    (tmp_path / "lift3d_edges.py").write_text(_block("python", "class Edges"))
    monkeypatch.syspath_prepend(str(tmp_path))
    # Not tomllib: Python 3.10 has none.
    point = rf'\[project\.entry-points\."{registry.GROUP}"\]\n(\w+) = "(.+)"'
    entries = [metadata.EntryPoint(*re.search(point, _block("toml", "entry-points")).groups(), registry.GROUP)]
    monkeypatch.setattr(metadata, "entry_points", lambda group: entries)
    assert find_model("edges").load().spec.name == "edges"


def test_documented_grid_of_a_3x3_kernel_of_stride_2_is_where_it_looks():
    namespace: dict = {"FeatureGrid": FeatureGrid}
    exec(_block("text", "def grid").replace("\n  ", "\n").removeprefix("  "), namespace)
    grid = namespace["grid"](None, 9, 7)
    ramp = (torch.arange(9) + 0.5).expand(1, 1, 7, 9)  # each pixel holds its own x
    seen = torch.nn.functional.conv2d(ramp, torch.ones(1, 1, 3, 3) / 9, stride=2, padding=1)[0, 0]
    assert tuple(seen.shape) == (grid.height, grid.width)
    centers = grid.cell_centers().reshape(grid.height, grid.width, 2)[..., 0]
    torch.testing.assert_close(seen[1:-1, 1:-1], centers[1:-1, 1:-1])
