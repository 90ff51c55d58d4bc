"""Tiny checkpoints with random weights, in the formats of the real ones. Each function writes one to a folder of its
own (made if it is not there), and returns what `--model NAME:...` takes after the colon.
"""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lift3d_cli.models.ddcolor_net import DDColorNet, Sizes
from lift3d_cli.models.image_text import NEGATIVES

# ---- transformers ----------------------------------------------------------------------------------------------------

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


def save_clipseg(folder: Path, patch: int = 16, length: int = 16, refined: bool = True) -> str:
    """CLIPSeg with letters for words; `refined` as the network of the class's own checkpoint is."""
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

    size = {"hidden_size": 24, "intermediate_size": 48, "num_attention_heads": 2}
    words = _save_letters(folder)
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


def _save_letters(folder: Path) -> list[str]:
    """Letters as words, in the files that CLIP's checkpoints have; returns them."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return words


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


# ---- diffusers -------------------------------------------------------------------------------------------------------


def save_instruct_pix2pix(
    folder: Path, in_channels: int = 8, scheduler: str = "EulerAncestralDiscreteScheduler"
) -> str:
    """InstructPix2Pix with letters for words, whose UNet has two levels and takes `in_channels`."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    words = _save_letters(folder / "words")
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


# ---- DDColor ---------------------------------------------------------------------------------------------------------

DDCOLOR = Sizes(depths=(1, 1, 2, 1), widths=(8, 16, 24, 32), width=32, queries=6, layers=4, inner=24)


def save_ddcolor(folder: Path) -> str:
    """DDColor, as its authors save it: under a key, with the vectors of spectral normalisation."""
    state = {key: filled(key, tensor) for key, tensor in DDColorNet(DDCOLOR).state_dict().items()}
    state["decoder.color_decoder.color_embed.layers.2.weight"] *= 500  # strong colours, so that errors show
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"params": with_singular_vectors(state)}, folder / "small.pth")
    return str(folder / "small.pth")


def filled(key: str, tensor: Tensor) -> Tensor:
    """Numbers that depend on the tensor's name only, as those of the official network in the parity files were made."""
    if key in ("mean", "std"):
        return tensor
    if not tensor.is_floating_point():
        return torch.zeros_like(tensor, device="cpu")
    n = tensor.numel()
    x = np.arange(n, dtype=np.uint32) * np.uint32(2654435761)  # modulo 2**32, as meant
    x += np.uint32(zlib.crc32(key.encode()) % 10007 * 40503 % 2**32)
    x = (x ^ (x >> 16)) * np.uint32(2246822519)
    x ^= x >> 13
    v = x / 2.0**31 - 1
    if key.endswith("running_var"):
        v = 1 + 0.1 * v
    elif key.endswith(("bias", "running_mean")):
        v = 0.05 * v
    elif tensor.dim() == 1:
        v = 1 + 0.1 * v
    else:
        v = v * math.sqrt(3 / (n / tensor.shape[0]))
    return torch.from_numpy(v).float().reshape(tensor.shape)


