"""`clip`, `siglip2`: patch features in the space of a text encoder, so that prompts can segment them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.errors import ModelError
from lift3d_cli.models.base import DecodeContext, Decoder, FeatureMap, ModelSpec, RenderedView, Segmentation
from lift3d_cli.models.builtin.vit import whole_patches
from lift3d_cli.models.edges import class_scores
from lift3d_cli.models.heads import FeatureModel
from lift3d_cli.models.pretrained import from_pretrained, load_transformers, require

# A class's embedding is the mean over these: a single sentence says as much about itself as about the class.
TEMPLATES = (
    "{}",
    "a photo of {}.",
    "a photo of a {}.",
    "a photo of the {} in its place.",
    "a close view of the {}.",
    "the {} from a distance.",
    "a part of the {}.",
)
# Negatives of a single class: the "canonical phrases" of LERF.
NEGATIVES = ("object", "things", "stuff", "texture")


def embed_texts(network: Any, tokenizer: Any, texts: list[str]) -> Tensor:
    """Embed sentences in the joint space of a network of transformers: [N, C], not normalised."""
    length = network.config.text_config.max_position_embeddings
    # Padded as in training, as SigLIP reads the padding too; CLIP ignores what follows the end of a text.
    # Both know lower case only, which not every version of SigLIP 2's tokenizer converts to.
    settings = {"padding": "max_length", "padding_side": "right", "truncation": True, "max_length": length}
    ids = tokenizer([text.lower() for text in texts], return_tensors="pt", **settings)["input_ids"]
    embedded = network.get_text_features(input_ids=ids.to(network.logit_scale.device))
    return embedded if isinstance(embedded, Tensor) else embedded.pooler_output  # transformers 4, 5


def class_direction(network: Any, tokenizer: Any, name: str, templates: Sequence[str]) -> Tensor:
    """Return the direction [C] of a class: the mean over sentences with its name, normalised before and after."""
    texts = embed_texts(network, tokenizer, [template.format(name.strip()) for template in templates])
    return F.normalize(F.normalize(texts, dim=1).mean(0), dim=0)


class ImageTextModel(FeatureModel):
    """A network trained on images and captions, as an encoder of each patch into their joint space.

    Features are not normalised, so that views are blended first; `segment` compares directions. The text tower is part
    of the model, and used for `segment` only. Subclasses name the network and define how a patch is embedded.
    """

    networks: ClassVar[dict[str, str]]
    mean: ClassVar[tuple[float, ...]]
    std: ClassVar[tuple[float, ...]]

    def __init__(self, checkpoint: str = "") -> None:
        """Load the weights and tokenizer of `checkpoint`, a folder or `owner/repository@revision`, or the spec's."""
        super().__init__()
        spec = type(self).spec
        self.network = load_transformers(spec, self.networks, checkpoint)
        # Directly from tokenizer.json: the tokenizer class for a checkpoint differs between versions of transformers.
        loader = require(spec, "transformers").PreTrainedTokenizerFast.from_pretrained
        self.tokenizer = from_pretrained(spec, loader, checkpoint)
        stride = self.network.config.vision_config.patch_size
        self.spec = dataclasses.replace(spec, channels=self.joint_channels(), stride=stride)

    def joint_channels(self) -> int:
        """Return the number of channels of the joint space."""
        raise NotImplementedError

    def embed_patches(self, pixels: Tensor) -> Tensor:
        """Embed normalised pixels [1, 3, H, W] of whole patches in the joint space: [patches, C], row by row."""
        raise NotImplementedError

    def encode(self, image: Tensor) -> FeatureMap:
        """Encode a photo [3, H, W]; right and bottom are padded by replication to whole patches."""
        grid = self.grid(image.shape[2], image.shape[1])
        patches = self.embed_patches(whole_patches(image, self.spec.stride, self.mean, self.std))
        return FeatureMap(patches.T.reshape(-1, grid.height, grid.width), grid)

    def embed_text(self, texts: list[str]) -> Tensor:
        """Embed sentences in the joint space: [N, C], not normalised."""
        return embed_texts(self.network, self.tokenizer, texts)

    def embed_class(self, name: str) -> Tensor:
        """Return the direction [C] of a class: the mean over `TEMPLATES`, normalised before and after."""
        return class_direction(self.network, self.tokenizer, name, TEMPLATES)

    def segment_by_text(self, context: DecodeContext) -> Decoder:
        """Segment by the softmax of the cosines between pixel and prompts, at the network's learned temperature.

        A single prompt becomes the classes (prompt, "other"), by the relevancy of LERF (Kerr et al. 2023): the minimum
        over `NEGATIVES` of the softmax between the prompt and a negative. With logits l of the prompt and n of the
        negatives, it is 1 / (1 + exp(max(n) - l)): the softmax between l and the largest n.

        Raises:
            ModelError: if a prompt is blank.
        """
        names = context.options.text
        if not all(name.strip() for name in names):
            raise ModelError(f"model {self.spec.name}: a prompt is blank. hint: --text WORDS")
        single = len(names) == 1
        classes = torch.stack([self.embed_class(name) for name in (*names, *(NEGATIVES if single else ()))])
        scale = self.network.logit_scale.exp()  # SigLIP's bias is left out: equal for all, it cancels in the softmax

        def decode(features: FeatureMap, view: RenderedView) -> Segmentation:
            # At the cells, as in the other heads: a large view has far more pixels than cells.
            directions = F.normalize(features.data.float(), dim=0)
            logits = torch.einsum("kc,chw->khw", scale * classes, directions)
            if single:
                logits = torch.stack([logits[0], logits[1:].amax(0)])
            scores = class_scores(FeatureMap(logits, features.grid), view.image)
            return Segmentation(scores, (*names, "other") if single else tuple(names))

        return decode


