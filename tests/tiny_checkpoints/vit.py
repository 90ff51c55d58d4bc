"""DINO, DINOv2 and DINOv3, as transformers saves them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def save_dino(folder: Path, patch: int = 8) -> str:
    """DINO."""
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(**VIT, patch_size=patch, image_size=32, intermediate_size=64)
    # DINO has no pooler on its class token; the library would make up a random one.
    return _save_vit(folder, lambda: ViTModel(config, add_pooling_layer=False))


def save_dinov2(folder: Path, registers: int = 0) -> str:
    """DINOv2 with patches of 14 pixels, with or without registers."""
    import transformers

    with_registers = "WithRegisters" if registers else ""
    config = getattr(transformers, f"Dinov2{with_registers}Config")(
        **VIT, patch_size=14, image_size=56, **({"num_register_tokens": registers} if registers else {})
    )
    return _save_vit(folder, lambda: getattr(transformers, f"Dinov2{with_registers}Model")(config))


def save_dinov3(folder: Path, registers: int = 3) -> str:
    """DINOv3 with patches of 16 pixels."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    settings = {"patch_size": 16, "image_size": 64, "intermediate_size": 64, "num_register_tokens": registers}
    config = DINOv3ViTConfig(**VIT, **settings)
    return _save_vit(folder, lambda: DINOv3ViTModel(config))


def _save_vit(folder: Path, make) -> str:
    torch.manual_seed(0)
    network = make().eval()
    for name, parameter in network.named_parameters():
        # Tokens and positions start at (nearly) zero, where forgetting them could not be seen.
        if "token" in name or "position" in name:
            nn.init.normal_(parameter, std=0.5)
    network.save_pretrained(folder)
    return str(folder)