def with_singular_vectors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add to each `weight_orig` of spectral normalisation its `weight_u` and `weight_v`."""
    for key in [key for key in state if key.endswith("weight_orig")]:
        weight = state[key].flatten(1).double()
        v = F.normalize(weight.sum(0), dim=0)
        state[key.replace("orig", "v")] = v.float()
        state[key.replace("orig", "u")] = F.normalize(weight @ v, dim=0).float()
    return state


# ---- style -----------------------------------------------------------------------------------------------------------


def save_johnson(folder: Path) -> str:
    """TransformerNet of fast_neural_style, as old versions of torch saved it."""
    folder.mkdir(parents=True, exist_ok=True)
    state = johnson_state() | {"in1.running_mean": torch.zeros(4), "res3.in2.running_var": torch.ones(8)}
    torch.save(state, folder / "candy.pth")
    return str(folder / "candy.pth")


def johnson_state(a: int = 4, b: int = 6, c: int = 8) -> dict[str, Tensor]:
    """Weights of a TransformerNet whose first convolutions have `a`, `b` and `c` channels."""
    random = torch.Generator().manual_seed(1)
    state = {}
    convs = {"conv1": (a, 3, 9), "conv2": (b, a, 3), "conv3": (c, b, 3)}
    convs |= {f"res{i}.conv{j}": (c, c, 3) for i in range(1, 6) for j in (1, 2)}
    convs |= {"deconv1": (b, c, 3), "deconv2": (a, b, 3), "deconv3": (3, a, 9)}
    for name, (outputs, inputs, kernel) in convs.items():
        weight = torch.randn(outputs, inputs, kernel, kernel, generator=random)
        gain = 60 if name == "deconv3" else 1  # a picture in [0, 255]
        state[f"{name}.conv2d.weight"] = gain * weight / (inputs * kernel**2) ** 0.5
        state[f"{name}.conv2d.bias"] = torch.full((outputs,), 128.0 if name == "deconv3" else 0.1)
    norms = {"in1": a, "in2": b, "in3": c, "in4": b, "in5": a}
    norms |= {f"res{i}.in{j}": c for i in range(1, 6) for j in (1, 2)}
    for name, width in norms.items():
        state[f"{name}.weight"] = torch.rand(width, generator=random) + 0.5
        state[f"{name}.bias"] = torch.randn(width, generator=random) / 4
    return state


def save_adain(folder: Path, names: tuple[str, str] = ("vgg.pth", "decoder.pth")) -> str:
    """AdaIN: VGG and decoder."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in names]
    for path, part in zip(paths, adain_parts(), strict=True):
        torch.save(part.state_dict(), path)
    return ",".join(map(str, paths))


def adain_parts() -> tuple[nn.Sequential, nn.Sequential]:
    """VGG with more layers than are used, and decoder, as index-keyed `nn.Sequential`s."""
    convs = [(3, 64), (64, 64), "pool", (64, 128), (128, 128), "pool", (128, 256), (256, 256), (256, 256), (256, 256),
             "pool", (256, 512), (512, 8)]  # fmt: skip
    vgg: list[nn.Module] = [nn.Conv2d(3, 3, 1)]
    for conv in convs:
        vgg += [nn.MaxPool2d(2, 2, 0, ceil_mode=True)] if conv == "pool" else [*_padded(*conv), nn.ReLU()]
    widths = [(512, 256), "up", (256, 256), (256, 256), (256, 256), (256, 128), "up", (128, 128), (128, 64), "up",
              (64, 64), (64, 3)]  # fmt: skip
    decoder: list[nn.Module] = []
    for conv in widths:
        decoder += [nn.UpsamplingNearest2d(scale_factor=2)] if conv == "up" else [*_padded(*conv), nn.ReLU()]
    torch.manual_seed(2)
    parts = nn.Sequential(*vgg), nn.Sequential(*decoder[:-1])
    for part in parts:
        for name, parameter in part.named_parameters():
            if parameter.dim() == 4:
                nn.init.kaiming_normal_(parameter)
            else:
                nn.init.constant_(parameter, 0.5 if name == "28.bias" else 0.05)
    parts[1][-1].weight.data *= 0.2
    return parts[0].eval().requires_grad_(False), parts[1].eval().requires_grad_(False)


def _padded(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.ReflectionPad2d(1), nn.Conv2d(inputs, outputs, 3)]


# ---- TorchScript -----------------------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """Stride 4, 6 channels; with a BatchNorm, whose averages a run in training mode would change."""

    def __init__(self, stride: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 6, stride, stride)
        self.norm = nn.BatchNorm2d(6)
        self.near = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return self.near(torch.tanh(self.norm(self.patches(image))))


class Decoder(nn.Module):
    """To twice as many pixels as cells."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(6, 3, 2, 2)

    def forward(self, features: Tensor) -> Tensor:
        return torch.sigmoid(self.up(features))


class Refiner(nn.Module):
    """To as many pixels as the image has; needs features and image to lie on each other."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(6, 3, 4, 4)

    def forward(self, features: Tensor, image: Tensor) -> Tensor:
        return 0.5 * torch.sigmoid(self.up(features)) + 0.5 * image


def save_torchscript(folder: Path, decoder: str = "decoder") -> str:
    """encoder.pt, decoder.pt and refiner.pt, in training mode, as `script` leaves them; the encoder and one of them."""
    folder.mkdir(parents=True, exist_ok=True)
    for network in (Encoder, Decoder, Refiner):
        torch.manual_seed(0)
        torch.jit.script(network()).save(folder / f"{network.__name__.lower()}.pt")
    return f"{folder}/encoder.pt,{folder}/{decoder}.pt"
