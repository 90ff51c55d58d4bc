"""The interface of 2D models: a model is an encoder and a decoder, split at a feature map."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from lift3d_cli.errors import ModelError
from lift3d_cli.geometry.grids import FeatureGrid, sample_map

# Names become folder names and command-line words.
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
# Licences that let anybody use the weights commercially without a fee. DINOv3's and OpenRAIL-M forbid some purposes.
_COMMERCIAL = {"Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "ISC", "CC0-1.0", "CC-BY-4.0"}
_COMMERCIAL |= {"LicenseRef-DINOv3", "LicenseRef-CreativeML-OpenRAIL-M"}
T = TypeVar("T")


@dataclass(frozen=True)
class ModelSpec:
    """Facts about a model that the command line needs before it is loaded.

    Args:
        name: the `--model` argument; lower case, digits and hyphens.
        channels: C of the feature map.
        stride: image pixels per feature cell.
        tasks: tasks of `decode --task` that its features allow; the first is the default.
        version: must change whenever the features of the same photo change, so that cached ones are not reused.
        license: SPDX identifier of the weights' licence.
        summary: one line for `lift3d models`.
        max_size: longest side, in pixels, that photos are shrunk to by default; None to keep their size.
        scale: for task `superres`: width and height of its result relative to the view's.
        hub: Hugging Face repository of the weights; "" if they ship with lift3d or the user names a file.
        revision: commit of that repository.
        download_bytes: size of the weights there.
        url: page of the weights' files, which the user gets, if they neither ship with lift3d nor are on the hub.
        extra: the optional extra of lift3d with the model's libraries: `pip install "lift3d-cli[EXTRA]"`.

    Raises:
        ModelError: if one of these is invalid.
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
    url: str = ""
    extra: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ModelError(f"model name {self.name!r} is not lower-case letters, digits and single hyphens")
        for field in ("channels", "stride", "scale"):
            value = getattr(self, field)
            if type(value) is not int or value < 1:
                raise ModelError(f"model {self.name}: spec has {field} {value!r}, needs a whole number above 0")
        # Must be a tuple: tasks="rgb" would otherwise pass as the three tasks r, g and b.
        named = isinstance(self.tasks, tuple) and all(isinstance(t, str) and _NAME.fullmatch(t) for t in self.tasks)
        if not named or not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ModelError(f"model {self.name}: spec has tasks {self.tasks!r}, needs names such as ('segment',)")
        for field in ("version", "license", "summary", "hub", "revision", "url", "extra"):
            if not isinstance(getattr(self, field), str) or "\n" in getattr(self, field):
                raise ModelError(f"model {self.name}: spec has {field} {getattr(self, field)!r}, needs a line of text")

    @property
    def commercial(self) -> bool:
        """True if the licence is known to allow commercial use without a fee."""
        return all(part in _COMMERCIAL for part in self.license.split(" AND "))


@dataclass(frozen=True)
class FeatureMap:
    """Features of one image.

    Args:
        data: [C, h, w] floating point.
        grid: grid of the h x w cells in the image.
        points: [3, h, w] where in the world is what the cells show, NaN where that is unknown; or None.
    """

    data: Tensor
    grid: FeatureGrid
    points: Tensor | None = None

    def at_pixels(self, width: int, height: int) -> Tensor:
        """Interpolate the features at each pixel centre of an image of this size: [C, height, width].

        Follows the grid exactly, so padding beyond the image is left out.
        """
        v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        return self.at(torch.stack([u, v], -1))

    def at(self, uv: Tensor) -> Tensor:
        """Interpolate the features at pixels `uv` [..., 2] of the image: [C, ...]."""
        # float32 positions: half precision cannot represent pixel centres beyond 2048.
        place = uv * torch.tensor(self.grid.scale) + torch.tensor(self.grid.offset)
        return sample_map(self.data[None].float(), place[None].to(self.data.device))[0].to(self.data.dtype)

    def finer(self, data: Tensor) -> FeatureMap:
        """Return `data` [c, n * h, n * w], made from this map by upsampling `n` times, as a map with its own grid."""
        times_x, times_y = data.shape[2] // self.grid.width, data.shape[1] // self.grid.height
        scale = (self.grid.scale[0] * times_x, self.grid.scale[1] * times_y)
        offset = (self.grid.offset[0] * times_x, self.grid.offset[1] * times_y)
        return FeatureMap(data, FeatureGrid(data.shape[2], data.shape[1], scale, offset))


@dataclass(frozen=True)
class RenderedView:
    """The rendered colours of a frame, which a decoder may use in addition to its features.

    Args:
        image: [3, H, W] rendered (or real) colour in [0, 1] sRGB.
        coverage: [H, W] in [0, 1]: how much of each pixel some source photo sees.
    """

    image: Tensor
    coverage: Tensor


