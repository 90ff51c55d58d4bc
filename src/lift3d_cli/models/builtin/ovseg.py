"""`ovseg`: open-vocabulary segmentation by mask proposals and CLIP on each (OVSeg, Liang et al., CVPR 2023).

MaskFormer makes a map of mask features at stride 4, which is what is lifted, and some hundred queries; the dot product
of a query and the features is the logit of a mask. Here the queries come from the rendered colour of some frames, where
they are classified too, and are the same for all frames: their masks in a frame are of its lifted features.
"""

from __future__ import annotations

import dataclasses
import math
import textwrap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lift3d_cli.errors import ModelError
from lift3d_cli.geometry.grids import FeatureGrid
from lift3d_cli.models.base import DecodeContext, Decoder, FeatureMap, Model, ModelSpec, RenderedView, Segmentation
from lift3d_cli.models.builtin.mask_clip import MaskClip
from lift3d_cli.models.builtin.ovseg_layout import (
    class_embedder,
    clip_sizes,
    clip_state,
    mask_former_sizes,
    mask_former_state,
)
from lift3d_cli.models.builtin.vit import IMAGENET_MEAN, IMAGENET_STD
from lift3d_cli.models.heads import evenly_spread
from lift3d_cli.models.pretrained import (
    build_transformers,
    from_pretrained,
    hub_file,
    load_transformers,
    read_state,
    require,
)

_NETWORKS = {
    "maskformer": "MaskFormerForInstanceSegmentation",
    "mask2former": "Mask2FormerForUniversalSegmentation",
}
_OFFICIAL = "ovseg_swinbase_vitL14_ft_mpt.pth"
_MASK_FORMER = "facebook/maskformer-swin-base-coco"
_CLIP = "openai/clip-vit-large-patch14", "32bd64288804d66eefd0ccbe215aa642df71cc41"
_DEEPEST_STRIDE = 32
# CLIP_ADAPTER.MASK_THR and CLIP_ENSEMBLE_WEIGHT of the configuration that the published figures are of (ADE20K-150).
_MASK_THRESHOLD, _CLIP_WEIGHT = 0.4, 0.7
_TEMPERATURE = 100.0  # get_sim_logits
_OTHERS = "others"  # what OVSeg's demo compares a single class with
# Frames that queries are taken from; CLIP reads about a hundred crops of each.
_MAX_VIEWS = 8
# Two queries of different frames mean the same thing if their masks overlap so much, over all of these frames.
_SAME, _CELLS = 0.5, 2048  # cells of each frame that are looked at
_CHUNK = 16  # masks in the view's full size at once


@dataclasses.dataclass(frozen=True)
class _Queries:
    """Queries of one frame or several.

    Args:
        masks: [Q, C] their mask embeddings.
        scores: [Q, K] how much each is of each class.
        frame: [Q] the frame that each is from.
    """

    masks: Tensor
    scores: Tensor
    frame: Tensor


