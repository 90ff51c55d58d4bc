"""CLIP and SigLIP 2: patches and words in one space, as the library's own modules have it. Tiny random networks."""

from __future__ import annotations

import shutil
import sys

import pytest
import torch
from tiny_checkpoints import save_clip, save_siglip2
from torch.nn import functional as F

from lift3d_cli import FeatureGrid, FeatureMap, RenderedView
from lift3d_cli.errors import ModelError
from lift3d_cli.models.base import DecodeContext, DecodeOptions
from lift3d_cli.models.builtin.image_text import NEGATIVES, TEMPLATES
from lift3d_cli.models.conformance import check_model
from lift3d_cli.models.registry import find_model

transformers = pytest.importorskip("transformers")

PATCH, CHANNELS, LENGTH = 8, 24, 16


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint with its tokenizer of each model, as the library saves it."""
    clip, siglip2 = (tmp_path_factory.mktemp(name) for name in ("clip", "siglip2"))
    save_clip(clip, PATCH, CHANNELS, LENGTH)
    save_siglip2(siglip2, PATCH, LENGTH)
    return {"clip": clip, "siglip2": siglip2}


@pytest.fixture(scope="module")
def clip(folders):
    """Our model, and the library's own network of the same checkpoint."""
    return find_model(f"clip:{folders['clip']}").load(), transformers.CLIPModel.from_pretrained(folders["clip"]).eval()


@pytest.fixture(scope="module")
def siglip2(folders):
    """Our model, and the library's own network of the same checkpoint."""
    network = transformers.SiglipModel.from_pretrained(folders["siglip2"]).eval()
    return find_model(f"siglip2:{folders['siglip2']}").load(), network


@pytest.fixture(params=["clip", "siglip2"])
def both(request):
    return request.getfixturevalue(request.param)


def _photo(width: int, height: int) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(width + height))


