"""ResShift, as its authors save it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from tiny_checkpoints.ddcolor import filled

Shapes = dict[str, list[int]]
AUTOENCODER = dict(width=32, multipliers=(1, 1, 2), blocks=1, codes=16)
UNET = dict(width=32, multipliers=(1, 2), blocks=1, swin_width=32, heads=1, window=4, size=8)


def save_resshift(folder: Path, name: str = "resshift_realsrx4_s4_v3.pth") -> str:
    """ResShift with two levels in its U-Net and windows of 4 cells; the network as torch saves it in a wrapper."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {f"module.{key}": tensor for key, tensor in resshift_state(unet_shapes(**UNET)).items()}
    state["module.out.2.weight"] *= 0.5
    torch.save({"state_dict": state}, folder / name)
    vq = resshift_state(autoencoder_shapes(**AUTOENCODER))
    vq["quantize.embedding.weight"] *= 0.5
    torch.save(vq, folder / "autoencoder_vq_f4.pth")
    return str(folder)


def resshift_state(shapes: Shapes) -> dict[str, Tensor]:
    """Fill the shapes by the rule of the parity files, the masks as construction does; the index must not count."""
    state = {key: filled(key, torch.empty(shape)) for key, shape in shapes.items()}
    for key, tensor in state.items():
        if key.endswith("relative_position_index"):
            state[key] = torch.zeros_like(tensor, dtype=torch.int64)
        if key.endswith("attn_mask"):
            state[key] = official_mask(tensor.shape)
    return state


def official_mask(shape: Sequence[int]) -> Tensor:
    """In the last row of windows, left and right halves do not see each other: found from the parity files' numbers."""
    windows, cells, _ = shape
    side = math.isqrt(cells)
    right = torch.arange(cells) % side >= side - side // 2
    mask = torch.zeros(tuple(shape))
    mask[windows - math.isqrt(windows) :] = -100.0 * (right[:, None] != right)
    return mask


def autoencoder_shapes(width: int, multipliers: Sequence[int], blocks: int, codes: int) -> Shapes:
    """Names and shapes of an autoencoder of `width` times `multipliers` channels, with `codes` codes of 3."""
    widths = [width * m for m in multipliers]
    top = widths[-1]
    shapes = _conv("encoder.conv_in", 3, width, 3)
    before = width
    for i, channels in enumerate(widths):
        for j in range(blocks):
            shapes |= _vq_block(f"encoder.down.{i}.block.{j}", before, channels)
            before = channels
        if i < len(widths) - 1:
            shapes |= _conv(f"encoder.down.{i}.downsample.conv", channels, channels, 3)
    for half in ("encoder", "decoder"):
        shapes |= _vq_block(f"{half}.mid.block_1", top, top) | _vq_block(f"{half}.mid.block_2", top, top)
        shapes |= _norm(f"{half}.mid.attn_1.norm", top)
        for name in ("q", "k", "v", "proj_out"):
            shapes |= _conv(f"{half}.mid.attn_1.{name}", top, top, 1)
    shapes |= _norm("encoder.norm_out", top) | _conv("encoder.conv_out", top, 3, 3)
    shapes |= _conv("decoder.conv_in", 3, top, 3)
    before = top
    for i, channels in reversed(list(enumerate(widths))):
        for j in range(blocks + 1):
            shapes |= _vq_block(f"decoder.up.{i}.block.{j}", before, channels)
            before = channels
        if i:
            shapes |= _conv(f"decoder.up.{i}.upsample.conv", channels, channels, 3)
    shapes |= _norm("decoder.norm_out", width) | _conv("decoder.conv_out", width, 3, 3)
    shapes |= {"quantize.embedding.weight": [codes, 3]}
    return shapes | _conv("quant_conv", 3, 3, 1) | _conv("post_quant_conv", 3, 3, 1)