@dataclass(frozen=True)
class Segmentation:
    """A result of task `segment`.

    Args:
        scores: [K, H, W] score of each class, >= 0, adding up to 1.
        names: K names of the classes, for the legend.
        colors: K times (red, green, blue), 0 to 255, or none for lift3d's own.
    """

    scores: Tensor
    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True)
class DecodeOptions:
    """The user's options for a task. A decoder uses those it needs, and raises an error if they are missing.

    Args:
        text: prompts of classes.
        strokes: [H, W, 3] uint8, of the size of a source photo: the colour of a class where the user painted, else
            black;
                or None.
        strokes_view: name of that photo.
        clusters: number of classes to find; 0 for none.
        point: (u, v) in [0, 1] of the width and height of photo `point_view`, on the object to segment; or None.
        point_view: name of that photo.
        style: [3, H, W] in [0, 1] picture to take the style from, or None.
    """

    text: tuple[str, ...] = ()
    strokes: Tensor | None = None
    strokes_view: str = ""
    clusters: int = 0
    point: tuple[float, float] | None = None
    point_view: str = ""
    style: Tensor | None = None


class OnAccess(Sequence[T]):
    """A sequence whose items are read when they are asked for.

    Args:
        count: number of items.
        read: reads one, by its index.
    """

    def __init__(self, count: int, read: Callable[[int], T]) -> None:
        self._count = count
        self._read = read

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> T:
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._read(index)


@dataclass(frozen=True)
class DecodeContext:
    """The inputs of a task for what all frames share: a colour basis, classes, a style.

    Args:
        task: one of the spec's tasks.
        options: the user's options.
        frames: features of all frames, read on access.
        photo: returns a source photo's features and pixels [3, H, W] by its name; raises SceneError if there is none.
        views: rendered colours of all frames, read on access.
    """

    task: str
    options: DecodeOptions
    frames: Sequence[FeatureMap]
    photo: Callable[[str], tuple[FeatureMap, Tensor]]
    views: Sequence[RenderedView] = ()


Decoder = Callable[[FeatureMap, RenderedView], "Tensor | Segmentation"]
"""Decodes the frames of one task, one by one."""


class Model(nn.Module):
    """A split 2D model. Subclass it, set `spec`, write `encode` and `decode`; see `docs/adding-a-model.md`.

    It is an `nn.Module`: parameters and buffers move with `.to(device)`, and their bytes are part of the cache key.
    """

    spec: ModelSpec

    def grid(self, width: int, height: int) -> FeatureGrid:
        """Return the grid of the feature cells of an image of this size (pixels). The default pads to whole strides."""
        return FeatureGrid.from_stride(width, height, self.spec.stride)

    def encode(self, image: Tensor) -> FeatureMap:
        """Encode one image [3, H, W] in [0, 1] sRGB, of any size; the map's grid is `self.grid(W, H)`."""
        raise NotImplementedError

    def decode(self, features: FeatureMap, view: RenderedView, task: str) -> Tensor:
        """Decode features of a view to an image [3, H, W] in [0, 1], where H x W is the size of `view.image`.

        `features.grid` is in pixels of `view.image`. Its cells need not span `spec.stride` pixels: a large view keeps
        the cell size of photos of `spec.max_size`. `features.at_pixels` follows any grid.
        """
        raise NotImplementedError

    def decoder(self, context: DecodeContext) -> Decoder:
        """Prepare a task, and return its decoder of frames; the default is `decode`.

        For tasks that need options, or something that all frames share. A frame becomes an image [3, H, W] in [0, 1]
        of the view's size (`spec.scale` times that for task `superres`), or a `Segmentation` of the view's size.

        Raises:
            ModelError: if an option that the task needs is missing.
        """
        return lambda features, view: self.decode(features, view, context.task)

    def encode_photo(self, image: Tensor, name: str) -> FeatureMap:
        """Encode a photo of the scene, for models that must know which one it is. The default is `encode`.

        Args:
            image: see `encode`.
            name: name of the photo in the scene.
        """
        return self.encode(image)

    def preprocessing(self) -> dict[str, object]:
        """Return settings of `encode`, other than weights, that change the features; part of the cache key."""
        return {}

    @torch.inference_mode()
    def checked_encode(self, image: Tensor, name: str = "") -> FeatureMap:
        """Run `encode` (or `encode_photo`, for the photo `name` of the scene), and check its result.

        Raises:
            ModelError: if channels or grid are not as declared, or a value is not finite.
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
    """Check that a class is a usable model; `where` says which reference led to it.

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
