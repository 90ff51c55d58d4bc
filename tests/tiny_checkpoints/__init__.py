"""Tiny checkpoints with random weights, in the formats of the real ones. Each function writes one to a folder of its
own (made if it is not there), and returns what `--model NAME:...` takes after the colon.
"""

from tiny_checkpoints.clipseg import save_clipseg
from tiny_checkpoints.ddcolor import filled, save_ddcolor, with_singular_vectors
from tiny_checkpoints.image_text import save_clip, save_siglip2
from tiny_checkpoints.instruct_pix2pix import save_instruct_pix2pix
from tiny_checkpoints.ovseg import ovseg_state, save_mask2former, save_mask_former, save_ovseg
from tiny_checkpoints.resshift import autoencoder_shapes, resshift_state, save_resshift, unet_shapes
from tiny_checkpoints.slimsam import save_slimsam
from tiny_checkpoints.style import adain_parts, johnson_state, save_adain, save_johnson
from tiny_checkpoints.swin2sr import save_swin2sr
from tiny_checkpoints.torchscript import Decoder, Encoder, save_torchscript
from tiny_checkpoints.vit import save_dino, save_dinov2, save_dinov3

__all__ = [
    "Decoder",
    "Encoder",
    "adain_parts",
    "autoencoder_shapes",
    "filled",
    "johnson_state",
    "ovseg_state",
    "resshift_state",
    "save_adain",
    "save_clip",
    "save_clipseg",
    "save_ddcolor",
    "save_dino",
    "save_dinov2",
    "save_dinov3",
    "save_instruct_pix2pix",
    "save_johnson",
    "save_mask2former",
    "save_mask_former",
    "save_ovseg",
    "save_resshift",
    "save_siglip2",
    "save_slimsam",
    "save_swin2sr",
    "save_torchscript",
    "unet_shapes",
    "with_singular_vectors",
]