class Clip(ImageTextModel):
    """CLIP (Radford et al. 2021), dense as in MaskCLIP (Zhou et al. 2022, "Extract Free Dense Labels from CLIP").

    In the last layer each patch attends only to itself: its features are the value and output projections of the
    layer-normed input, without the residual and the MLP, which were trained for the class token; then, as for the class
    token, LayerNorm and the projection to the joint space.
    """

    spec = ModelSpec(
        name="clip",
        channels=512,
        stride=16,
        tasks=("segment", "features"),
        version="1",
        license="MIT",
        summary="finds what --text says, by CLIP's features of each patch (ViT-B/16)",
        max_size=512,
        hub="openai/clip-vit-base-patch16",
        revision="57c216476eefef5ab752ec549e440a49ae4ae5f3",
        download_bytes=599_000_000,
        extra="hf",
    )
    networks: ClassVar = {"clip": "CLIPModel"}
    mean: ClassVar = (0.48145466, 0.4578275, 0.40821073)
    std: ClassVar = (0.26862954, 0.26130258, 0.27577711)

    def joint_channels(self) -> int:
        """See `ImageTextModel`."""
        return self.network.config.projection_dim

    def embed_patches(self, pixels: Tensor) -> Tensor:
        """See `ImageTextModel`."""
        vision = self.network.vision_model
        states = vision(pixels, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states
        last = vision.encoder.layers[-1]
        patches = last.layer_norm1(states[-2][0, 1:])  # the last layer's input, without the class token
        values = last.self_attn.out_proj(last.self_attn.v_proj(patches))
        return self.network.visual_projection(vision.post_layernorm(values))


class Siglip2(ImageTextModel):
    """SigLIP 2 (Tschannen et al. 2025), dense by its pooling. Checkpoints of fixed size; not NaFlex.

    SigLIP has no class token. A learned query pools the patches by attention (MAP head): y = out(sum a_i value(x_i)),
    where the a_i add up to 1, and the image's embedding is y + mlp(norm(y)). The dense analogue is a pooling of each
    patch alone: y_i = out(value(x_i)), and y_i + mlp(norm(y_i)). For an image of one patch they are the same.
    """

    spec = ModelSpec(
        name="siglip2",
        channels=768,
        stride=16,
        tasks=("segment", "features"),
        version="1",
        license="Apache-2.0",
        summary="finds what --text says, in many languages, by SigLIP 2's features of each patch (ViT-B/16)",
        max_size=512,
        hub="google/siglip2-base-patch16-224",
        revision="75de2d55ec2d0b4efc50b3e9ad70dba96a7b2fa2",
        download_bytes=1_500_000_000,
        extra="hf",
    )
    networks: ClassVar = {"siglip": "SiglipModel"}
    mean: ClassVar = (0.5, 0.5, 0.5)
    std: ClassVar = (0.5, 0.5, 0.5)

    def joint_channels(self) -> int:
        """See `ImageTextModel`."""
        if not hasattr(self.network.vision_model, "head"):
            raise ModelError(f"model {self.spec.name}: the checkpoint has no pooling head. hint: {self.spec.hub}")
        return self.network.config.vision_config.hidden_size

    def embed_patches(self, pixels: Tensor) -> Tensor:
        """See `ImageTextModel`."""
        vision = self.network.vision_model
        patches = vision(pixels, interpolate_pos_encoding=True).last_hidden_state[0]
        attention = vision.head.attention
        channels = attention.embed_dim  # the rows of in_proj are query, key, value
        values = F.linear(patches, attention.in_proj_weight[2 * channels :], attention.in_proj_bias[2 * channels :])
        pooled = attention.out_proj(values)
        return pooled + vision.head.mlp(vision.head.layernorm(pooled))