class OvSeg(Model):
    """OVSeg's own checkpoint, or any MaskFormer or Mask2Former of transformers with any CLIP.

    OVSeg's has its own CLIP, with learned mask prompts, and a second score: queries are embedded in CLIP's space. With
    another network, the score is CLIP's alone.
    """

    spec = ModelSpec(
        name="ovseg",
        channels=256,
        stride=4,
        tasks=("segment",),
        version="1",
        license="CC-BY-NC-4.0",
        summary="finds what --text says, by mask proposals and CLIP on each (OVSeg); not for commercial use",
        url="https://github.com/facebookresearch/ov-seg",
        max_size=864,  # a photo of 4:3 is then 648 high; it was evaluated at 640
        extra="hf",
    )

    def __init__(self, checkpoint: str = "") -> None:
        """Load the networks.

        Args:
            checkpoint: `FILE` of OVSeg, or a folder or `owner/repository@revision` of a MaskFormer; then, after a
                comma, the folder or repository of CLIP, of which OVSeg needs the tokenizer only; without it OpenAI's
                ViT-L/14.
        """
        super().__init__()
        masks, _, clip = checkpoint.partition(",")
        if not masks:
            raise ModelError(
                f"model ovseg: of which weights? hint: --model ovseg:{_OFFICIAL} (github.com/facebookresearch/ov-seg), "
                f"or a MaskFormer, --model ovseg:{_MASK_FORMER}; for commercial use --model clipseg"
            )
        if Path(masks).suffix in (".pth", ".pt", ".safetensors") and not Path(masks).is_dir():
            self._load_official(hub_file(self.spec, "", masks), clip)
            licence = self.spec.license
        else:
            self.network = load_transformers(_spec_of(_MASK_FORMER), _NETWORKS, masks)
            network = load_transformers(_spec_of(*_CLIP), {"clip": "CLIPModel"}, clip, f"{masks},FOLDER")
            self.clip = MaskClip(network, _tokenizer(network, masks, clip))
            self.embedder, licence = None, "unknown"
        channels = self.network.config.mask_feature_size
        self.spec = dataclasses.replace(type(self).spec, channels=channels, license=licence)

    def _load_official(self, path: Path, clip: str) -> None:
        """Load a checkpoint in detectron2's layout, see `ovseg_layout`."""
        spec = _spec_of(_OFFICIAL)
        transformers = require(spec, "transformers")
        state = read_state(spec, path)
        try:
            config = transformers.MaskFormerConfig(**mask_former_sizes(state))
            clip_config = transformers.CLIPConfig(**clip_sizes(state))
            weights, clip_weights, self.embedder = mask_former_state(state), clip_state(state), class_embedder(state)
            prompts = state["clip_adapter.clip_model.visual.mask_embedding"].float()
            self.register_buffer("nothing", state["clip_adapter.non_object_embedding"].float())
        except (KeyError, IndexError, RuntimeError, TypeError, ValueError) as e:
            reason = textwrap.shorten(str(e), 100, placeholder=" ...")
            raise ModelError(
                f"model ovseg: {path} does not hold OVSeg with a Swin backbone ({type(e).__name__}: {reason}). "
                f"hint: {_OFFICIAL} of github.com/facebookresearch/ov-seg"
            ) from e
        absent = ("class_predictor.", "criterion.")
        self.network = build_transformers(spec, _NETWORKS["maskformer"], config, weights, path, absent)
        self.network.class_predictor = self.network.criterion = nn.Identity()  # they would be random
        network = build_transformers(spec, "CLIPModel", clip_config, clip_weights, path)
        self.clip = MaskClip(network, _tokenizer(network, str(path), clip), prompts)

    def grid(self, width: int, height: int) -> FeatureGrid:
        """Return the cells of the image and of its padding to whole cells of the deepest stride."""
        return FeatureGrid.from_stride(*(n + -n % _DEEPEST_STRIDE for n in (width, height)), self.spec.stride)

    def encode(self, image: Tensor) -> FeatureMap:
        """Encode a photo [3, H, W]; right and bottom are padded by the mean colour."""
        data = self.network.model.pixel_level_module(_normalized(image)).decoder_last_hidden_state[0]
        return FeatureMap(data, self.grid(image.shape[2], image.shape[1]))

    def decoder(self, context: DecodeContext) -> Decoder:
        """Segment into the prompts; "other" is what no mask covers, and of a single prompt, what "others" is better.

        Raises:
            ModelError: if there are no prompts, or one is blank.
        """
        names = context.options.text
        if not names or not all(name.strip() for name in names):
            raise self._no_text()
        words = (*names, _OTHERS) if len(names) == 1 else names
        queries = self.queries(context, self.clip.embed_words(words))

        def decode(features: FeatureMap, view: RenderedView) -> Segmentation:
            found = class_scores(features, queries, view.image.shape[2], view.image.shape[1])
            total = found.sum(0, keepdim=True)
            scores = torch.cat([found, (1 - total).clamp(min=0)]) / total.clamp(min=1)
            of_names = scores[: len(names)]
            return Segmentation(torch.cat([of_names, scores[len(names) :].sum(0, keepdim=True)]), (*names, "other"))

        return decode

    def decode(self, features: FeatureMap, view: RenderedView, task: str) -> Tensor:
        """Raise an error: there are no prompts, see `decoder`."""
        raise self._no_text()

    def queries(self, context: DecodeContext, words: Tensor) -> _Queries:
        """Choose queries over all frames: of those that several have of one thing, the one with the best score.

        Args:
            context: has the frames' features and colours.
            words: [K, D] directions of the classes.
        """
        chosen = evenly_spread(len(context.frames), _MAX_VIEWS)
        found, features = [], []
        for index in chosen:
            frame, view = context.frames[index], context.views[index]
            masks, scores = self._classified(frame, view.image, words)
            found.append(_Queries(masks, scores, torch.full((len(masks),), index, device=masks.device)))
            step = max(1, math.isqrt(frame.grid.width * frame.grid.height // _CELLS))
            features.append(frame.data[:, ::step, ::step].flatten(1).float())
        fields = (torch.cat([getattr(q, f.name) for q in found]) for f in dataclasses.fields(_Queries))
        return _distinct(_Queries(*fields), torch.cat(features, 1))

    def _classified(self, frame: FeatureMap, image: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """Return mask embeddings [Q, C] and scores [Q, K] of a frame's queries.

        Without OVSeg's own score, queries without a mask are left out.
        """
        masks, queries = self._propose(image)
        regions = []  # chunk by chunk, the masks that are somewhere, and their scores
        for start in range(0, len(masks), _CHUNK):
            shown = _masks(frame, masks[start : start + _CHUNK], image.shape[2], image.shape[1]) > _MASK_THRESHOLD
            valid = shown.flatten(1).any(1)
            scores = words.new_ones(len(shown), len(words))
            if valid.any():
                like = self.clip.embed_regions(image, shown[valid]) @ words.T
                scores[valid] = torch.softmax(_TEMPERATURE * like, 1)
            regions.append((valid, scores))
        valid, scores = (torch.cat(parts) for parts in zip(*regions, strict=True))
        if self.embedder is None:
            return masks[valid], scores[valid]
        classes = torch.cat([words, F.normalize(self.nothing, dim=1)])
        own = torch.softmax(_TEMPERATURE * F.normalize(self.embedder(queries), dim=1) @ classes.T, 1)[:, :-1]
        return masks, own ** (1 - _CLIP_WEIGHT) * scores**_CLIP_WEIGHT

    def _propose(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return mask embeddings [Q, C] of an image's queries, and the queries themselves, [Q, D]."""
        shrink = self.spec.max_size / max(image.shape[1:])
        if shrink < 1:
            size = [max(1, round(n * shrink)) for n in image.shape[1:]]
            image = F.interpolate(image[None], size=size, mode="bilinear", antialias=True, align_corners=False)[0]
        # The networks return masks, not what they are made of. Mask2Former's last masks are made last.
        decoder = self.network.model.transformer_module.decoder
        embedder = getattr(self.network, "mask_embedder", None) or decoder.mask_predictor.mask_embedder
        calls: list[tuple[Tensor, Tensor]] = []
        hook = embedder.register_forward_hook(lambda module, inputs, out: calls.append((inputs[0], out)))
        try:
            self.network(pixel_values=_normalized(image))
        finally:
            hook.remove()
        queries, masks = calls[-1]
        return masks[0], queries[0]

    def _no_text(self) -> ModelError:
        return ModelError(f"model {self.spec.name}: segment into what? hint: --text chair --text floor")


def class_scores(features: FeatureMap, queries: _Queries, width: int, height: int) -> Tensor:
    """Return the scores of classes [K, height, width] of a view: the sum over queries of score and mask."""
    out = queries.scores.new_zeros(queries.scores.shape[1], height, width)
    for start in range(0, len(queries.masks), _CHUNK):
        some = slice(start, start + _CHUNK)
        out += torch.einsum("qk,qhw->khw", queries.scores[some], _masks(features, queries.masks[some], width, height))
    return out


def _masks(features: FeatureMap, queries: Tensor, width: int, height: int) -> Tensor:
    """Return masks [Q, height, width] in [0, 1] of queries [Q, C]."""
    logits = torch.einsum("qc,chw->qhw", queries, features.data.float())
    return FeatureMap(logits, features.grid).at_pixels(width, height).sigmoid()


def _distinct(queries: _Queries, features: Tensor) -> _Queries:
    """Leave out queries whose mask over features [C, cells] is that of a better query of another frame."""
    shown = ((queries.masks @ features).sigmoid() > _MASK_THRESHOLD).float()
    common = shown @ shown.T
    area = common.diagonal()
    same = common > _SAME * (area[:, None] + area - common)
    rivals = (same & (queries.frame[:, None] != queries.frame)).cpu()
    kept = torch.zeros(len(shown), dtype=torch.bool)
    for index in queries.scores.amax(1).argsort(descending=True, stable=True).tolist():
        kept[index] = not (rivals[index] & kept).any()
    kept = kept.to(shown.device)
    return _Queries(*(getattr(queries, field.name)[kept] for field in dataclasses.fields(queries)))


def _normalized(image: Tensor) -> Tensor:
    """Normalise an image [3, H, W], and pad it right and bottom with its mean: [1, 3, H', W']."""
    mean, std = (image.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    height, width = image.shape[1:]
    return F.pad((image - mean) / std, (0, -width % _DEEPEST_STRIDE, 0, -height % _DEEPEST_STRIDE))[None]


def _spec_of(hub: str, revision: str = "") -> ModelSpec:
    """Return the spec, for loading one of the networks."""
    return dataclasses.replace(OvSeg.spec, hub=hub, revision=revision)


def _tokenizer(network: Any, masks: str, clip: str) -> Any:
    spec = _spec_of(*_CLIP)
    loader = require(spec, "transformers").PreTrainedTokenizerFast.from_pretrained  # as for `clip`
    tokenizer = from_pretrained(spec, loader, clip, f"{masks},FOLDER")
    words = network.config.text_config.vocab_size
    if len(tokenizer) != words:
        raise ModelError(
            f"model ovseg: {clip or spec.hub} has a tokenizer of {len(tokenizer)} words, its CLIP knows {words}. "
            f"hint: --model ovseg:{masks},FOLDER, of {spec.hub}"
        )
    return tokenizer