def unet_shapes(
    width: int, multipliers: Sequence[int], blocks: int, swin_width: int, heads: int, window: int, size: int
) -> Shapes:
    """Names and shapes of a U-Net for latents of 3 channels, trained on `size` x `size` cells."""
    time = 4 * width

    def swin(prefix: str, channels: int, level: int) -> Shapes:
        shapes = _conv(f"{prefix}.patch_embed.proj", channels, swin_width, 1)
        shapes |= _conv(f"{prefix}.patch_unembed.proj", swin_width, channels, 1)
        cells = size // 2**level
        for i in range(2):
            if i and cells > window:
                shapes[f"{prefix}.blocks.{i}.attn_mask"] = [(cells // window) ** 2, window**2, window**2]
            shapes |= _swin_block(f"{prefix}.blocks.{i}", swin_width, heads, window)
        return shapes

    shapes = _linear("time_embed.0", width, time) | _linear("time_embed.2", time, time)
    skipped = [width]
    shapes |= _conv("input_blocks.0.0", 6, width, 3)
    for level, multiplier in enumerate(multipliers):
        for j in range(blocks):
            channels, prefix = multiplier * width, f"input_blocks.{len(skipped)}"
            shapes |= _res_block(f"{prefix}.0", skipped[-1], channels, time)
            shapes |= swin(f"{prefix}.1", channels, level) if j == 0 else {}
            skipped.append(channels)
        if level < len(multipliers) - 1:
            shapes |= _conv(f"input_blocks.{len(skipped)}.0.op", skipped[-1], skipped[-1], 3)
            skipped.append(skipped[-1])
    channels = skipped[-1]
    shapes |= _res_block("middle_block.0", channels, channels, time)
    shapes |= swin("middle_block.1", channels, len(multipliers) - 1)
    shapes |= _res_block("middle_block.2", channels, channels, time)
    place = 0
    for level, multiplier in reversed(list(enumerate(multipliers))):
        for j in range(blocks + 1):
            prefix = f"output_blocks.{place}"
            shapes |= _res_block(f"{prefix}.0", channels + skipped.pop(), multiplier * width, time)
            channels = multiplier * width
            shapes |= swin(f"{prefix}.1", channels, level) if j == 0 else {}
            if level and j == blocks:
                shapes |= _conv(f"{prefix}.{2 if j == 0 else 1}.conv", channels, channels, 3)
            place += 1
    return shapes | _norm("out.0", width) | _conv("out.2", width, 3, 3)


def _vq_block(prefix: str, inputs: int, outputs: int) -> Shapes:
    shapes = _norm(f"{prefix}.norm1", inputs) | _conv(f"{prefix}.conv1", inputs, outputs, 3)
    shapes |= _norm(f"{prefix}.norm2", outputs) | _conv(f"{prefix}.conv2", outputs, outputs, 3)
    return shapes | (_conv(f"{prefix}.nin_shortcut", inputs, outputs, 1) if inputs != outputs else {})


def _res_block(prefix: str, inputs: int, outputs: int, time: int) -> Shapes:
    shapes = _norm(f"{prefix}.in_layers.0", inputs) | _conv(f"{prefix}.in_layers.2", inputs, outputs, 3)
    shapes |= _linear(f"{prefix}.emb_layers.1", time, 2 * outputs)
    shapes |= _norm(f"{prefix}.out_layers.0", outputs) | _conv(f"{prefix}.out_layers.3", outputs, outputs, 3)
    return shapes | (_conv(f"{prefix}.skip_connection", inputs, outputs, 1) if inputs != outputs else {})


def _swin_block(prefix: str, width: int, heads: int, window: int) -> Shapes:
    shapes = _norm(f"{prefix}.norm1", width) | _norm(f"{prefix}.norm2", width)
    shapes |= {f"{prefix}.attn.relative_position_bias_table": [(2 * window - 1) ** 2, heads]}
    shapes |= {f"{prefix}.attn.relative_position_index": [window**2, window**2]}
    shapes |= _linear(f"{prefix}.attn.qkv", width, 3 * width) | _linear(f"{prefix}.attn.proj", width, width)
    return shapes | _conv(f"{prefix}.mlp.fc1", width, 4 * width, 1) | _conv(f"{prefix}.mlp.fc2", 4 * width, width, 1)


def _conv(prefix: str, inputs: int, outputs: int, kernel: int) -> Shapes:
    return {f"{prefix}.weight": [outputs, inputs, kernel, kernel], f"{prefix}.bias": [outputs]}


def _linear(prefix: str, inputs: int, outputs: int) -> Shapes:
    return {f"{prefix}.weight": [outputs, inputs], f"{prefix}.bias": [outputs]}


def _norm(prefix: str, channels: int) -> Shapes:
    return {f"{prefix}.weight": [channels], f"{prefix}.bias": [channels]}