def _pixels(image: torch.Tensor, mean, std) -> torch.Tensor:
    padded = F.pad(image[None], (0, -image.shape[2] % PATCH, 0, -image.shape[1] % PATCH), mode="replicate")
    return (padded - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def _pooled(output) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def _context(task: str, features=(), **options) -> DecodeContext:
    return DecodeContext(task, DecodeOptions(**options), list(features), None)


def _view(width: int, height: int) -> RenderedView:
    return RenderedView(torch.zeros(3, height, width), torch.ones(height, width))


def test_declarations_name_hub_licence_and_size():
    for name, hub in (("clip", "openai/clip-vit-base-patch16"), ("siglip2", "google/siglip2-base-patch16-224")):
        spec = find_model(name).spec()
        assert (spec.hub, spec.extra, spec.tasks[0]) == (hub, "hf", "segment")
        assert len(spec.revision) == 40
        assert spec.download_bytes > 500e6
        assert spec.max_size % spec.stride == 0


def test_channels_and_stride_are_those_of_the_checkpoint(clip, siglip2):
    assert (clip[0].spec.channels, clip[0].spec.stride) == (CHANNELS, PATCH)
    assert (siglip2[0].spec.channels, siglip2[0].spec.stride) == (32, PATCH)


@pytest.mark.parametrize("name", ["clip", "siglip2"])
def test_models_conform(folders, name):
    check_model(f"{name}:{folders[name]}")


@torch.inference_mode()
@pytest.mark.parametrize("size", [(32, 32), (40, 24), (37, 27), (5, 70)], ids=str)
def test_clip_features_are_the_projected_values_of_the_last_layer(clip, size):
    """The values are caught inside the library's own forward pass."""
    model, network = clip
    caught = {}
    vision = network.vision_model
    attention = vision.encoder.layers[-1].self_attn
    hook = attention.v_proj.register_forward_hook(lambda module, inputs, output: caught.update(values=output))
    image = _photo(*size)
    network.get_image_features(pixel_values=_pixels(image, model.mean, model.std), interpolate_pos_encoding=True)
    hook.remove()
    dense = network.visual_projection(vision.post_layernorm(attention.out_proj(caught["values"])))[0, 1:]
    features = model.checked_encode(image)
    assert (features.grid.width, features.grid.height) == (-(-size[0] // PATCH), -(-size[1] // PATCH))
    torch.testing.assert_close(features.data.flatten(1).T, dense, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_clip_attention_to_itself_alone_gives_the_features(clip):
    """Another way to the same: the library's own attention, each token masked to itself."""
    model, network = clip
    image = _photo(40, 24)
    pixels = _pixels(image, model.mean, model.std)
    vision = network.vision_model
    states = vision(pixels, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states[-2]
    alone = torch.full((16, 16), -torch.inf).fill_diagonal_(0)[None, None]
    last = vision.encoder.layers[-1]
    own = last.self_attn(last.layer_norm1(states), attention_mask=alone)[0]
    dense = network.visual_projection(vision.post_layernorm(own))[0, 1:]
    torch.testing.assert_close(model.checked_encode(image).data.flatten(1).T, dense, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(PATCH, PATCH), (5, 7), (1, 1)], ids=str)
def test_siglip_feature_of_one_patch_is_the_embedding_of_the_image(siglip2, size):
    model, network = siglip2
    image = _photo(*size)
    pixels = _pixels(image, model.mean, model.std)
    whole = _pooled(network.get_image_features(pixel_values=pixels, interpolate_pos_encoding=True))
    torch.testing.assert_close(model.checked_encode(image).data[:, 0, 0], whole[0], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(32, 32), (37, 27)], ids=str)
def test_siglip_features_are_each_token_pooled_alone_by_the_head(siglip2, size):
    model, network = siglip2
    image = _photo(*size)
    tokens = network.vision_model(_pixels(image, model.mean, model.std), interpolate_pos_encoding=True)
    alone = network.vision_model.head(tokens.last_hidden_state[0][:, None])  # a batch of images of one patch
    torch.testing.assert_close(model.checked_encode(image).data.flatten(1).T, alone, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_a_bright_square_lights_its_own_cell(both):
    dark = torch.full((3, 4 * PATCH - 5, 6 * PATCH - 3), 0.3)
    flat = both[0].checked_encode(dark).data
    for row, column in ((0, 0), (1, 4), (2, 1), (3, 5)):
        image = dark.clone()
        image[:, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] = 0.9
        change = (both[0].checked_encode(image).data - flat).norm(dim=0)
        assert divmod(change.argmax().item(), 6) == (row, column)


@torch.inference_mode()
def test_text_is_embedded_as_by_the_library(both, folders):
    model, network = both
    texts = ["a photo of a chair.", "floor", "the wall " * 20]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[model.spec.name], padding_side="right")
    ids = tokenizer(texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")["input_ids"]
    assert ids.shape == (3, LENGTH)
    assert (ids == tokenizer.eos_token_id).sum(1).tolist() == [1, 1, 1]  # a long text is cut before its end mark
    torch.testing.assert_close(model.embed_text(texts), _pooled(network.get_text_features(input_ids=ids)))


@torch.inference_mode()
def test_text_may_be_in_upper_case(both):
    torch.testing.assert_close(both[0].embed_text(["A Photo of a CHAIR"]), both[0].embed_text(["a photo of a chair"]))


@torch.inference_mode()
def test_a_class_is_the_mean_direction_of_all_templates(both):
    model, _ = both
    directions = [F.normalize(model.embed_text([template.format("chair")])[0], dim=0) for template in TEMPLATES]
    mean = torch.stack(directions).mean(0)
    torch.testing.assert_close(model.embed_class("chair"), mean / mean.norm(), atol=1e-5, rtol=1e-5)
    assert len(set(TEMPLATES)) >= 7


@torch.inference_mode()
def test_scores_are_the_softmax_of_cosines_at_the_scale_that_was_learned(both):
    model, network = both
    names = ("chair", "floor", "wall")
    data = torch.randn(model.spec.channels, 4, 5, generator=torch.Generator().manual_seed(0))
    features = FeatureMap(data, FeatureGrid(5, 4, (1.0, 1.0)))  # a cell is a pixel
    out = model.decoder(_context("segment", text=names))(features, _view(5, 4))
    assert out.names == names
    cosine = torch.stack([F.cosine_similarity(data, model.embed_class(name)[:, None, None], dim=0) for name in names])
    expected = torch.softmax(cosine * network.logit_scale.exp(), 0)
    torch.testing.assert_close(out.scores, expected, atol=1e-4, rtol=1e-3)
    assert expected.amax(0).std() > 0.01  # else all would be the same


@torch.inference_mode()
def test_classes_are_found_by_direction_whatever_the_length_of_a_feature(both):
    model, _ = both
    chair, floor = model.embed_class("chair"), model.embed_class("floor")
    data = torch.stack([100 * chair, 0.01 * chair, 100 * floor, 0.01 * floor], 1)[:, None]
    features = FeatureMap(data, FeatureGrid(4, 1, (0.1, 0.1)))
    out = model.decoder(_context("segment", text=("floor", "chair")))(features, _view(40, 7))
    assert out.scores.shape == (2, 7, 40)
    torch.testing.assert_close(out.scores.sum(0), torch.ones(7, 40))
    assert out.scores.argmax(0)[3, [5, 15, 25, 35]].tolist() == [1, 1, 0, 0]


@torch.inference_mode()
def test_one_prompt_is_told_apart_from_the_negatives_by_relevancy(both):
    model, network = both
    data = torch.randn(model.spec.channels, 4, 5, generator=torch.Generator().manual_seed(0))
    features = FeatureMap(data, FeatureGrid(5, 4, (1.0, 1.0)))
    out = model.decoder(_context("segment", text=("chair",)))(features, _view(5, 4))
    assert out.names == ("chair", "other")

    def similar(name):
        cosine = F.cosine_similarity(data, model.embed_class(name)[:, None, None], dim=0)
        return (network.logit_scale.exp() * cosine).exp()

    pairs = [similar("chair") / (similar("chair") + similar(negative)) for negative in NEGATIVES]
    relevancy = torch.stack(pairs).amin(0)
    torch.testing.assert_close(out.scores, torch.stack([relevancy, 1 - relevancy]), atol=1e-4, rtol=1e-3)


@torch.inference_mode()
def test_without_text_segment_goes_by_clusters_and_features_are_a_picture(both):
    model, _ = both
    image = _photo(37, 27)
    features = model.checked_encode(image)
    out = model.decoder(_context("segment", [features], clusters=2))(features, _view(37, 27))
    assert out.scores.shape == (2, 27, 37)
    assert model.decoder(_context("features", [features]))(features, _view(37, 27)).shape == (3, 27, 37)


def _one_line(error) -> str:
    assert "\n" not in str(error.value)
    assert "hint: " in str(error.value)
    assert len(str(error.value)) < 500
    return str(error.value)


def test_segment_into_nothing_or_a_blank_is_one_line(both):
    for options in ({}, {"text": ("chair", " ")}):
        with pytest.raises(ModelError, match="--") as error:
            both[0].decoder(_context("segment", **options))
        _one_line(error)


def _refused(ref: str) -> str:
    with pytest.raises(ModelError) as error:
        find_model(ref).load()
    return _one_line(error)


def test_checkpoint_of_another_network_is_one_line(folders):
    assert "type 'siglip'" in _refused(f"clip:{folders['siglip2']}")
    assert "type 'clip'" in _refused(f"siglip2:{folders['clip']}")


def test_siglip_without_pooling_head_is_one_line(tmp_path):
    assert "no pooling head" in _refused(f"siglip2:{save_siglip2(tmp_path, pooling_head=False)}")


@pytest.mark.parametrize("name", ["clip", "siglip2"])
def test_missing_tokenizer_is_one_line(folders, tmp_path, name):
    folder = shutil.copytree(folders[name], tmp_path / "without")
    for file in folder.glob("*token*"):
        file.unlink()
    assert "cannot load" in _refused(f"{name}:{folder}")


def test_missing_library_is_one_line_with_the_extra(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "pip install 'lift3d-cli[hf]'" in _refused(f"clip:{folders['clip']}")
