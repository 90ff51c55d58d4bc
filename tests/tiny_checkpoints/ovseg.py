"""OVSeg as its authors save it, MaskFormer and Mask2Former as transformers does; each with a folder of a CLIP."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from tiny_checkpoints.image_text import save_clip

# Of the tiny OVSeg: Swin's channels, blocks and heads of each stage, and window; channels of the pixel decoder, of
# masks and of the queries; queries; layers of the query decoder; CLIP's channels, channels in common with texts,
# patch, patches in a row, layers, and depth of the mask prompts.
EMBED, DEPTHS, HEADS, WINDOW = 16, (2, 2, 1, 1), (1, 2, 2, 4), 3
CONV, MASK, HIDDEN, QUERIES, LAYERS = 64, 16, 32, 6, 2
CLIP, JOINT, PATCH, ACROSS, CLIP_LAYERS, PROMPTS = 64, 24, 8, 4, 4, 3


def save_ovseg(folder: Path) -> str:
    """OVSeg's checkpoint in detectron2's layout."""
    save_clip(folder / "clip", channels=JOINT)
    torch.save({"model": ovseg_state(), "iteration": 119999}, folder / "ovseg.pth")
    return f"{folder / 'ovseg.pth'},{folder / 'clip'}"


def ovseg_state() -> dict[str, Tensor]:
    """Random weights by the names and of the shapes of detectron2 and OpenAI."""
    generator = torch.Generator().manual_seed(0)
    state = {name: _values(name, shape, generator) for name, shape in _shapes().items()}
    # At a temperature of 1/100, scores of random directions would be 0 and 1: texts differ little from a common one.
    clip = "clip_adapter.clip_model"
    state[f"{clip}.ln_final.weight"] *= 0.05
    common = state[f"{clip}.ln_final.bias"] @ state[f"{clip}.text_projection"]
    state["sem_seg_head.predictor.class_embed.layers.1.bias"] += 2 * common
    state["clip_adapter.non_object_embedding"] = common + 0.5 * state["clip_adapter.non_object_embedding"]
    v, u = (x.flatten() for x in torch.meshgrid(torch.arange(WINDOW), torch.arange(WINDOW), indexing="ij"))
    dv, du = (x[:, None] - x + WINDOW - 1 for x in (v, u))
    return state | {name: dv * (2 * WINDOW - 1) + du for name in state if name.endswith("relative_position_index")}


def _shapes() -> dict[str, tuple[int, ...]]:
    head, clip = "sem_seg_head", "clip_adapter.clip_model"
    shapes = {
        **_swin(),
        f"{head}.pixel_decoder.mask_features.weight": (MASK, CONV, 3, 3),
        f"{head}.pixel_decoder.mask_features.bias": (MASK,),
        f"{head}.predictor.query_embed.weight": (QUERIES, HIDDEN),
        f"{head}.predictor.input_proj.weight": (HIDDEN, 8 * EMBED, 1, 1),
        f"{head}.predictor.input_proj.bias": (HIDDEN,),
        **_norm(f"{head}.predictor.transformer.decoder.norm", HIDDEN),
        f"{clip}.token_embedding.weight": (len_of_words(), CLIP),
        f"{clip}.positional_embedding": (16, CLIP),
        **_norm(f"{clip}.ln_final", CLIP),
        f"{clip}.text_projection": (CLIP, JOINT),
        f"{clip}.logit_scale": (),
        f"{clip}.visual.class_embedding": (CLIP,),
        f"{clip}.visual.positional_embedding": (ACROSS**2 + 1, CLIP),
        f"{clip}.visual.conv1.weight": (CLIP, 3, PATCH, PATCH),
        **_norm(f"{clip}.visual.ln_pre", CLIP),
        **_norm(f"{clip}.visual.ln_post", CLIP),
        f"{clip}.visual.proj": (CLIP, JOINT),
        f"{clip}.visual.mask_embedding": (PROMPTS, ACROSS**2, CLIP),
        "clip_adapter.non_object_embedding": (1, JOINT),
        "clip_adapter.pixel_mean": (1, 3, 1, 1),
        "criterion.empty_weight": (172,),
    }
    for i in range(1, 5):
        if i < 4:
            shapes[f"{head}.pixel_decoder.adapter_{i}.weight"] = (CONV, EMBED * 2 ** (i - 1), 1, 1)
            shapes |= _norm(f"{head}.pixel_decoder.adapter_{i}.norm", CONV)
        shapes[f"{head}.pixel_decoder.layer_{i}.weight"] = (CONV, CONV if i < 4 else 8 * EMBED, 3, 3)
        shapes |= _norm(f"{head}.pixel_decoder.layer_{i}.norm", CONV)
    for i in range(LAYERS):
        layer = f"{head}.predictor.transformer.decoder.layers.{i}"
        shapes |= _attention(f"{layer}.self_attn", HIDDEN) | _attention(f"{layer}.multihead_attn", HIDDEN)
        shapes |= _linear(f"{layer}.linear1", HIDDEN, 48) | _linear(f"{layer}.linear2", 48, HIDDEN)
        shapes |= {k: v for n in (1, 2, 3) for k, v in _norm(f"{layer}.norm{n}", HIDDEN).items()}
    for i, (before, after) in enumerate([(HIDDEN, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, MASK)]):
        shapes |= _linear(f"{head}.predictor.mask_embed.layers.{i}", before, after)
    for i, (before, after) in enumerate([(HIDDEN, 40), (40, JOINT)]):
        shapes |= _linear(f"{head}.predictor.class_embed.layers.{i}", before, after)
    for tower in ("", "visual."):
        for i in range(CLIP_LAYERS):
            block = f"{clip}.{tower}transformer.resblocks.{i}"
            shapes |= _attention(f"{block}.attn", CLIP) | _norm(f"{block}.ln_1", CLIP) | _norm(f"{block}.ln_2", CLIP)
            shapes |= _linear(f"{block}.mlp.c_fc", CLIP, 4 * CLIP) | _linear(f"{block}.mlp.c_proj", 4 * CLIP, CLIP)
    return shapes


def _swin() -> dict[str, tuple[int, ...]]:
    shapes = {"backbone.patch_embed.proj.weight": (EMBED, 3, 4, 4), "backbone.patch_embed.proj.bias": (EMBED,)}
    shapes |= _norm("backbone.patch_embed.norm", EMBED)
    for i, (depth, heads) in enumerate(zip(DEPTHS, HEADS, strict=True)):
        width = EMBED * 2**i
        for j in range(depth):
            block = f"backbone.layers.{i}.blocks.{j}"
            shapes |= _norm(f"{block}.norm1", width) | _norm(f"{block}.norm2", width)
            shapes[f"{block}.attn.relative_position_bias_table"] = ((2 * WINDOW - 1) ** 2, heads)
            shapes[f"{block}.attn.relative_position_index"] = (WINDOW**2, WINDOW**2)
            shapes |= _linear(f"{block}.attn.qkv", width, 3 * width) | _linear(f"{block}.attn.proj", width, width)
            shapes |= _linear(f"{block}.mlp.fc1", width, 4 * width) | _linear(f"{block}.mlp.fc2", 4 * width, width)
        if i < 3:
            shapes[f"backbone.layers.{i}.downsample.reduction.weight"] = (2 * width, 4 * width)
            shapes |= _norm(f"backbone.layers.{i}.downsample.norm", 4 * width)
        shapes |= _norm(f"backbone.norm{i}", width)
    return shapes


def _linear(name: str, before: int, after: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (after, before), f"{name}.bias": (after,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _attention(name: str, width: int) -> dict[str, tuple[int, ...]]:
    projections = {f"{name}.in_proj_weight": (3 * width, width), f"{name}.in_proj_bias": (3 * width,)}
    return projections | _linear(f"{name}.out_proj", width, width)


def _values(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    values = torch.randn(shape, generator=generator)
    if "norm" in name.rsplit(".", 2)[-2] or ".ln_" in name:
        return 0.2 * values + float(name.endswith("weight"))
    if "query_embed" in name:
        return 3 * values  # so that queries look at different things
    if "attn.proj" in name:
        return 0.03 * values  # little attention, so that a cell's features are mostly of what it shows
    if len(shape) < 2 or "embed" in name or "table" in name:
        return 0.3 * values
    return values / math.sqrt(math.prod(shape[1:]))


def len_of_words() -> int:
    """Words of the tokenizer that `save_clip` saves."""
    from tiny_checkpoints.image_text import WORDS

    return len(dict.fromkeys(["<pad>", "<unk>", "<s>", *WORDS, ".", "</s>"]))


def save_mask_former(folder: Path) -> str:
    """MaskFormer on Swin, with three classes of its own."""
    from transformers import MaskFormerConfig, MaskFormerForInstanceSegmentation

    detr = {"d_model": HIDDEN, "num_queries": QUERIES, "decoder_layers": LAYERS, "decoder_ffn_dim": 48}
    sizes = {"fpn_feature_size": CONV, "mask_feature_size": MASK, "num_labels": 3}
    config = MaskFormerConfig(backbone_config=_backbone(), decoder_config={"model_type": "detr", **detr}, **sizes)
    return _save(folder, MaskFormerForInstanceSegmentation(config))


def save_mask2former(folder: Path) -> str:
    """Mask2Former on Swin, with three classes of its own."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

    sizes = {"feature_size": CONV, "mask_feature_size": MASK, "hidden_dim": HIDDEN, "encoder_feedforward_dim": 48}
    sizes |= {"dim_feedforward": 48, "encoder_layers": 1, "decoder_layers": 3, "num_queries": QUERIES, "num_labels": 3}
    return _save(folder, Mask2FormerForUniversalSegmentation(Mask2FormerConfig(backbone_config=_backbone(), **sizes)))


def _backbone() -> dict[str, object]:
    stages = [f"stage{i}" for i in range(1, 5)]
    sizes = {"embed_dim": EMBED, "depths": list(DEPTHS), "num_heads": list(HEADS), "window_size": WINDOW}
    return {"model_type": "swin", **sizes, "image_size": 64, "out_features": stages}


def _save(folder: Path, network: nn.Module) -> str:
    save_clip(folder / "clip", channels=JOINT)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        if "sampling_offsets" not in name:  # as it begins: far offsets would mix all cells
            parameter.data = _values(name, tuple(parameter.shape), generator)
    pixels = network.model.pixel_level_module
    with torch.no_grad():  # features around 0, so that masks have edges
        mean = pixels.eval()(torch.randn(1, 3, 64, 64, generator=generator)).decoder_last_hidden_state.mean((0, 2, 3))
        pixels.decoder.mask_projection.bias -= mean
    network.save_pretrained(folder / "masks")
    return f"{folder / 'masks'},{folder / 'clip'}"
