"""CLIP on masked regions (Liang et al., CVPR 2023, "Open-Vocabulary Semantic Segmentation with Mask-adapted CLIP")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lift3d_cli.models.builtin.image_text import Clip, class_direction

# ViLD's sentences (Gu et al. 2022), which OVSeg was trained and evaluated with; the stops are as there.
_TEMPLATES = (
    *("a photo of a {}.", "This is a photo of a {}", "There is a {} in the scene", "There is the {} in the scene"),
    *("a photo of a {} in the scene", "a photo of a small {}.", "a photo of a medium {}.", "a photo of a large {}."),
    *("This is a photo of a small {}.", "This is a photo of a medium {}.", "This is a photo of a large {}."),
    *("There is a small {} in the scene.", "There is a medium {} in the scene.", "There is a large {} in the scene."),
)


class MaskClip(nn.Module):
    """CLIP, which compares masked regions of an image with words.

    Args:
        network: a `CLIPModel` of transformers.
        tokenizer: its tokenizer.
        prompts: [depth, patches or 1, width] learned embeddings, which take the place of patches outside of the mask
            before each of the first `depth` layers; or None: such patches show the mean colour.
    """

    def __init__(self, network: Any, tokenizer: Any, prompts: Tensor | None = None) -> None:
        super().__init__()
        self.network = network
        self.tokenizer = tokenizer
        self.register_buffer("prompts", prompts)

    def embed_words(self, words: Sequence[str]) -> Tensor:
        """Return the directions of classes [K, D]."""
        return torch.stack([class_direction(self.network, self.tokenizer, word, _TEMPLATES) for word in words])

    def embed_regions(self, image: Tensor, masks: Tensor) -> Tensor:
        """Return the directions of regions [N, D].

        Args:
            image: [3, H, W] in [0, 1].
            masks: [N, H, W] bool, each true somewhere.
        """
        mean, std = (image.new_tensor(values)[:, None, None] for values in (Clip.mean, Clip.std))
        normalized = (image - mean) / std
        size = (self.network.config.vision_config.image_size,) * 2
        crops, inside = [], []
        for mask in masks:
            rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
            box = (..., slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
            within = mask[box].to(image.dtype)[None, None]
            region = normalized[box] * within  # elsewhere the mean colour, which is 0
            # Stretched, and not antialiased, as in its training.
            crops.append(F.interpolate(region, size=size, mode="bicubic", align_corners=False))
            inside.append(F.interpolate(within, size=size, mode="nearest"))
        return F.normalize(self._embed(torch.cat(crops), torch.cat(inside)), dim=1)

    def _embed(self, pixels: Tensor, inside: Tensor) -> Tensor:
        """Embed crops [N, 3, S, S] with masks [N, 1, S, S] of 0 and 1: [N, D]."""
        vision = self.network.vision_model
        # A patch is inside if any of its pixels is.
        inside = F.max_pool2d(inside, self.network.config.vision_config.patch_size).flatten(2).mT
        prompts = () if self.prompts is None else self.prompts
        patches = vision.embeddings.patch_embedding(pixels).flatten(2).mT
        if len(prompts):
            patches = inside * patches + (1 - inside) * prompts[0]
        token = vision.embeddings.class_embedding.expand(len(patches), 1, -1)
        x = vision.pre_layrnorm(torch.cat([token, patches], 1) + vision.embeddings.position_embedding.weight)
        # Part by part, as the arguments of a layer differ between versions.
        for depth, layer in enumerate(vision.encoder.layers, 1):
            x = x + layer.self_attn(layer.layer_norm1(x))[0]
            x = x + layer.mlp(layer.layer_norm2(x))
            if depth < len(prompts):
                x = torch.cat([x[:, :1], inside * x[:, 1:] + (1 - inside) * prompts[depth]], 1)
        return self.network.visual_projection(vision.post_layernorm(x[:, 0]))
