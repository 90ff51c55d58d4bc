"""CLIPSeg: the library's own forward in two halves, on any grid, with classes by prompts. A tiny random network."""

from __future__ import annotations

import shutil
import sys

import pytest
import torch
from tiny_checkpoints import save_clipseg
from torch.nn import functional as F

from lift3d_cli import FeatureGrid, FeatureMap, RenderedView
from lift3d_cli.errors import ModelError
from lift3d_cli.models.base import DecodeContext, DecodeOptions
from lift3d_cli.models.conformance import CHECKS
from lift3d_cli.models.registry import find_model

transformers = pytest.importorskip("transformers")

PATCH, LENGTH = 16, 16
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("clipseg")
    save_clipseg(path, PATCH, LENGTH)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return find_model(f"clipseg:{folder}").load()


@pytest.fixture(scope="module")
def network(folder):
    """The library's own network of the same checkpoint."""
    return transformers.CLIPSegForImageSegmentation.from_pretrained(folder).eval()


def _photo(width: int, height: int) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(width + height))


def _pixels(image: torch.Tensor) -> torch.Tensor:
    padded = F.pad(image[None], (0, -image.shape[2] % PATCH, 0, -image.shape[1] % PATCH), mode="replicate")
    return (padded - MEAN[:, None, None]) / STD[:, None, None]


def _segment(model, features, image, *prompts):
    decoder = model.decoder(DecodeContext("segment", DecodeOptions(text=prompts), [features], None))
    return decoder(features, RenderedView(image, torch.ones(image.shape[1:])))


def _library_logits(model, network, image, *prompts) -> torch.Tensor:
    """[K, H', W'] by the library's forward on the padded photo, prompt by prompt."""
    rows = [model.tokenizer(prompt, return_tensors="pt")["input_ids"] for prompt in prompts]
    side = round(_pixels(image)[0, 0].numel() ** 0.5)
    return torch.cat(
        [network(input_ids=ids, pixel_values=_pixels(image)).logits.reshape(1, side, side) for ids in rows]
    )


def test_declaration_names_hub_licence_and_size():
    spec = find_model("clipseg").spec()
    assert (spec.hub, spec.license, spec.extra) == ("CIDAS/clipseg-rd64-refined", "Apache-2.0", "hf")
    assert spec.channels == 2 * 3 * 64
    assert len(spec.revision) == 40
    assert spec.max_size % spec.stride == 0


