"""OVSeg's checkpoint (detectron2's and OpenAI's names) as the networks of transformers: the key map.

Names on the right are those of the hub's files, which `from_pretrained` of every version of transformers knows. A row
with several of them parts a fused projection. What no row names is left out: it is of training, or computed again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

_PIXEL, _QUERY = "model.pixel_level_module", "model.transformer_module"
_SWIN = rf"{_PIXEL}.encoder.model.encoder.layers.\1"
_BLOCK = rf"{_SWIN}.blocks.\2"
_WEIGHTS = r"\.(weight|bias)"


def _attention(target: str) -> tuple[str, ...]:
    return tuple(rf"{target}.{part}_proj.\2" for part in "qkv")


_BACKBONE = (
    (r"patch_embed\.proj" + _WEIGHTS, rf"{_PIXEL}.encoder.model.embeddings.patch_embeddings.projection.\1"),
    (r"patch_embed\.norm" + _WEIGHTS, rf"{_PIXEL}.encoder.model.embeddings.norm.\1"),
    (r"layers\.(\d+)\.blocks\.(\d+)\.norm1" + _WEIGHTS, rf"{_BLOCK}.layernorm_before.\3"),
    (r"layers\.(\d+)\.blocks\.(\d+)\.norm2" + _WEIGHTS, rf"{_BLOCK}.layernorm_after.\3"),
    (
        r"layers\.(\d+)\.blocks\.(\d+)\.attn\.relative_position_(bias_table|index)",
        rf"{_BLOCK}.attention.self.relative_position_\3",
    ),
    (
        r"layers\.(\d+)\.blocks\.(\d+)\.attn\.qkv" + _WEIGHTS,
        *(rf"{_BLOCK}.attention.self.{part}.\3" for part in ("query", "key", "value")),
    ),
    (r"layers\.(\d+)\.blocks\.(\d+)\.attn\.proj" + _WEIGHTS, rf"{_BLOCK}.attention.output.dense.\3"),
    (r"layers\.(\d+)\.blocks\.(\d+)\.mlp\.fc1" + _WEIGHTS, rf"{_BLOCK}.intermediate.dense.\3"),
    (r"layers\.(\d+)\.blocks\.(\d+)\.mlp\.fc2" + _WEIGHTS, rf"{_BLOCK}.output.dense.\3"),
    (r"layers\.(\d+)\.downsample\.(reduction|norm)" + _WEIGHTS, rf"{_SWIN}.downsample.\2.\3"),
    (r"norm(\d)" + _WEIGHTS, rf"{_PIXEL}.encoder.hidden_states_norms.\1.\2"),
)
_FPN = f"{_PIXEL}.decoder.fpn"
_PIXEL_DECODER = (
    (r"layer_4\.weight", f"{_FPN}.stem.0.weight"),
    (r"layer_4\.norm" + _WEIGHTS, rf"{_FPN}.stem.1.\1"),
    # From coarse to fine there, from fine to coarse here.
    *((rf"adapter_{3 - i}\.weight", f"{_FPN}.layers.{i}.proj.0.weight") for i in range(3)),
    *((rf"adapter_{3 - i}\.norm" + _WEIGHTS, rf"{_FPN}.layers.{i}.proj.1.\1") for i in range(3)),
    *((rf"layer_{3 - i}\.weight", f"{_FPN}.layers.{i}.block.0.weight") for i in range(3)),
    *((rf"layer_{3 - i}\.norm" + _WEIGHTS, rf"{_FPN}.layers.{i}.block.1.\1") for i in range(3)),
    (r"mask_features" + _WEIGHTS, rf"{_PIXEL}.decoder.mask_projection.\1"),
)
_LAYER, _DETR = r"transformer\.decoder\.layers\.(\d+)\.", rf"{_QUERY}.decoder.layers.\1"
_PREDICTOR = (
    (r"query_embed\.weight", f"{_QUERY}.queries_embedder.weight"),
    (r"input_proj" + _WEIGHTS, rf"{_QUERY}.input_projection.\1"),
    (_LAYER + r"self_attn\.in_proj_(weight|bias)", *_attention(f"{_DETR}.self_attn")),
    (_LAYER + r"multihead_attn\.in_proj_(weight|bias)", *_attention(f"{_DETR}.encoder_attn")),
    (_LAYER + r"self_attn\.out_proj" + _WEIGHTS, rf"{_DETR}.self_attn.out_proj.\2"),
    (_LAYER + r"multihead_attn\.out_proj" + _WEIGHTS, rf"{_DETR}.encoder_attn.out_proj.\2"),
    (_LAYER + r"linear([12])" + _WEIGHTS, rf"{_DETR}.fc\2.\3"),
    (_LAYER + r"norm1" + _WEIGHTS, rf"{_DETR}.self_attn_layer_norm.\2"),
    (_LAYER + r"norm2" + _WEIGHTS, rf"{_DETR}.encoder_attn_layer_norm.\2"),
    (_LAYER + r"norm3" + _WEIGHTS, rf"{_DETR}.final_layer_norm.\2"),
    (r"transformer\.decoder\.norm" + _WEIGHTS, rf"{_QUERY}.decoder.layernorm.\1"),
    (r"mask_embed\.layers\.(\d)" + _WEIGHTS, r"mask_embedder.\1.0.\2"),
)


def _blocks(source: str, target: str) -> tuple[tuple[str, ...], ...]:
    """Return the rows of a transformer of CLIP."""
    source, target = source + r"transformer\.resblocks\.(\d+)\.", rf"{target}.encoder.layers.\1"
    return (
        (source + r"attn\.in_proj_(weight|bias)", *_attention(f"{target}.self_attn")),
        (source + r"attn\.out_proj" + _WEIGHTS, rf"{target}.self_attn.out_proj.\2"),
        (source + r"ln_([12])" + _WEIGHTS, rf"{target}.layer_norm\2.\3"),
        (source + r"mlp\.c_fc" + _WEIGHTS, rf"{target}.mlp.fc1.\2"),
        (source + r"mlp\.c_proj" + _WEIGHTS, rf"{target}.mlp.fc2.\2"),
    )


_CLIP = (
    *_blocks("", "text_model"),
    *_blocks(r"visual\.", "vision_model"),
    (r"token_embedding\.weight", "text_model.embeddings.token_embedding.weight"),
    (r"positional_embedding", "text_model.embeddings.position_embedding.weight"),
    (r"ln_final" + _WEIGHTS, r"text_model.final_layer_norm.\1"),
    (r"text_projection", "text_projection.weight"),
    (r"logit_scale", "logit_scale"),
    (r"visual\.class_embedding", "vision_model.embeddings.class_embedding"),
    (r"visual\.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    (r"visual\.conv1\.weight", "vision_model.embeddings.patch_embedding.weight"),
    (r"visual\.ln_pre" + _WEIGHTS, r"vision_model.pre_layrnorm.\1"),
    (r"visual\.ln_post" + _WEIGHTS, r"vision_model.post_layernorm.\1"),
    (r"visual\.proj", "visual_projection.weight"),
)
# OpenAI keeps them as matrices that rows are multiplied with, not as layers.
_TRANSPOSED = ("text_projection.weight", "visual_projection.weight")


def mask_former_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return MaskFormer's weights by the names of transformers, without a classifier."""
    out = _renamed(state, "backbone.", _BACKBONE)
    out |= _renamed(state, "sem_seg_head.pixel_decoder.", _PIXEL_DECODER)
    out |= _renamed(state, "sem_seg_head.predictor.", _PREDICTOR)
    for part in ("weight", "bias"):  # the library has the last norm twice, and uses that of `hidden_states_norms`
        out[f"{_PIXEL}.encoder.model.layernorm.{part}"] = state[f"backbone.norm3.{part}"]
    return out


