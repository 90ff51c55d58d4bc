"""InstructPix2Pix, as diffusers saves it."""

from __future__ import annotations

from pathlib import Path

import torch

from tiny_checkpoints.letters import save_letters


def save_instruct_pix2pix(
    folder: Path, in_channels: int = 8, scheduler: str = "EulerAncestralDiscreteScheduler"
) -> str:
    """InstructPix2Pix with letters for words, whose UNet has two levels and takes `in_channels`."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    words = save_letters(folder / "words")
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        in_channels=in_channels,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4, 4, 4, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
        layers_per_block=1,
    )
    begin, end = words.index("<|startoftext|>"), words.index("<|endoftext|>")
    sizes = dict(hidden_size=8, intermediate_size=16, num_attention_heads=2, num_hidden_layers=1, vocab_size=64)
    ends = dict(bos_token_id=begin, eos_token_id=end, pad_token_id=end)
    text = CLIPTextConfig(**sizes, max_position_embeddings=16, **ends)
    pipeline = diffusers.StableDiffusionInstructPix2PixPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text).half(),  # as some checkpoints have it
        tokenizer=CLIPTokenizer.from_pretrained(folder / "words", model_max_length=16),
        unet=unet,
        scheduler=getattr(diffusers, scheduler)(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder / "pipeline")
    return str(folder / "pipeline")