@torch.inference_mode()
@pytest.mark.parametrize("size", [(64, 64), (80, 80), (59, 50), (5, 3)], ids=str)
def test_decode_of_encode_is_the_unsplit_network(model, network, size):
    image = _photo(*size)
    prompts = ("a cat", "Some Long Prompt that is cut", "b")
    ours = _segment(model, model.checked_encode(image), image, *prompts)
    logits = _library_logits(model, network, image, prompts[0], prompts[1][:16], prompts[2])[..., : size[1], : size[0]]
    assert logits.std() > 0.1  # there is something to get wrong
    assert (logits[0] - logits[2]).abs().max() > 0.1
    want = torch.cat([torch.zeros_like(logits[:1]), logits]).softmax(0)
    assert ours.names == ("other", *prompts)
    torch.testing.assert_close(ours.scores, want, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_photo_that_is_not_square_is_the_unsplit_network(tmp_path):
    """The library arranges all patches as a square: 9 x 4 of them as 6 x 6, in the same order."""
    # Not refined, each patch's logits depend on no neighbour's, and can be put where they belong.
    save_clipseg(tmp_path, PATCH, LENGTH, refined=False)
    model = find_model(f"clipseg:{tmp_path}").load()
    network = transformers.CLIPSegForImageSegmentation.from_pretrained(tmp_path).eval()
    image = _photo(9 * PATCH - 3, 4 * PATCH - 1)
    logits = _library_logits(model, network, image, "a cat")[0]
    patches = logits.reshape(6, PATCH, 6, PATCH).permute(0, 2, 1, 3).reshape(4, 9, PATCH, PATCH)
    logits = patches.permute(0, 2, 1, 3).reshape(4 * PATCH, 9 * PATCH)[: image.shape[1], : image.shape[2]]
    scores = _segment(model, model.encode(image), image, "a cat").scores[1]
    torch.testing.assert_close(scores, logits.sigmoid(), atol=1e-5, rtol=0)


@torch.inference_mode()
def test_scores_add_up_to_one_and_a_single_prompt_has_its_sigmoid(model, network):
    image = _photo(48, 48)
    features = model.encode(image)
    both = _segment(model, features, image, "a", "b")
    torch.testing.assert_close(both.scores.sum(0), torch.ones(48, 48))
    single = _segment(model, features, image, "a").scores
    torch.testing.assert_close(single[1], _library_logits(model, network, image, "a")[0].sigmoid(), atol=1e-5, rtol=0)


@torch.inference_mode()
def test_prompts_do_not_change_each_others_logits(model):
    features = model.encode(_photo(40, 24)).data
    prompts = torch.cat([model.embed_text(text) for text in ("a", "b")])
    torch.testing.assert_close(model.logits(features, prompts)[1:], model.logits(features, prompts[1:]))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_model_conforms(model, check):
    check(model)


@torch.inference_mode()
def test_class_token_is_everywhere_and_averaged_back(model):
    """Half of a view from one photo and half from another: its class token is between theirs."""
    one, other = (model.encode(image) for image in (_photo(64, 64), 1 - _photo(64, 80)[:, :64]))
    half = one.data.shape[0] // 2
    assert (one.data[half:] == one.data[half:, :1, :1]).all()
    assert not torch.allclose(one.data[half:], other.data[half:], atol=0.01)
    mixed = torch.cat([one.data[:, :, :2], other.data[:, :, 2:]], 2)
    between = mixed.clone()
    between[half:] = (one.data[half:] + other.data[half:]) / 2
    prompt = model.embed_text("a")
    torch.testing.assert_close(model.logits(mixed, prompt), model.logits(between, prompt), atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_features_on_a_shifted_grid_segment_the_pixels_that_they_lie_on(model):
    """Rendered features may come on a grid of their own; here, that of a view cut 32 pixels from the left."""
    image = _photo(80, 40)
    features = model.encode(image)
    grid = FeatureGrid(features.grid.width, features.grid.height, features.grid.scale, (2.0, 0.0))
    whole = _segment(model, features, image, "a").scores
    cut = _segment(model, FeatureMap(features.data, grid), image[:, :, 32:], "a").scores
    torch.testing.assert_close(cut, whole[:, :, 32:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("text", [(), ("a", " ")], ids=["none", "blank"])
def test_no_prompt_is_one_line_with_the_flag(model, text):
    with pytest.raises(ModelError, match="--text") as error:
        model.decoder(DecodeContext("segment", DecodeOptions(text=text), [], None))
    assert "\n" not in str(error.value)
    with pytest.raises(ModelError, match="--text"):
        model.decode(None, None, "segment")


def test_checkpoint_of_another_network_is_one_line(tmp_path):
    transformers.ViTConfig().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="clipseg") as error:
        find_model(f"clipseg:{tmp_path}").load()
    assert "\n" not in str(error.value)


def test_checkpoint_without_a_tokenizer_is_one_line(folder, tmp_path):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folder / name, tmp_path / name)
    with pytest.raises(ModelError, match=r"no tokenizer|cannot load") as error:
        find_model(f"clipseg:{tmp_path}").load()
    assert "\n" not in str(error.value)


def test_missing_library_is_one_line_with_the_command(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match=r"pip install 'lift3d-cli\[hf\]'") as error:
        find_model(f"clipseg:{folder}").load()
    assert "\n" not in str(error.value)