def clip_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return CLIP's weights by the names of transformers."""
    out = _renamed(state, "clip_adapter.clip_model.", _CLIP)
    return out | {name: out[name].T.contiguous() for name in _TRANSPOSED}


def class_embedder(state: Mapping[str, Tensor]) -> nn.Sequential:
    """Build the layers that map a query to CLIP's space, which transformers' MaskFormer does not have."""
    layers = [_linear(state, f"sem_seg_head.predictor.class_embed.layers.{i}") for i in range(2)]
    return nn.Sequential(layers[0], nn.ReLU(), layers[1])


def mask_former_sizes(state: Mapping[str, Tensor]) -> dict[str, object]:
    """Return the settings of a `MaskFormerConfig` that the weights fit."""
    blocks = [len(_numbers(state, rf"backbone\.layers\.{i}\.blocks\.(\d+)\.")) for i in range(4)]
    tables = [state[f"backbone.layers.{i}.blocks.0.attn.relative_position_bias_table"] for i in range(4)]
    patches = state["backbone.patch_embed.proj.weight"]
    queries = state["sem_seg_head.predictor.query_embed.weight"]
    layer = "sem_seg_head.predictor.transformer.decoder.layers."
    swin = {
        "model_type": "swin",
        "embed_dim": patches.shape[0],
        "patch_size": patches.shape[2],
        "depths": blocks,
        "num_heads": [table.shape[1] for table in tables],
        "window_size": (round(tables[0].shape[0] ** 0.5) + 1) // 2,  # a table of (2 w - 1) x (2 w - 1) offsets
        "mlp_ratio": state["backbone.layers.0.blocks.0.mlp.fc1.weight"].shape[0] / patches.shape[0],
        "out_features": [f"stage{i}" for i in range(1, 5)],
    }
    detr = {
        "model_type": "detr",
        "num_queries": queries.shape[0],
        "d_model": queries.shape[1],
        "decoder_layers": len(_numbers(state, re.escape(layer) + r"(\d+)\.")),
        "decoder_ffn_dim": state[f"{layer}0.linear1.weight"].shape[0],
        "decoder_attention_heads": 8,  # MODEL.MASK_FORMER.NHEADS of every configuration
    }
    mask_features = state["sem_seg_head.pixel_decoder.mask_features.weight"]
    sizes = {"fpn_feature_size": mask_features.shape[1], "mask_feature_size": mask_features.shape[0]}
    return {"backbone_config": swin, "decoder_config": detr, **sizes}


