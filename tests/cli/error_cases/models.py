"""Models and weights that are not there, are of another kind, or were changed."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch
from commands import FAST, Run

from error_cases.cases import Cases

case = Cases()


def edit_text(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@case
def model_is_unknown(run: Run):
    return ["encode", "scene", "--model", "tiny-colorizr"]


@case
def model_file_is_missing(run: Run):
    return ["encode", "scene", "--model", "./none.py:Model"]


@case
def model_file_has_no_such_class(run: Run):
    Path("mine.py").write_text("import torch\n")
    return ["encode", "scene", "--model", "./mine.py:Mine"]


@case
def model_file_cannot_be_imported(run: Run):
    Path("mine.py").write_text("import nonexistent_module\n")
    return ["encode", "scene", "--model", "./mine.py:Mine"]


@case
def model_file_changed_since_the_encode(run: Run, own_model: Path):
    assert run("encode", "scene", "--model", f"{own_model}:Patches").exit_code == 0
    edit_text(own_model, "1 - color", "0.5 - color")
    return ["render", *FAST]


@case
def model_file_changed_since_the_render(run: Run, own_model: Path):
    assert run("encode", "scene", "--model", f"{own_model}:Patches").exit_code == 0
    assert run("render", *FAST).exit_code == 0
    edit_text(own_model, "1 - color", "0.5 - color")
    return ["decode"]


@case
def weights_are_missing(run: Run):
    return ["render", "--weights", "none.safetensors"]


@case
def weights_are_no_safetensors(run: Run):
    Path("mine.safetensors").write_text("hello")
    return ["render", "--weights", "mine.safetensors"]


@case
def weights_are_of_another_network(run: Run):
    safetensors.torch.save_file({"layer.weight": torch.zeros(2, 2)}, "mine.safetensors")
    return ["render", "--weights", "mine.safetensors"]
