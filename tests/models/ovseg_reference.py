"""OVSeg as its authors run it, on a state dict by their names: what the split network must be equal to.

Written from the paper and the layout of the checkpoint, with torch's functions and none of transformers' networks.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
CLIP_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
CLIP_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])


class Reference:
    """The network of a state dict.

    Args:
        state: weights by the names of detectron2 and OpenAI.
        window: of Swin.
    """

    def __init__(self, state: dict[str, Tensor], window: int) -> None:
        self.state = state
        self.window = window

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, name: str, heads: int, causal: bool = False) -> Tensor:
        """Attention of [N, L, C] with fused projections."""
        weight, bias = self.state[f"{name}.in_proj_weight"].chunk(3), self.state[f"{name}.in_proj_bias"].chunk(3)
        q, k, v = (
            F.linear(x, w, b).unflatten(2, (heads, -1)).transpose(1, 2)
            for x, w, b in zip((query, key, value), weight, bias, strict=True)
        )
        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self._linear(out.transpose(1, 2).flatten(2), f"{name}.out_proj")

    # ---- MaskFormer ----

    def _swin_block(self, x: Tensor, name: str, shift: int) -> Tensor:  # [H, W, C]
        height, width, w = *x.shape[:2], self.window
        table = self.state[f"{name}.attn.relative_position_bias_table"]
        y = F.pad(self._norm(x, f"{name}.norm1"), (0, 0, 0, -width % w, 0, -height % w))
        y = y.roll((-shift, -shift), (0, 1))
        # What is rolled in from the other side is a region of its own, and no region attends to another.
        bands = [torch.zeros(n, dtype=torch.long) for n in y.shape[:2]]
        for band in bands:
            if shift:
                band[-w:-shift], band[-shift:] = 1, 2
        region = 3 * bands[0][:, None] + bands[1]

        def windows(t: Tensor) -> Tensor:
            rows, columns = t.shape[0] // w, t.shape[1] // w
            return t.reshape(rows, w, columns, w, -1).transpose(1, 2).reshape(rows * columns, w * w, -1)

        q, k, v = (
            self._linear(windows(y), f"{name}.attn.qkv").unflatten(2, (3, table.shape[1], -1)).permute(2, 0, 3, 1, 4)
        )
        bias = table[self.state[f"{name}.attn.relative_position_index"].flatten()].reshape(w * w, w * w, -1)
        apart = (windows(region) != windows(region).mT)[:, None] * -100.0
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.permute(2, 0, 1) + apart)
        out = self._linear(out.transpose(1, 2).flatten(2), f"{name}.attn.proj")
        out = out.reshape(y.shape[0] // w, y.shape[1] // w, w, w, -1).transpose(1, 2).reshape(y.shape)
        x = x + out.roll((shift, shift), (0, 1))[:height, :width]
        y = F.gelu(self._linear(self._norm(x, f"{name}.norm2"), f"{name}.mlp.fc1"))
        return x + self._linear(y, f"{name}.mlp.fc2")

    def backbone(self, pixels: Tensor) -> list[Tensor]:
        """Swin's maps [1, C, h, w] at strides 4 to 32."""
        patches = F.conv2d(pixels, self.state["backbone.patch_embed.proj.weight"], stride=4)
        patches = patches + self.state["backbone.patch_embed.proj.bias"][:, None, None]
        x, maps = self._norm(patches[0].permute(1, 2, 0), "backbone.patch_embed.norm"), []
        for i in range(4):
            layer, j = f"backbone.layers.{i}", 0
            while f"{layer}.blocks.{j}.norm1.weight" in self.state:
                x = self._swin_block(x, f"{layer}.blocks.{j}", self.window // 2 if j % 2 else 0)
                j += 1
            maps.append(self._norm(x, f"backbone.norm{i}").permute(2, 0, 1)[None])
            if i < 3:
                x = F.pad(x, (0, 0, 0, x.shape[1] % 2, 0, x.shape[0] % 2))
                x = torch.cat([x[0::2, 0::2], x[1::2, 0::2], x[0::2, 1::2], x[1::2, 1::2]], -1)
                x = self._norm(x, f"{layer}.downsample.norm") @ self.state[f"{layer}.downsample.reduction.weight"].T
        return maps

    def _conv(self, x: Tensor, name: str, groups: int = 32) -> Tensor:
        weight = self.state[f"sem_seg_head.pixel_decoder.{name}.weight"]
        x = F.conv2d(x, weight, padding=weight.shape[2] // 2)
        norm = f"sem_seg_head.pixel_decoder.{name}.norm"
        return F.group_norm(x, groups, self.state[f"{norm}.weight"], self.state[f"{norm}.bias"])

    def mask_features(self, maps: list[Tensor]) -> Tensor:
        """[1, C, h, w] at stride 4."""
        y = self._conv(maps[3], "layer_4").relu()
        for i in (3, 2, 1):
            lateral = self._conv(maps[i - 1], f"adapter_{i}")
            y = self._conv(lateral + F.interpolate(y, size=lateral.shape[2:], mode="nearest"), f"layer_{i}").relu()
        name = "sem_seg_head.pixel_decoder.mask_features"
        return F.conv2d(y, self.state[f"{name}.weight"], self.state[f"{name}.bias"], padding=1)

    def queries(self, coarsest: Tensor) -> Tensor:
        """[Q, C], of DETR's decoder on the map at stride 32."""
        head = "sem_seg_head.predictor"
        projection = self.state[f"{head}.input_proj.weight"][:, :, 0, 0], self.state[f"{head}.input_proj.bias"]
        memory = F.linear(coarsest[0].flatten(1).T, *projection)[None]
        places = _sines(*coarsest.shape[2:], memory.shape[2])[None]
        embed, x, i = self.state[f"{head}.query_embed.weight"][None], 0.0, 0
        while f"{head}.transformer.decoder.layers.{i}.norm1.weight" in self.state:
            layer = f"{head}.transformer.decoder.layers.{i}"
            attended = self._attend(x + embed, x + embed, x + 0 * embed, f"{layer}.self_attn", 8)
            x = self._norm(x + attended, f"{layer}.norm1")
            attended = self._attend(x + embed, memory + places, memory, f"{layer}.multihead_attn", 8)
            x = self._norm(x + attended, f"{layer}.norm2")
            forward = self._linear(self._linear(x, f"{layer}.linear1").relu(), f"{layer}.linear2")
            x = self._norm(x + forward, f"{layer}.norm3")
            i += 1
        return self._norm(x, f"{head}.transformer.decoder.norm")[0]

    def _mlp(self, x: Tensor, name: str, layers: int) -> Tensor:
        for i in range(layers):
            x = self._linear(x if i == 0 else x.relu(), f"sem_seg_head.predictor.{name}.layers.{i}")
        return x

    # ---- CLIP ----

    def regions(self, image: Tensor, masks: Tensor) -> Tensor:
        """Directions [N, D] of masked crops."""
        visual = "clip_adapter.clip_model.visual"
        filter_, places = self.state[f"{visual}.conv1.weight"], self.state[f"{visual}.positional_embedding"]
        prompts, patch = self.state[f"{visual}.mask_embedding"], filter_.shape[2]
        side = patch * round(math.sqrt(len(places) - 1))
        out = []
        for mask in masks:
            v, u = mask.nonzero(as_tuple=True)
            top, left, bottom, right = v.min(), u.min(), v.max() + 1, u.max() + 1
            crop, inner = image[:, top:bottom, left:right], mask[top:bottom, left:right].float()
            crop = crop * inner + CLIP_MEAN[:, None, None] * (1 - inner)
            crop = (crop - CLIP_MEAN[:, None, None]) / CLIP_STD[:, None, None]
            crop = F.interpolate(crop[None], size=(side, side), mode="bicubic")
            inner = F.interpolate(inner[None, None], size=(side, side), mode="nearest")
            keep = F.avg_pool2d(inner, patch).ceil().flatten()[:, None]
            x = F.conv2d(crop, filter_, stride=patch)[0].flatten(1).T
            x = x * keep + prompts[0] * (1 - keep)
            x = torch.cat([self.state[f"{visual}.class_embedding"][None], x]) + places
            x = self._norm(x, f"{visual}.ln_pre")
            x = self._clip_blocks(x, f"{visual}.transformer", False, prompts, keep)
            out.append(self._norm(x[0], f"{visual}.ln_post") @ self.state[f"{visual}.proj"])
        return F.normalize(torch.stack(out), dim=1)

    def text(self, ids: Tensor) -> Tensor:
        """[D] of a text that ends at its highest id."""
        clip = "clip_adapter.clip_model"
        x = self.state[f"{clip}.token_embedding.weight"][ids] + self.state[f"{clip}.positional_embedding"][: len(ids)]
        x = self._norm(self._clip_blocks(x, f"{clip}.transformer", True), f"{clip}.ln_final")
        return x[ids.argmax()] @ self.state[f"{clip}.text_projection"]

    def _clip_blocks(self, x: Tensor, name: str, causal: bool, prompts: Tensor = (), keep: Tensor = 1) -> Tensor:
        i = 0
        while f"{name}.resblocks.{i}.ln_1.weight" in self.state:
            block = f"{name}.resblocks.{i}"
            y = self._norm(x, f"{block}.ln_1")[None]
            x = x + self._attend(y, y, y, f"{block}.attn", x.shape[1] // 64, causal)[0]
            y = self._linear(self._norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
            x = x + self._linear(y * (1.702 * y).sigmoid(), f"{block}.mlp.c_proj")
            i += 1
            if i < len(prompts):
                x = torch.cat([x[:1], x[1:] * keep + prompts[i] * (1 - keep)])
        return x

    # ---- both ----

    def __call__(self, image: Tensor, words: Tensor) -> Tensor:
        """`semantic_inference`: scores [K, H, W] of an image [3, H, W] in [0, 1], for directions of words [K, D]."""
        height, width = image.shape[1:]
        pixels = F.pad((image - MEAN[:, None, None]) / STD[:, None, None], (0, -width % 32, 0, -height % 32))[None]
        maps = self.backbone(pixels)
        queries = self.queries(maps[3])
        logits = torch.einsum("qc,bchw->bqhw", self._mlp(queries, "mask_embed", 3), self.mask_features(maps))
        logits = F.interpolate(logits, size=pixels.shape[2:], mode="bilinear", align_corners=False)
        masks = logits[0, :, :height, :width].sigmoid()
        classes = torch.cat([words, F.normalize(self.state["clip_adapter.non_object_embedding"], dim=1)])
        own = 100 * F.normalize(self._mlp(queries, "class_embed", 2), dim=1) @ classes.T
        own = own.softmax(1)[:, :-1]
        valid = (masks > 0.4).flatten(1).any(1)
        clip = torch.ones_like(own)
        clip[valid] = (100 * self.regions(image, masks[valid] > 0.4) @ words.T).softmax(1)
        return torch.einsum("qk,qhw->khw", own**0.3 * clip**0.7, masks)


def _sines(height: int, width: int, channels: int) -> Tensor:
    """DETR's position embeddings [height * width, channels], normalised to a turn across the map."""
    powers = 10000 ** (2 * (torch.arange(channels // 2) // 2) / (channels // 2))
    parts = []
    for length in (height, width):
        angles = (torch.arange(1, length + 1) / (length + 1e-6) * 2 * math.pi)[:, None] / powers
        parts.append(torch.stack([angles[:, 0::2].sin(), angles[:, 1::2].cos()], 2).flatten(1))
    rows, columns = parts
    rows = rows[:, None].expand(-1, width, -1)
    return torch.cat([rows, columns.expand(height, -1, -1)], 2).flatten(0, 1)
