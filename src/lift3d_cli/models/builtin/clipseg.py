"""`clipseg`: CLIPSeg (Lüddecke & Ecker, CVPR 2022) segments by prompts; split before the text is used.

Its decoder maps three layers of CLIP linearly to few channels, multiplies and shifts them depending on the text (FiLM),
and lets all patches of the image attend to each other. The features are the results of the linear maps, which do not
depend on the text. The class token, which has no place in the image, is mapped likewise to further channels that are
equal over a photo's cells; their mean over a view's cells is the class token of the photos that the view was rendered
from.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from lift3d_cli.errors import ModelError
from lift3d_cli.models.base import DecodeContext, Decoder, FeatureMap, Model, ModelSpec, RenderedView, Segmentation
from lift3d_cli.models.builtin.vit import IMAGENET_MEAN, IMAGENET_STD, whole_patches
from lift3d_cli.models.pretrained import from_pretrained, load_transformers, require


class ClipSeg(Model):
    """Segments by prompts, each independent of the others.

    The library's decoder takes square images only; this one runs the same layers on any grid.
    """

    spec = ModelSpec(
        name="clipseg",
        channels=384,
        stride=16,
        tasks=("segment",),
        version="1",
        license="Apache-2.0",
        summary="finds what --text says, by a decoder trained to (CLIPSeg on ViT-B/16)",
        max_size=416,  # 26 x 20 patches in a photo of 4:3: about as many as the 22 x 22 of its training
        hub="CIDAS/clipseg-rd64-refined",
        revision="325a839908143a34b409ae6f2910fa015ea390e6",
        download_bytes=603_000_000,
        extra="hf",
    )

    def __init__(self, checkpoint: str = "") -> None:
        """Load the weights and tokenizer of `checkpoint`, a folder or `owner/repository@revision`, or the spec's."""
        super().__init__()
        spec = type(self).spec
        self.network = load_transformers(spec, {"clipseg": "CLIPSegForImageSegmentation"}, checkpoint)
        transformers = require(spec, "transformers")
        self.tokenizer = from_pretrained(spec, transformers.AutoTokenizer.from_pretrained, checkpoint)
        config = self.network.config
        if len(self.tokenizer) != config.text_config.vocab_size:  # transformers 5 makes an empty one
            raise ModelError(
                f"model {spec.name}: {checkpoint or spec.hub} has no tokenizer of its {config.text_config.vocab_size} "
                "words. hint: vocab.json, merges.txt and tokenizer_config.json belong beside the weights"
            )
        channels = 2 * len(config.extract_layers) * config.reduce_dim
        self.spec = dataclasses.replace(spec, channels=channels, stride=config.vision_config.patch_size)

    def encode(self, image: Tensor) -> FeatureMap:
        """Encode a photo [3, H, W]; right and bottom are padded by replication to whole patches."""
        grid = self.grid(image.shape[2], image.shape[1])
        pixels = whole_patches(image, self.spec.stride, IMAGENET_MEAN, IMAGENET_STD)
        vision = self.network.clip.vision_model
        states = vision(pixels, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states
        # The first state is the input of the first layer. The decoder reads the last of its layers first.
        layers = [states[i + 1][0] for i in reversed(self.network.config.extract_layers)]
        tokens = torch.cat([reduce(x) for reduce, x in zip(self.network.decoder.reduces, layers, strict=True)], 1).T
        patches = tokens[:, 1:].reshape(-1, grid.height, grid.width)
        everywhere = tokens[:, :1, None].expand(-1, grid.height, grid.width)
        return FeatureMap(torch.cat([patches, everywhere]), grid)

    def decoder(self, context: DecodeContext) -> Decoder:
        """Segment into "other" and the prompts, by a softmax over 0 and the network's logits.

        A single prompt thus has the network's own score, the sigmoid of its logit; of several, the most likely one wins
        if its probability is over one half, and "other" elsewhere.

        Raises:
            ModelError: if there are no prompts, or one is blank.
        """
        names = context.options.text
        if not names or not all(name.strip() for name in names):
            raise self._no_text()
        prompts = torch.cat([self.embed_text(name) for name in names])

        def decode(features: FeatureMap, view: RenderedView) -> Segmentation:
            logits = features.finer(self.logits(features.data.float(), prompts))
            logits = logits.at_pixels(view.image.shape[2], view.image.shape[1])
            return Segmentation(torch.softmax(torch.cat([0 * logits[:1], logits]), 0), ("other", *names))

        return decode

    def decode(self, features: FeatureMap, view: RenderedView, task: str) -> Tensor:
        """Raise an error: there are no prompts, see `decoder`."""
        raise self._no_text()

    def embed_text(self, text: str) -> Tensor:
        """Embed a prompt in CLIP's joint space: [1, C], not normalised."""
        length = self.network.config.text_config.max_position_embeddings
        ids = self.tokenizer(text.strip(), truncation=True, max_length=length, return_tensors="pt")["input_ids"]
        clip = self.network.clip
        return clip.text_projection(clip.text_model(input_ids=ids.to(clip.logit_scale.device)).pooler_output)

    def logits(self, data: Tensor, prompts: Tensor) -> Tensor:
        """Compute logits [K, h * patch, w * patch] from features [C, h, w] and K prompts [K, P]."""
        decoder = self.network.decoder
        height, width = data.shape[1:]
        patches, everywhere = data.flatten(1).chunk(2)
        tokens = torch.cat([everywhere.mean(1, keepdim=True), patches], 1).T  # [1 + h * w, levels * R]
        x = torch.zeros((), device=data.device)
        levels = tokens.chunk(len(decoder.layers), 1)
        for i, (layer, level) in enumerate(zip(decoder.layers, levels, strict=True)):
            x = x + level
            if i == decoder.conditional_layer:
                x = decoder.film_mul(prompts)[:, None] * x + decoder.film_add(prompts)[:, None]
            x = _layer(layer, x.expand(len(prompts), -1, -1))
        maps = x[:, 1:].mT.reshape(len(prompts), -1, height, width)
        return decoder.transposed_convolution(maps)[:, 0]

    def _no_text(self) -> ModelError:
        return ModelError(f"model {self.spec.name}: segment into what? hint: --text chair --text floor")


def _layer(layer: nn.Module, x: Tensor) -> Tensor:
    """Run a decoder layer, normalised after each part; part by part, as its arguments differ between versions."""
    x = layer.layer_norm1(x + layer.self_attn(x)[0])
    return layer.layer_norm2(x + layer.mlp(x))