def clip_sizes(state: Mapping[str, Tensor]) -> dict[str, object]:
    """Return the settings of a `CLIPConfig` that the weights fit; heads have 64 channels, as in all of CLIP."""
    state = {key.removeprefix("clip_adapter.clip_model."): value for key, value in state.items()}
    patches, places = state["visual.conv1.weight"], state["visual.positional_embedding"]
    words, positions = state["token_embedding.weight"], state["positional_embedding"]

    def tower(prefix: str, width: int) -> dict[str, object]:
        layers = len(_numbers(state, prefix + r"transformer\.resblocks\.(\d+)\."))
        sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
        return sizes | {"num_attention_heads": width // 64, "hidden_act": "quick_gelu"}

    vision = {"patch_size": patches.shape[2], "image_size": patches.shape[2] * round((len(places) - 1) ** 0.5)}
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1}
    text = {"vocab_size": len(words), "max_position_embeddings": len(positions), **ends}
    return {
        "vision_config": {**tower(r"visual\.", patches.shape[0]), **vision},
        "text_config": {**tower("", words.shape[1]), **text},
        "projection_dim": state["text_projection"].shape[1],
    }


def _renamed(state: Mapping[str, Tensor], prefix: str, rows: Iterable[tuple[str, ...]]) -> dict[str, Tensor]:
    out = {}
    for key, tensor in state.items():
        if not key.startswith(prefix):
            continue
        for pattern, *names in rows:
            if match := re.fullmatch(pattern, key.removeprefix(prefix)):
                tensor = tensor.float() if tensor.is_floating_point() else tensor
                parts = tensor.chunk(len(names)) if len(names) > 1 else (tensor,)
                out |= {match.expand(name): part.contiguous() for name, part in zip(names, parts, strict=True)}
                break
    return out


def _numbers(state: Mapping[str, Tensor], pattern: str) -> set[str]:
    return {match[1] for key in state if (match := re.match(pattern, key))}


def _linear(state: Mapping[str, Tensor], name: str) -> nn.Linear:
    weight = state[f"{name}.weight"]
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({part: state[f"{name}.{part}"].float() for part in ("weight", "bias")})
    return layer
