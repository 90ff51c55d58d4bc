"""OVSeg: the official network's numbers in two halves, by words, over several frames. Tiny random networks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from ovseg_reference import Reference
from tiny_checkpoints import ovseg_state, save_mask2former, save_mask_former, save_ovseg
from tiny_checkpoints.ovseg import MASK, WINDOW
from torch.nn import functional as F

from lift3d_cli import RenderedView
from lift3d_cli.errors import ModelError
from lift3d_cli.models.base import DecodeContext, DecodeOptions
from lift3d_cli.models.builtin.ovseg import class_scores
from lift3d_cli.models.builtin.ovseg_layout import class_embedder, clip_state, mask_former_state
from lift3d_cli.models.conformance import CHECKS
from lift3d_cli.models.registry import find_model

transformers = pytest.importorskip("transformers")

SAVERS = {"ovseg": save_ovseg, "maskformer": save_mask_former, "mask2former": save_mask2former}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, str]:
    return {name: save(tmp_path_factory.mktemp(name)) for name, save in SAVERS.items()}


@pytest.fixture(scope="module")
def models(checkpoints) -> dict:
    return {name: find_model(f"ovseg:{checkpoint}").load() for name, checkpoint in checkpoints.items()}


@pytest.fixture(scope="module")
def model(models):
    return models["ovseg"]


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(ovseg_state(), WINDOW)


def _photo(width: int, height: int, seed: int = 0) -> torch.Tensor:
    """Blobs of colour: masks of noise would be noise."""
    coarse = torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(width + height + seed))
    return F.interpolate(coarse, size=(height, width), mode="bicubic")[0].clamp(0, 1)


def _view(image: torch.Tensor) -> RenderedView:
    return RenderedView(image, torch.ones(image.shape[1:]))


def _context(frames, images, *words: str) -> DecodeContext:
    return DecodeContext("segment", DecodeOptions(text=words), frames, None, [_view(image) for image in images])


def _segment(model, image, *words):
    features = model.checked_encode(image)
    return model.decoder(_context([features], [image], *words))(features, _view(image))


def test_declaration_names_the_licence_and_that_of_another_network_is_unknown(models):
    spec = find_model("ovseg").spec()
    assert (spec.license, spec.commercial, spec.extra) == ("CC-BY-NC-4.0", False, "hf")
    assert (spec.channels, spec.stride) == (256, 4)
    assert models["ovseg"].spec.license == "CC-BY-NC-4.0"
    assert models["maskformer"].spec.license == "unknown"
    assert {model.spec.channels for model in models.values()} == {MASK}


@torch.inference_mode()
@pytest.mark.parametrize("size", [(64, 64), (96, 64), (90, 59), (13, 7)], ids=str)
def test_decode_of_encode_is_the_official_network(model, reference, size):
    image = _photo(*size)
    words = model.clip.embed_words(["chair", "floor", "wall"])
    features = model.checked_encode(image)
    queries = model.queries(_context([features], [image]), words)
    ours = class_scores(features, queries, *size)
    whole = reference(image, words)
    assert whole.std() > 0.01  # there is something to get wrong
    torch.testing.assert_close(ours, whole, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_words_are_the_official_texts(model, reference):
    texts = ["a photo of a chair.", "a photo of the floor."]
    rows = [model.clip.tokenizer(text, return_tensors="pt")["input_ids"][0] for text in texts]
    want = torch.stack([reference.text(ids) for ids in rows])
    ours = torch.stack([model.clip.network.get_text_features(input_ids=ids[None]).pooler_output[0] for ids in rows])
    assert (want[0] - want[1]).abs().max() > 0.01
    torch.testing.assert_close(ours, want, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["maskformer", "mask2former"])
def test_masks_of_another_network_are_those_of_the_unsplit_one(models, checkpoints, name):
    model = models[name]
    classes = {"maskformer": "MaskFormerForInstanceSegmentation", "mask2former": "Mask2FormerForUniversalSegmentation"}
    network = getattr(transformers, classes[name]).from_pretrained(checkpoints[name].split(",")[0]).eval()
    image = _photo(96, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    want = network((image - mean[:, None, None])[None] / std[:, None, None]).masks_queries_logits[0]
    features = model.checked_encode(image)
    shown = F.interpolate(want[None], scale_factor=4, mode="bilinear", align_corners=False)[0].sigmoid()
    shown = shown[(shown > 0.4).flatten(1).any(1)]
    assert shown.std() > 0.01
    queries = model.queries(_context([features], [image]), model.clip.embed_words(["chair", "wall"]))
    assert queries.scores.sum(1).tolist() == pytest.approx([1] * len(shown))
    torch.testing.assert_close(class_scores(features, queries, 96, 64).sum(0), shown.sum(0), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", SAVERS)
def test_model_conforms(models, name, check):
    check(models[name])


@torch.inference_mode()
def test_scores_add_up_to_one_and_what_no_mask_covers_is_other(model):
    image = _photo(64, 48)
    both = _segment(model, image, "chair", "floor")
    assert both.names == ("chair", "floor", "other")
    torch.testing.assert_close(both.scores.sum(0), torch.ones(48, 64))
    assert (both.scores >= 0).all()
    features = model.encode(image)
    queries = model.queries(_context([features], [image]), model.clip.embed_words(["chair", "floor"]))
    raw = class_scores(features, queries, 64, 48)
    covered = raw.sum(0) > 1
    assert covered.any()
    assert not covered.all()
    assert (both.scores[2][covered] == 0).all()
    torch.testing.assert_close(both.scores[:2, ~covered], raw[:, ~covered], atol=1e-6, rtol=0)


@torch.inference_mode()
def test_single_word_is_compared_with_others(model):
    image = _photo(64, 48)
    single, pair = _segment(model, image, "chair"), _segment(model, image, "chair", "others")
    assert single.names == ("chair", "other")
    torch.testing.assert_close(single.scores[0], pair.scores[0])
    torch.testing.assert_close(single.scores[1], pair.scores[1] + pair.scores[2])


@torch.inference_mode()
def test_queries_of_one_thing_in_two_frames_count_once(model):
    """The same frame twice has the queries of one; so a video of a still view is what its frame is."""
    image = _photo(64, 48)
    features = model.encode(image)
    words = model.clip.embed_words(["chair", "floor"])
    once = model.queries(_context([features], [image]), words)
    twice = model.queries(_context([features] * 2, [image] * 2), words)
    seen = ((once.masks @ features.data.flatten(1)).sigmoid() > 0.4).any(1)
    assert seen.sum() > 1
    assert len(twice.masks) == len(once.masks) + (~seen).sum()  # masks that are nowhere are not compared


@torch.inference_mode()
def test_all_frames_have_the_same_queries_and_a_frame_keeps_the_classes_of_its_features(model):
    """The colour of the frame that is decoded is not looked at: only of those that queries come from."""
    images = [_photo(64, 48), _photo(64, 48, seed=9)]
    frames = [model.encode(image) for image in images]
    decode = model.decoder(_context(frames, images, "chair", "floor"))
    want = decode(frames[1], _view(images[1])).scores
    assert want.std() > 0.01
    torch.testing.assert_close(decode(frames[1], _view(torch.zeros_like(images[1]))).scores, want)
    others = [
        model.decoder(_context([frame], [image], "chair", "floor"))(frames[1], _view(images[1])).scores
        for frame, image in zip(frames, images, strict=True)
    ]
    assert max((scores - want).abs().max() for scores in others) > 0.001  # each has queries of its own


@torch.inference_mode()
def test_classes_come_from_the_rendered_colour(model):
    image = _photo(64, 48)
    features = model.encode(image)
    words = model.clip.embed_words(["chair", "floor"])
    scores = [
        model.queries(_context([features], [colour]), words).scores for colour in (image, image.flip(0).contiguous())
    ]
    assert (scores[0] - scores[1]).abs().max() > 0.01


@torch.inference_mode()
def test_long_videos_take_queries_from_some_frames_only(model):
    image = _photo(32, 32)
    features = model.encode(image)
    asked = []

    class Frames(list):
        def __getitem__(self, index):
            asked.append(index)
            return super().__getitem__(index)

    frames = Frames([features] * 50)
    model.queries(_context(frames, [image] * 50), model.clip.embed_words(["chair", "floor"]))
    assert len(asked) == 8
    assert (asked[0], asked[-1]) == (0, 49)


@pytest.mark.parametrize("text", [(), ("a", " ")], ids=["none", "blank"])
def test_no_words_are_one_line_with_the_flag(model, text):
    with pytest.raises(ModelError, match="--text") as error:
        model.decoder(DecodeContext("segment", DecodeOptions(text=text), [], None))
    assert "\n" not in str(error.value)
    with pytest.raises(ModelError, match="--text"):
        model.decode(None, None, "segment")


# ---- checkpoints ----


def _fails(checkpoint: str, match: str) -> None:
    with pytest.raises(ModelError, match=match) as error:
        find_model(f"ovseg:{checkpoint}").load()
    assert "\n" not in str(error.value)


def _saved(tmp_path: Path, checkpoints, state: dict) -> str:
    torch.save({"model": state}, tmp_path / "ovseg.pth")
    return f"{tmp_path / 'ovseg.pth'},{checkpoints['ovseg'].split(',')[1]}"


def test_no_checkpoint_is_one_line_that_names_the_file_and_a_free_model():
    with pytest.raises(ModelError, match=r"ovseg_swinbase_vitL14_ft_mpt\.pth.*clipseg") as error:
        find_model("ovseg").load()
    assert "\n" not in str(error.value)


def test_checkpoint_that_is_absent_truncated_or_of_another_network_is_one_line(checkpoints, tmp_path):
    file, clip = checkpoints["ovseg"].split(",")
    _fails(f"{tmp_path / 'no.pth'},{clip}", "there is no file")
    (tmp_path / "cut.pth").write_bytes(Path(file).read_bytes()[:20000])
    _fails(f"{tmp_path / 'cut.pth'},{clip}", "cannot be read as weights")
    torch.save({"model": {"backbone.stem.conv1.weight": torch.zeros(3)}}, tmp_path / "resnet.pth")
    _fails(f"{tmp_path / 'resnet.pth'},{clip}", "does not hold OVSeg with a Swin")
    _fails(f"{clip},{clip}", "'clip'")


UNUSED = ("clip_adapter.pixel_mean", "criterion.empty_weight")


def test_key_map_takes_every_weight_once_and_can_be_reversed():
    """Each tensor is found again by one name or, if fused, three; but for the last norm, which the library repeats."""
    state = ovseg_state()
    prompts = ("clip_adapter.clip_model.visual.mask_embedding", "clip_adapter.non_object_embedding")
    state = {name: value for name, value in state.items() if name not in (*UNUSED, *prompts)}
    mapped = {**mask_former_state(state), **clip_state(state)}
    mapped |= {f"class_embed.{name}": value for name, value in class_embedder(state).state_dict().items()}
    parts = [part for value in state.values() for part in (value, value.T if value.dim() == 2 else value)]
    whole = {_bytes(part) for part in parts} | {_bytes(part) for value in parts for part in value.reshape(-1).chunk(3)}
    assert not [name for name, value in mapped.items() if _bytes(value) not in whole]
    repeated = sum(value.numel() for name, value in mapped.items() if ".encoder.model.layernorm." in name)
    assert sum(value.numel() for value in mapped.values()) - repeated == sum(value.numel() for value in state.values())


def _bytes(values: torch.Tensor) -> bytes:
    return values.contiguous().reshape(-1).numpy().tobytes()


@pytest.mark.parametrize(
    "name",
    [
        "backbone.norm3.bias",
        "backbone.layers.1.blocks.1.attn.qkv.weight",
        "sem_seg_head.predictor.query_embed.weight",
        "sem_seg_head.predictor.class_embed.layers.1.bias",
        "sem_seg_head.pixel_decoder.layer_2.norm.weight",
        "clip_adapter.clip_model.visual.mask_embedding",
        "clip_adapter.clip_model.transformer.resblocks.3.mlp.c_fc.bias",
    ],
)
def test_checkpoint_without_a_weight_is_one_line(name, checkpoints, tmp_path):
    state = {key: value for key, value in ovseg_state().items() if key != name}
    _fails(_saved(tmp_path, checkpoints, state), f"does not hold OVSeg.*{name}|lacks 1 weights|lacks 3 weights")


def test_weights_of_another_shape_are_one_line(checkpoints, tmp_path):
    state = ovseg_state()
    state["sem_seg_head.pixel_decoder.adapter_2.weight"] = torch.zeros(64, 5, 1, 1)
    _fails(_saved(tmp_path, checkpoints, state), "do not fit")


def test_weights_in_half_precision_are_read_as_float32(checkpoints, tmp_path, model):
    state = {name: value.half() if value.is_floating_point() else value for name, value in ovseg_state().items()}
    half = find_model(f"ovseg:{_saved(tmp_path, checkpoints, state)}").load()
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    image = _photo(64, 48)
    assert (half.encode(image).data - model.encode(image).data).abs().max() < 0.05


def test_loading_twice_gives_the_same_weights(model, checkpoints):
    """No weight is left as it was drawn: the cache would take it for another model."""
    again = find_model(f"ovseg:{checkpoints['ovseg']}").load()
    first, second = model.state_dict(), again.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_clip_without_its_tokenizer_is_one_line(checkpoints, tmp_path):
    file = checkpoints["ovseg"].split(",")[0]
    _fails(f"{file},{tmp_path}", "ovseg.*FOLDER")
    _fails(f"{file},{tmp_path / 'nothing'}", "there is no folder")
    state = ovseg_state()
    name = "clip_adapter.clip_model.token_embedding.weight"
    state[name] = torch.cat([state[name], state[name]])
    _fails(_saved(tmp_path, checkpoints, state), "tokenizer of")


def test_missing_library_is_one_line_with_the_command(checkpoints, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    for checkpoint in checkpoints.values():
        _fails(checkpoint, r"pip install 'lift3d-cli\[hf\]'")
