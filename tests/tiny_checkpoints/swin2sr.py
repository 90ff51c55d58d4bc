"""Swin2SR, as transformers saves it."""

from __future__ import annotations

from pathlib import Path

import torch


def save_swin2sr(folder: Path, **settings: object) -> str:
    """Swin2SR with windows of 4 pixels that doubles the size; `settings` of its config instead."""
    from transformers import Swin2SRConfig, Swin2SRForImageSuperResolution

    torch.manual_seed(0)
    size = dict(image_size=16, embed_dim=12, depths=[2, 2], num_heads=[2, 2], window_size=4, img_range=2.0)
    network = Swin2SRForImageSuperResolution(Swin2SRConfig(**(size | settings)))
    with torch.no_grad():
        for p in network.parameters():
            # As they are made, the features are much the same everywhere: a test on those would pass whatever it tests.
            p.copy_(torch.randn_like(p) * (0.5 / max(p[0].numel(), 1) ** 0.5 if p.dim() > 1 else 0.1))
    network.save_pretrained(folder)
    return str(folder)
