"""The seam between lift3d and a 2D model: a model is an encoder and a decoder, split at a feature map."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lift3d_cli.errors import ModelError
from lift3d_cli.geometry.grids import FeatureGrid, sample_map

# Names become folder names and command-line words.
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True)
class ModelSpec:
    """What the command line must know of a model before it is loaded.

    Args:
        name: what `--model` takes; lower case, digits and hyphens.
        channels: C of the feature map.
        stride: image pixels per feature cell.
        tasks: what `decode --task` can do with the features; the first is the default.
        version: changes whenever the features of the same photo change, so that cached ones are not reused.
        license: SPDX identifier of the weights' licence.
        summary: one line for `lift3d models`.
        max_size: longest side, in pixels, that photos are shrunk to first unless the user says otherwise; None: none.
        scale: of task `superres`: its result is this many times as wide and high as the view.
        hub: Hugging Face repository of the weights; "" if they ship with lift3d or the user names a file.
        revision: commit of it.
        download_bytes: of the weights there.
        extra: of lift3d's optional extras, the one that has the libraries: `pip install "lift3d-cli[EXTRA]"`.

    Raises:
        ModelError: if one of these is not what it must be.
    """

    name: str
    channels: int
    stride: int
    tasks: tuple[str, ...]
    version: str = "1"
    license: str = "unknown"
    summary: str = ""
    max_size: int | None = None
    scale: int = 1
    hub: str = ""
    revision: str = ""
    download_bytes: int = 0
    extra: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ModelError(f"model name {self.name!r} is not lower-case letters, digits and single hyphens")
        for field in ("channels", "stride", "scale"):
            value = getattr(self, field)
            if type(value) is not int or value < 1:
                raise ModelError(f"model {self.name}: spec has {field} {value!r}, needs a whole number above 0")
        # A tuple by rule: tasks="rgb" would otherwise pass as the three tasks r, g and b.
        named = isinstance(self.tasks, tuple) and all(isinstance(t, str) and _NAME.fullmatch(t) for t in self.tasks)
        if not named or not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ModelError(f"model {self.name}: spec has tasks {self.tasks!r}, needs names such as ('segment',)")
        for field in ("version", "license", "summary", "hub", "revision", "extra"):
            if not isinstance(getattr(self, field), str) or "\n" in getattr(self, field):
                raise ModelError(f"model {self.name}: spec has {field} {getattr(self, field)!r}, needs a line of text")


@dataclass(frozen=True)
class FeatureMap:
    """Features of one image.

    Args:
        data: [C, h, w] floating point.
        grid: where the h x w cells lie in the image.
    """

    data: Tensor
    grid: FeatureGrid

    def at_pixels(self, width: int, height: int) -> Tensor:
        """The features at each pixel centre of an image of this size, interpolated: [C, height, width].

        Follows the grid exactly, so padding beyond the image is left out.
        """
        v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        return self.at(torch.stack([u, v], -1))

    def at(self, uv: Tensor) -> Tensor:
        """The features at pixels `uv` [..., 2] of the image, interpolated: [C, ...]."""
        # float32 positions: in half precision, pixels beyond 2048 have no centre.
        place = uv * torch.tensor(self.grid.scale) + torch.tensor(self.grid.offset)
        return sample_map(self.data[None].float(), place[None].to(self.data.device))[0].to(self.data.dtype)

    def finer(self, data: Tensor) -> FeatureMap:
        """`data` [c, n * h, n * w], made from this map by upsampling `n` times, with its own grid."""
        times_x, times_y = data.shape[2] // self.grid.width, data.shape[1] // self.grid.height
        scale = (self.grid.scale[0] * times_x, self.grid.scale[1] * times_y)
        offset = (self.grid.offset[0] * times_x, self.grid.offset[1] * times_y)
        return FeatureMap(data, FeatureGrid(data.shape[2], data.shape[1], scale, offset))


@dataclass(frozen=True)
class RenderedView:
    """What a decoder may use beside the features.

    Args:
        image: [3, H, W] rendered (or real) colour in [0, 1] sRGB.
        coverage: [H, W] in [0, 1]: how much of each pixel was seen by a source photo.
    """

    image: Tensor
    coverage: Tensor


@dataclass(frozen=True)
class Segmentation:
    """A result of task `segment`.

    Args:
        scores: [K, H, W] how much each pixel is of each class, >= 0, adding up to 1.
        names: K names of the classes, for the legend.
        colors: K times (red, green, blue), 0 to 255, or none for lift3d's own.
    """

    scores: Tensor
    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True)
class DecodeOptions:
    """What the user asks for beyond the name of a task. A decoder takes what it needs, and refuses to go without.

    Args:
        text: prompts of classes.
        strokes: [H, W, 3] uint8, of the size of a source photo: where the user painted a colour, the colour's class;
            black where not. Or None.
        strokes_view: name of that photo.
        clusters: number of classes to find; 0 for none.
        point: (u, v) in [0, 1] of the width and height of photo `point_view`, on the thing to segment; or None.
        point_view: name of that photo.
        style: [3, H, W] in [0, 1] picture whose style to take, or None.
    """

    text: tuple[str, ...] = ()
    strokes: Tensor | None = None
    strokes_view: str = ""
    clusters: int = 0
    point: tuple[float, float] | None = None
    point_view: str = ""
    style: Tensor | None = None


@dataclass(frozen=True)
class DecodeContext:
    """All that a task is about, for what all frames must have in common: a colour basis, classes, a style.

    Args:
        task: one of the spec's.
        options: see there.
        frames: features of every frame, read one by one as they are asked for.
        photo: by name, a source photo: its features and its pixels [3, H, W].
            Raises SceneError if there is none of this name.
    """

    task: str
    options: DecodeOptions
    frames: Sequence[FeatureMap]
    photo: Callable[[str], tuple[FeatureMap, Tensor]]


Decoder = Callable[[FeatureMap, RenderedView], "Tensor | Segmentation"]
"""Decodes the frames of one task, one by one."""


class Model(nn.Module):
    """A 2D model, split. Subclass it, set `spec`, write `encode` and `decode`; `docs/adding-a-model.md` shows one.

    It is an `nn.Module`: parameters and buffers move with `.to(device)`, and their bytes are part of the cache key.
    """

    spec: ModelSpec

    def grid(self, width: int, height: int) -> FeatureGrid:
        """Where the feature cells of an image of this size (pixels) lie. The default pads to whole strides."""
        return FeatureGrid.from_stride(width, height, self.spec.stride)

    def encode(self, image: Tensor) -> FeatureMap:
        """Encode one image [3, H, W] in [0, 1] sRGB, of any size; the map's grid is `self.grid(W, H)`."""
        raise NotImplementedError

    def decode(self, features: FeatureMap, view: RenderedView, task: str) -> Tensor:
        """Decode features of a view to an image [3, H, W] in [0, 1], H x W being the size of `view.image`.

        `features.grid` is in pixels of `view.image`. They need not be `spec.stride` pixels a cell: a large view keeps
        the cells that photos of `spec.max_size` have. `features.at_pixels` follows the grid whatever it is.
        """
        raise NotImplementedError

    def decoder(self, context: DecodeContext) -> Decoder:
        """Prepare a task, and return what decodes its frames; the default is `decode`.

        For tasks that need options, or something that all frames share. A frame becomes an image [3, H, W] in [0, 1]
        of the view's size (`spec.scale` times that for task `superres`), or a `Segmentation` of the view's size.

        Raises:
            ModelError: if an option that the task needs is not given.
        """
        return lambda features, view: self.decode(features, view, context.task)

    def encode_photo(self, image: Tensor, name: str) -> FeatureMap:
        """Encode a photo of the scene; for models that must know which one it is. The default is `encode`.

        Args:
            image: see `encode`.
            name: of the photo, as in the scene.
        """
        return self.encode(image)

    def preprocessing(self) -> dict[str, object]:
        """Settings of `encode` beyond the weights that change the features; part of the cache key."""
        return {}

    @torch.inference_mode()
    def checked_encode(self, image: Tensor, name: str = "") -> FeatureMap:
        """`encode`, or of the photo `name` of the scene `encode_photo`, held to the model's own declaration.

        Raises:
            ModelError: if channels or grid are not the declared ones, or a value is not finite.
        """
        features = self.encode_photo(image, name) if name else self.encode(image)
        grid = self.grid(image.shape[2], image.shape[1])
        want = (self.spec.channels, grid.height, grid.width)
        if tuple(features.data.shape) != want or features.grid != grid:
            raise ModelError(
                f"model {self.spec.name}: encode() gave features {tuple(features.data.shape)} on {features.grid}, "
                f"its spec and grid() say {want} on {grid}"
            )
        if not torch.isfinite(features.data).all():
            raise ModelError(f"model {self.spec.name}: encode() gave NaN or infinite features")
        return features


def check_model_class(candidate: object, where: str) -> None:
    """Refuse what is not a usable model class; `where` says which reference led to it.

    Raises:
        ModelError: if it is not a subclass of Model with a ModelSpec as its `spec`.
    """
    if not (isinstance(candidate, type) and issubclass(candidate, Model)):
        raise ModelError(f"{where} is not a model: it must be a class derived from lift3d_cli.Model")
    if not isinstance(getattr(candidate, "spec", None), ModelSpec):
        raise ModelError(
            f"{where} has no spec. hint: spec = ModelSpec(name=..., channels=..., stride=..., tasks=(...,))"
        )
    for method in ("encode", "decode"):
        if getattr(candidate, method) is getattr(Model, method):
            raise ModelError(f"{where} has no {method}(). hint: see docs/adding-a-model.md")
