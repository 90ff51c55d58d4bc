"""The fingerprint changes exactly when the features of a photo can."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from lift3d_cli import Model, ModelSpec
from lift3d_cli.errors import ModelError
from lift3d_cli.models.fingerprint import fingerprint, is_made_by
from lift3d_cli.models.registry import ModelRef, find_model

REF = ModelRef("toy", "built-in", "toy", "toy:Toy")


class Toy(Model):
    spec = ModelSpec(name="toy", channels=1, stride=1, tasks=("show",), version="3")

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)
        nn.init.ones_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)
        self.register_buffer("count", torch.tensor(1))
        self.settings: dict = {}

    def preprocessing(self):
        return self.settings


def test_two_instances_have_one_fingerprint_and_it_is_json():
    first = fingerprint(Toy(), REF)
    assert first == fingerprint(Toy().eval().requires_grad_(False), REF)
    assert json.loads(json.dumps(first)) == first
    assert (first["name"], first["version"], first["source"]) == ("toy", "3", "")
    assert len(first["weights"]) == 64


def test_built_ins_have_the_same_fingerprint_at_each_load():
    for name in ("rgb", "tiny-colorizer"):
        ref = find_model(name)
        assert fingerprint(ref.load(), ref) == fingerprint(ref.load(), ref)


def test_what_is_recorded_agrees_with_the_model_whatever_else_it_says():
    recorded = {**fingerprint(Toy(), REF), "max_size": None, "seed": 0}
    assert is_made_by(recorded, Toy(), REF)
    changed = Toy()
    changed.settings = {"mean": 0.5}
    assert not is_made_by(recorded, changed, REF)


def test_model_without_state_has_no_weights_hash():
    ref = find_model("rgb")
    assert fingerprint(ref.load(), ref)["weights"] == ""


def _change_one_weight(model):
    model.layer.weight[0, 0] = 1.0000001


def _change_a_buffer(model):
    model.count += 1


def _change_dtype(model):
    model.half()


def _change_shape(model):
    model.layer.weight = nn.Parameter(torch.ones(2, 3))


def _rename(model):
    model.renamed = model.layer
    del model.layer


def _change_settings(model):
    model.settings = {"size": 518}


@torch.no_grad()
@pytest.mark.parametrize(
    "change", [_change_one_weight, _change_a_buffer, _change_dtype, _change_shape, _rename, _change_settings]
)
def test_any_change_of_the_model_changes_the_fingerprint(change):
    changed = Toy()
    change(changed)
    assert fingerprint(changed, REF) != fingerprint(Toy(), REF)


def test_bfloat16_and_non_contiguous_weights_are_hashed():
    model = Toy()
    model.layer.weight = nn.Parameter(torch.ones(3, 2).T)
    assert fingerprint(model.bfloat16(), REF)["weights"]


def test_a_later_change_of_the_settings_does_not_reach_an_earlier_fingerprint():
    model = Toy()
    model.settings = {"mean": [0.5, 0.5]}
    earlier = fingerprint(model, REF)
    model.settings["mean"].append(0.1)
    assert earlier["preprocessing"] == {"mean": [0.5, 0.5]}


def test_settings_without_json_form_are_refused():
    model = Toy()
    model.settings = {"mean": torch.zeros(3)}
    with pytest.raises(ModelError, match=r"model toy: preprocessing\(\) is not plain JSON"):
        fingerprint(model, REF)


def test_editing_the_file_of_a_model_changes_its_fingerprint(tmp_path):
    file = tmp_path / "m.py"
    text = (
        "from lift3d_cli import Model, ModelSpec\nclass M(Model):\n"
        "    spec = ModelSpec(name='m', channels=1, stride=1, tasks=('show',))\n"
        "    def encode(self, image): ...\n    def decode(self, features, view, task): ...\n"
    )
    prints = []
    for content in (text, text, text + "# edited\n"):
        file.write_text(content)
        ref = find_model(f"{file}:M")
        prints.append(fingerprint(ref.load(), ref))
    assert prints[0] == prints[1] != prints[2]
    assert prints[0]["source"]
