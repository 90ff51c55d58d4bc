"""SAM, as transformers saves it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn


def save_slimsam(folder: Path, side: int = 64, patch: int = 8, channels: int = 32) -> str:
    """SAM that sees squares of `side` pixels."""
    from transformers import SamConfig, SamModel

    size = {"image_size": side, "patch_size": patch}
    vision = {"hidden_size": 16, "mlp_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "window_size": 3}
    vision |= {"output_channels": channels, "global_attn_indexes": [1], "num_pos_feats": channels // 2}
    decoder = {"hidden_size": channels, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    config = SamConfig(
        vision_config={**size, **vision},
        prompt_encoder_config={**size, "hidden_size": channels},
        mask_decoder_config=decoder,
    )
    torch.manual_seed(0)
    network = SamModel(config)
    for name, parameter in network.named_parameters():
        # Biases, norms and positions begin at 0 and 1, where forgetting them could not be seen. Little attention, so
        # that a cell's features are mostly of what it shows.
        std = 0.03 if name.startswith("vision_encoder.layers") else 0.3
        nn.init.normal_(parameter, mean=float("norm" in name and "weight" in name), std=std)
    network.save_pretrained(folder)
    return str(folder)
