"""`torchscript`: the user's own network, scripted in two halves: `torchscript:encoder.pt,decoder.pt`.

A scripted file runs its maker's code. TorchScript is a small language, but not a sandbox: load only files that you
trust.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.errors import ModelError
from lift3d_cli.geometry.grids import sample_map
from lift3d_cli.models.base import DecodeContext, Decoder, FeatureMap, ModelSpec, RenderedView
from lift3d_cli.models.heads import FeatureModel

# A multiple of all usual strides, including ViTs with patches of 14 and 16: 224 = 16 * 14 = 32 * 7.
_PROBE_PIXELS = 224


class TorchScript(FeatureModel):
    """Runs an encoder and, if given, a decoder, loaded with `torch.jit.load`. They run their maker's code.

    The encoder maps images [1, 3, H, W] in [0, 1] sRGB, H and W multiples of the stride, to features
    [1, C, H / stride, W / stride]. The decoder maps features [1, C, h, w], and if it has a second input the image
    [1, 3, h * stride, w * stride], to an image [1, 3, h * k, w * k] in [0, 1].
    """

    # Channels and stride depend on the encoder: these values mean "unknown".
    spec = ModelSpec(
        name="torchscript",
        channels=1,
        stride=1,
        tasks=("decode", "features", "segment"),
        summary="a network of your own, scripted: torchscript:encoder.pt,decoder.pt",
    )

    def __init__(self, checkpoint: str = "", stride: str = "") -> None:
        """Load the files, and run the encoder on two sizes to find its channels and stride.

        Args:
            checkpoint: file of the encoder, or of encoder and decoder separated by a comma.
            stride: stride of the encoder, if it does not take sides of 224 pixels; else it is found out.

        Raises:
            ModelError: if a file cannot be loaded, or the encoder has no whole stride.
        """
        super().__init__()
        self._files = [Path(part) for part in checkpoint.split(",")]
        if not checkpoint or len(self._files) > 2:
            raise _error("it needs one file or two. hint: --model torchscript:encoder.pt,decoder.pt")
        if stride and not (stride.isascii() and stride.isdigit() and int(stride) > 0):
            raise _error(f"stride is {stride!r}, needs pixels per cell. hint: leave it out, it is found out")
        self.networks = torch.nn.ModuleList(_load(path) for path in self._files)
        channels, found = self._probe(int(stride or 0))
        tasks = type(self).spec.tasks[0 if len(self._files) > 1 else 1 :]
        self.spec = dataclasses.replace(type(self).spec, channels=channels, stride=found, tasks=tasks)

    def encode(self, image: Tensor) -> FeatureMap:
        """Encode an image [3, H, W]; right and bottom are padded by replication to whole cells."""
        grid = self.grid(image.shape[2], image.shape[1])
        stride = self.spec.stride
        padding = (0, -image.shape[2] % stride, 0, -image.shape[1] % stride)
        data = self._run(0, F.pad(image[None], padding, mode="replicate"))
        if data.shape != (1, self.spec.channels, grid.height, grid.width):
            raise _error(
                f"{self._files[0]} gives {list(data.shape)} for an image {list(image.shape)}, needs "
                f"{[1, self.spec.channels, grid.height, grid.width]}"
            )
        return FeatureMap(data[0], grid)

    def decoder(self, context: DecodeContext) -> Decoder:
        """Prepare task `decode` with the scripted decoder, or another task with the features only; see `Model`.

        Raises:
            ModelError: for `decode` without a decoder.
        """
        if context.task != "decode":
            return super().decoder(context)
        if len(self._files) < 2:
            raise _error(
                f"has no decoder, only {self._files[0]}. hint: --task features, or encode with "
                f"--model torchscript:{self._files[0]},DECODER"
            )
        return self._decode

    def preprocessing(self) -> dict[str, object]:
        """Return a sha256 of each file: the code of a scripted network is not in its weights."""
        return {"files": [hashlib.sha256(path.read_bytes()).hexdigest() for path in self._files]}

    def _decode(self, features: FeatureMap, view: RenderedView) -> Tensor:
        """Decode to the image at the view's pixels: [3, H, W] in [0, 1]."""
        _, height, width = features.data.shape
        inputs = [features.data[None].float()]
        if _takes_image(self.networks[1]):
            inputs.append(self._image_on(features, view.image))
        out = self._run(1, *inputs)
        times = out.shape[2] // height if out.dim() == 4 else 0
        if times < 1 or out.shape != (1, 3, times * height, times * width):
            raise _error(
                f"{self._files[1]} gives {list(out.shape)} for features {list(inputs[0].shape)}, needs "
                f"[1, 3, {height} * k, {width} * k]"
            )
        return features.finer(out[0]).at_pixels(view.image.shape[2], view.image.shape[1]).clamp(0, 1)

    def _image_on(self, features: FeatureMap, image: Tensor) -> Tensor:  # [1, 3, h * stride, w * stride]
        """Resample the view's image to `stride` pixels per cell, as the encoder's input, with its border replicated."""
        _, height, width = features.data.shape
        stride = self.spec.stride
        pixels = features.finer(features.data.new_empty(0, height * stride, width * stride)).grid
        uv = pixels.cell_centers().reshape(1, pixels.height, pixels.width, 2)
        return sample_map(image[None], uv.to(image.device))

    def _probe(self, stride: int) -> tuple[int, int]:
        """Find the encoder's channels and stride, from a landscape and a portrait image.

        Args:
            stride: the user's argument, or 0.
        """
        side = stride * math.ceil(_PROBE_PIXELS / stride) if stride else _PROBE_PIXELS
        found = set()
        for height, width in ((side, 2 * side), (2 * side, side)):
            with torch.inference_mode():
                data = self._run(0, torch.full((1, 3, height, width), 0.5))
            if data.dim() != 4 or data.shape[0] != 1 or not data.numel():
                raise _error(f"{self._files[0]} gives {list(data.shape)}, needs features [1, C, h, w]")
            found |= {(data.shape[1], height / data.shape[2]), (data.shape[1], width / data.shape[3])}
        channels, whole = found.pop()
        if found or whole != int(whole) or (stride and whole != stride):
            raise _error(
                f"{self._files[0]} gives {list(data.shape)} for {list((1, 3, height, width))}: not of one whole stride"
                f"{f' of {stride}' if stride else ''}. hint: it must pad so that H x W become H / stride x W / stride"
            )
        return channels, int(whole)

    def _run(self, index: int, *inputs: Tensor) -> Tensor:
        """Run a network, and check that its result is float32 and finite."""
        path, shapes = self._files[index], " and ".join(str(list(x.shape)) for x in inputs)
        try:
            out = self.networks[index](*inputs)
        except Exception as e:  # from the maker's code
            # The last line is the error; above it is the place in the maker's code.
            reason = str(e).strip().splitlines()[-1:] or [type(e).__name__]
            raise _error(f"{path} fails on {shapes} ({reason[0][:160]})") from e
        if not isinstance(out, Tensor) or not out.is_floating_point():
            raise _error(f"{path} gives {getattr(out, 'dtype', type(out).__name__)}, needs one tensor of floats")
        if not torch.isfinite(out).all():
            raise _error(f"{path} gives NaN or infinite values for {shapes}")
        return out.float()


def _load(path: Path) -> torch.jit.ScriptModule:
    if not os.path.isfile(path):
        raise _error(f"there is no file {path}")
    try:
        network = torch.jit.load(path, map_location="cpu")
    except Exception as e:  # from a damaged or foreign file
        reason = " ".join(str(e).split(". ")[0].split())[:160]
        raise _error(f"{path} is no TorchScript ({reason}). hint: torch.jit.script(network).save('network.pt')") from e
    if not hasattr(network, "forward"):
        raise _error(f"{path} has no forward()")
    # Immediately: a network saved in training mode would change its BatchNorm averages in the first run.
    return network.eval()


def _takes_image(network: torch.jit.ScriptModule) -> bool:
    """Return True for `forward(self, features, image)`; further arguments must have defaults."""
    return any("Tensor" in str(argument.type) for argument in network.forward.schema.arguments[2:3])


def _error(what: str) -> ModelError:
    return ModelError(f"model torchscript: {what}")
