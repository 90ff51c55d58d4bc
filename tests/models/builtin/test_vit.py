"""DINO, DINOv2, DINOv3: features are the library's own patch tokens, each on its patch. Tiny random networks."""

from __future__ import annotations

import json
import re
import shutil
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from tiny_checkpoints import save_dino, save_dinov2, save_dinov3
from torch.nn import functional as F

from lift3d_cli.errors import ModelError
from lift3d_cli.models.base import DecodeContext, DecodeOptions, RenderedView
from lift3d_cli.models.builtin.vit import IMAGENET_MEAN, IMAGENET_STD
from lift3d_cli.models.conformance import check_model
from lift3d_cli.models.registry import find_model

transformers = pytest.importorskip("transformers")

# What is saved: model, class, and how many tokens come before the patches'; and by what.
NETWORKS = {
    "dino": ("dino", "ViTModel", 1, save_dino),
    "dino16": ("dino", "ViTModel", 1, partial(save_dino, patch=16)),
    "dinov2": ("dinov2", "Dinov2Model", 1, save_dinov2),
    "dinov2-registers": ("dinov2", "Dinov2WithRegistersModel", 5, partial(save_dinov2, registers=4)),
    "dinov3": ("dinov3", "DINOv3ViTModel", 4, partial(save_dinov3, registers=3)),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint of each network, as the library saves it."""
    return {key: Path(save(tmp_path_factory.mktemp(key))) for key, (*_, save) in NETWORKS.items()}


@pytest.fixture(params=NETWORKS, scope="module")
def loaded(request, folders):
    """A model of ours, the library's own network of the same checkpoint, and how many tokens are no patches."""
    name, network, num_others, _ = NETWORKS[request.param]
    model = find_model(f"{name}:{folders[request.param]}").load()
    return model, getattr(transformers, network).from_pretrained(folders[request.param]).eval(), num_others


def _photo(width: int, height: int) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(width + height))


def _library_tokens(network, image, **inputs):
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    if isinstance(network, transformers.ViTModel):
        inputs = {"interpolate_pos_encoding": True}
    return network(pixel_values=((image - mean) / std)[None], **inputs).last_hidden_state[0]


def test_declarations_name_hub_licence_and_size():
    for name in ("dino", "dinov2", "dinov3"):
        spec = find_model(name).spec()
        assert spec.hub.startswith("facebook/")
        assert len(spec.revision) == 40
        assert spec.download_bytes > 80e6
        assert spec.extra == "hf"
        assert spec.max_size % spec.stride == 0  # the longest side has no padding
    assert find_model("dinov3").spec().license == "LicenseRef-DINOv3"


def test_channels_and_stride_are_those_of_the_checkpoint(loaded):
    model, network, _ = loaded
    assert (model.spec.channels, model.spec.stride) == (32, network.config.patch_size)
    assert type(model).spec.channels == 384  # the class still describes the hub's


@torch.inference_mode()
@pytest.mark.parametrize("cells", [(4, 4), (5, 3), (2, 6)], ids=str)
def test_features_are_the_patch_tokens_of_the_whole_network(loaded, cells):
    model, network, num_others = loaded
    image = _photo(cells[0] * model.spec.stride, cells[1] * model.spec.stride)
    tokens = _library_tokens(network, image)
    assert len(tokens) == num_others + cells[0] * cells[1]
    features = model.checked_encode(image).data
    torch.testing.assert_close(features.flatten(1).T, tokens[num_others:], atol=1e-5, rtol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(61, 45), (33, 64), (5, 3), (1, 1)], ids=str)
def test_odd_photos_are_those_padded_by_replication_to_whole_patches(loaded, size):
    model, network, num_others = loaded
    image, stride = _photo(*size), model.spec.stride
    padded = F.pad(image[None], (0, -size[0] % stride, 0, -size[1] % stride), mode="replicate")[0]
    features = model.checked_encode(image)
    tokens = _library_tokens(network, padded)[num_others:]
    torch.testing.assert_close(features.data.flatten(1).T, tokens, atol=1e-5, rtol=1e-5)
    assert features.grid.scale == (1 / stride, 1 / stride)
    assert features.grid.offset == (0, 0)


@torch.inference_mode()
def test_a_bright_square_lights_its_own_cell(loaded):
    model, _, _ = loaded
    stride = model.spec.stride
    dark = torch.full((3, 4 * stride - 5, 6 * stride - 3), 0.3)
    flat = model.checked_encode(dark).data
    for row, column in ((0, 0), (1, 4), (2, 1), (3, 5)):
        image = dark.clone()
        image[:, row * stride : (row + 1) * stride, column * stride : (column + 1) * stride] = 0.9
        change = (model.checked_encode(image).data - flat).norm(dim=0)
        assert divmod(change.argmax().item(), 6) == (row, column)


@pytest.mark.parametrize("key", NETWORKS)
def test_models_conform(folders, key):
    check_model(f"{NETWORKS[key][0]}:{folders[key]}")


@torch.inference_mode()
def test_features_become_a_picture_and_clusters_of_the_size_of_the_view(folders):
    model = find_model(f"dinov2:{folders['dinov2']}").load()
    image = _photo(61, 45)
    features, view = model.checked_encode(image), RenderedView(image, torch.ones(45, 61))
    for task, options in (("features", DecodeOptions()), ("segment", DecodeOptions(clusters=3))):
        out = model.decoder(DecodeContext(task, options, [features], None))(features, view)
        out = getattr(out, "scores", out)
        assert out.shape == (3, 45, 61)
        assert out.min() >= 0
        assert out.max() <= 1
    with pytest.raises(ModelError, match="--clusters"):
        model.decoder(DecodeContext("segment", DecodeOptions(), [features], None))


def _refused(ref: str) -> str:
    with pytest.raises(ModelError) as error:
        find_model(ref).load()
    assert "\n" not in str(error.value)
    assert "hint: " in str(error.value)
    assert len(str(error.value)) < 500
    return str(error.value)


def test_checkpoint_of_another_network_is_one_line(folders):
    assert "type 'dinov2'" in _refused(f"dino:{folders['dinov2']}")
    assert "type 'vit'" in _refused(f"dinov2:{folders['dino']}")
    assert "type 'vit'" in _refused(f"dinov3:{folders['dino']}")


def test_folder_that_is_not_there_is_one_line(tmp_path):
    assert "no folder" in _refused(f"dino:{tmp_path / 'nowhere'}")


def test_incomplete_weights_are_one_line(folders, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(folders["dinov2"], tmp_path / "part")
    weights = load_file(folder / "model.safetensors")
    del weights["layernorm.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert "lacks 1 weights, such as layernorm.weight" in _refused(f"dinov2:{folder}")


def test_weights_of_other_sizes_are_one_line(folders, tmp_path):
    folder = shutil.copytree(folders["dinov2"], tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 48}))
    assert "cannot load" in _refused(f"dinov2:{folder}")


def test_broken_files_are_one_line(folders, tmp_path):
    for file in ("config.json", "model.safetensors"):
        folder = shutil.copytree(folders["dinov2"], tmp_path / file)
        (folder / file).write_bytes((folder / file).read_bytes()[:100])
        assert re.search("cannot load|are broken", _refused(f"dinov2:{folder}"))


def test_missing_library_is_one_line_with_the_extra(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "pip install 'lift3d-cli[hf]'" in _refused(f"dino:{folders['dino']}")


def test_unknown_setting_is_refused(folders):
    assert "takes no setting 'layer'" in _refused(f"dino:{folders['dino']}?layer=3")
