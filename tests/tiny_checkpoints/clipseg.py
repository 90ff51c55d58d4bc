"""CLIPSeg, as transformers saves it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from tiny_checkpoints.letters import save_letters


def save_clipseg(folder: Path, patch: int = 16, length: int = 16, refined: bool = True) -> str:
    """CLIPSeg with letters for words; `refined` as the network of the class's own checkpoint is."""
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

    size = {"hidden_size": 24, "intermediate_size": 48, "num_attention_heads": 2}
    words = save_letters(folder)
    special = {"tokenizer_class": "CLIPTokenizer", "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    special |= {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    ends = {"bos_token_id": words.index("<|startoftext|>"), "eos_token_id": words.index("<|endoftext|>")}
    text = {"vocab_size": len(words), "max_position_embeddings": length, "num_hidden_layers": 2, **ends}
    vision = {"num_hidden_layers": 4, "patch_size": patch, "image_size": 4 * patch}
    config = CLIPSegConfig(
        text_config={**size, **text},
        vision_config={**size, **vision},
        projection_dim=12,
        extract_layers=[0, 1, 2],
        reduce_dim=8,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
        use_complex_transposed_convolution=refined,
    )
    torch.manual_seed(0)
    network = CLIPSegForImageSegmentation(config)
    for name, parameter in network.named_parameters():
        # Biases and norms begin at 0 and 1, where forgetting them could not be seen.
        if "logit" not in name:
            # Little attention, so that a patch's features are mostly of what it shows; not so much of later layers that
            # nothing is left of the prompt, which comes in at the first.
            std = 0.03 if ("vision_model" in name and "out_proj" in name) or "reduces" in name else 0.3
            nn.init.normal_(parameter, mean=float("norm" in name and "weight" in name), std=std)
    network.save_pretrained(folder)
    return str(folder)
