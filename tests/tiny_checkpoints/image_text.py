"""CLIP and SigLIP 2, as transformers saves them, with words for words."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from lift3d_cli.models.builtin.image_text import NEGATIVES

WORDS = ("chair", "floor", "wall", "photo", "a", "of", "the", *NEGATIVES)
_IMAGE_TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def save_clip(folder: Path, patch: int = 8, channels: int = 24, length: int = 16) -> str:
    """CLIP with a tokenizer of a few words; `channels` of the space of images and texts, `length` of texts."""
    from transformers import CLIPConfig, CLIPModel

    text, vision = _image_text(_save_words(folder, "<s>"), patch, length)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=channels)
    return _save_image_text(folder, CLIPModel(config))


def save_siglip2(folder: Path, patch: int = 8, length: int = 16, pooling_head: bool = True) -> str:
    """SigLIP 2 of 32 channels with a tokenizer of a few words."""
    from transformers import SiglipConfig, SiglipModel

    text, vision = _image_text(_save_words(folder, ""), patch, length)
    config = SiglipConfig(text_config=text, vision_config={**vision, "vision_use_head": pooling_head})
    network = SiglipModel(config)
    network.logit_scale.data.fill_(2.0)
    network.logit_bias.data.fill_(-10.0)
    return _save_image_text(folder, network)


def _image_text(words: int, patch: int, length: int) -> tuple[dict, dict]:
    """Settings for text and vision."""
    ends = {"bos_token_id": 2, "eos_token_id": words - 1, "pad_token_id": 0}
    text = {**_IMAGE_TEXT, "vocab_size": words, "max_position_embeddings": length, **ends}
    return text, {**_IMAGE_TEXT, "patch_size": patch, "image_size": 4 * patch}


def _save_words(folder: Path, begin: str) -> int:
    """A tokenizer of words, ending a text with </s> and beginning it with `begin`; returns the number of words."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<unk>", "<s>", "</s>"]
    vocab = {word: i for i, word in enumerate(dict.fromkeys([*special[:3], *WORDS, ".", "</s>"]))}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFC()  # upper case is left to the model, as by GemmaTokenizer
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ids = [(word, vocab[word]) for word in special]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{begin} $A </s>".strip(), special_tokens=ids)
    # Padding on the left is what Siglip2Tokenizer does by default, and what SigLIP was not trained with.
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left", **names).save_pretrained(folder)
    return len(vocab)


def _save_image_text(folder: Path, network: nn.Module) -> str:
    torch.manual_seed(0)
    for name, parameter in network.named_parameters():
        # Biases and norms begin at 0 and 1, where forgetting them could not be seen.
        if "logit" not in name:
            # Little attention, so that a patch's features are mostly of what it shows.
            std = 0.03 if "self_attn.out_proj" in name else 0.3
            nn.init.normal_(parameter, mean=float("norm" in name and "weight" in name), std=std)
    network.save_pretrained(folder)
    return str(folder)
