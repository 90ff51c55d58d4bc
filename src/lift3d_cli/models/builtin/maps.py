"""`maps`: feature maps that the user computed with any network, one file per photo: `maps:FOLDER?stride=14`."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.errors import ModelError
from lift3d_cli.geometry.grids import FeatureGrid
from lift3d_cli.models.base import FeatureMap, ModelSpec
from lift3d_cli.models.heads import FeatureModel

SUFFIXES = (".npy", ".pt", ".safetensors")
# Names of the tensor to use where a file has several.
_TENSOR_NAMES = ("features", "data")
_READ_BYTES = 2**20


class Maps(FeatureModel):
    """Reads a folder of maps as features of the scene's photos; it has no network to encode anything else.

    Photo `images/0001.jpg` has the file `0001` or `images/0001` in the folder, ending in `.npy`, `.pt` or
    `.safetensors`.

    A map belongs to the photo as lift3d encodes it: without lens distortion, and shrunk with `--max-size`.
    """

    # Channels and stride depend on the folder: these values mean "unknown".
    spec = ModelSpec(
        name="maps",
        channels=1,
        stride=1,
        tasks=("features", "segment"),
        summary="feature maps of your own, a file per photo: maps:FOLDER?stride=14",
    )

    def __init__(self, checkpoint: str = "", stride: str = "", fit: str = "pad", layout: str = "chw") -> None:
        """Open a folder of maps; only one map is read, for its number of channels.

        Args:
            checkpoint: the folder.
            stride: pixels of the encoded photo per cell.
            fit: "pad" if cells begin at the photo's corner and span `stride` pixels, with the last ones reaching over
                its edge
                    or left out; "stretch" if the photo was resized to whole cells, so that they cover it exactly.
            layout: "chw" for arrays [C, h, w] or [1, C, h, w], "hwc" for [h, w, C] or [1, h, w, C].

        Raises:
            ModelError: if there is no folder with maps, or a setting is invalid.
        """
        super().__init__()
        self._folder = Path(checkpoint)
        if not checkpoint or not os.path.isdir(self._folder):
            missing = f"there is no folder {checkpoint}" if checkpoint else "it needs a folder"
            raise self._error(f"{missing}. hint: --model 'maps:FOLDER?stride=14'")
        if not (stride.isascii() and stride.isdigit() and int(stride) > 0):
            raise self._error(f"stride is {stride!r}, needs pixels per cell. hint: 'maps:{checkpoint}?stride=14'")
        for setting, value, known in (("fit", fit, ("pad", "stretch")), ("layout", layout, ("chw", "hwc"))):
            if value not in known:
                raise self._error(f"{setting} is {value!r}. hint: {setting}={' or '.join(known)}")
        self._fit = fit
        self._layout = layout
        # Only these files are used, so that `preprocessing` covers all maps.
        self._files = _map_files(self._folder)
        if not self._files:
            raise self._error(f"{checkpoint} has no maps. hint: one {', '.join(SUFFIXES)} file per photo")
        channels = len(self._read(self._files[0]))
        self.spec = dataclasses.replace(type(self).spec, channels=channels, stride=int(stride))
        self._photo_of: dict[Path, str] = {}

    def grid(self, width: int, height: int) -> FeatureGrid:
        """See `Model`; with fit=stretch, whole cells that cover the image exactly."""
        if self._fit == "pad":
            return super().grid(width, height)
        w, h = (max(1, round(pixels / self.spec.stride)) for pixels in (width, height))
        return FeatureGrid(w, h, (w / width, h / height))

    def encode(self, image: Tensor) -> FeatureMap:
        """Raise ModelError: only photos of the scene have maps."""
        raise self._error("has maps of the scene's photos only, and cannot encode another image")

    def encode_photo(self, image: Tensor, name: str) -> FeatureMap:
        """Return the map of the photo `name`, on the grid of `image` [3, H, W].

        Raises:
            ModelError: if it is missing, cannot be read, or has another size.
        """
        path = self._find(name)
        data = self._read(path)
        grid = self.grid(image.shape[2], image.shape[1])
        if len(data) != self.spec.channels:
            raise self._error(f"{path} has {len(data)} channels, the folder's first map has {self.spec.channels}")
        missing = (grid.height - data.shape[1], grid.width - data.shape[2])
        # A network that takes only whole cells, without padding, leaves out a partial cell at the edge.
        started = [self._fit == "pad" and pixels % self.spec.stride > 0 for pixels in image.shape[1:]]
        if any(short not in (0, int(allowed)) for short, allowed in zip(missing, started, strict=True)):
            raise self._error(self._mismatch(path, data, image, grid))
        return FeatureMap(F.pad(data[None], (0, missing[1], 0, missing[0]), mode="replicate")[0].to(image.device), grid)

    def preprocessing(self) -> dict[str, object]:
        """Return the settings, and a sha256 over the names and contents of all maps."""
        digest = hashlib.sha256()
        for path in self._files:
            name = path.relative_to(self._folder).as_posix().encode()
            digest.update(b"%d %d " % (len(name), path.stat().st_size) + name)
            with path.open("rb") as file:
                while block := file.read(_READ_BYTES):
                    digest.update(block)
        return {"stride": self.spec.stride, "fit": self._fit, "layout": self._layout, "maps": digest.hexdigest()}

    def _find(self, name: str) -> Path:
        """Find a photo's only file, and record it, so that no other photo uses it too."""
        photo = PurePosixPath(name)
        stems = dict.fromkeys((photo.stem, str(photo.parent / photo.stem)))
        paths = [self._folder / (stem + suffix) for stem in stems for suffix in SUFFIXES]
        found = [path for path in paths if os.path.isfile(path) and path in self._files]
        if not found:
            looked = " and ".join(stems)
            raise self._error(f"photo {name} has no map: looked for {looked} ({', '.join(SUFFIXES)}) in {self._folder}")
        if len(found) > 1:
            raise self._error(f"photo {name} has two maps, {found[0]} and {found[1]}. hint: delete one")
        if self._photo_of.setdefault(found[0], name) != name:
            raise self._error(
                f"{found[0]} is the map of two photos, {self._photo_of[found[0]]} and {name}. "
                f"hint: folders as those of the photos, such as {self._folder / photo.parent}"
            )
        return found[0]

    def _read(self, path: Path) -> Tensor:  # [C, h, w] float32
        try:
            data = _read_tensor(path).detach().to_dense().cpu().float()  # raises an error for the meta device
        except Exception as e:  # three libraries, and hostile files
            raise self._error(f"{path} cannot be read as a map ({' '.join(str(e).split())[:160]})") from e
        data = data[0] if data.dim() == 4 and len(data) == 1 else data
        axes = "[C, h, w]" if self._layout == "chw" else "[h, w, C]"
        if data.dim() != 3 or not data.numel():
            raise self._error(f"{path} is {list(data.shape)}, not {axes}")
        if not torch.isfinite(data).all():
            raise self._error(f"{path} has NaN or infinite values")
        return data if self._layout == "chw" else data.permute(2, 0, 1).contiguous()

    def _mismatch(self, path: Path, data: Tensor, image: Tensor, grid: FeatureGrid) -> str:
        (height, width), stride = image.shape[1:], self.spec.stride
        if self._layout == "chw" and data.shape[:2] == (grid.height, grid.width):
            return f"{path} is {list(data.shape)}, which looks like [h, w, C]. hint: layout=hwc"
        line = (
            f"{path} is {data.shape[2]}x{data.shape[1]} cells; the photo, {width}x{height} pixels, has "
            f"{grid.width}x{grid.height} cells of {stride} with fit={self._fit}. hint: "
        )
        if self._fit == "stretch":
            line += f"resize photos to {grid.width * stride}x{grid.height * stride} for the network"
        else:
            line += "fit=stretch if the photo was resized for the network"
        return f"{line}, or --max-size if the maps are of smaller photos"

    def _error(self, what: str) -> ModelError:
        return ModelError(f"model maps: {what}")


def _map_files(folder: Path) -> list[Path]:
    # Hidden folders are left out: one is lift3d's own cache, if the maps are beside the photos.
    found = (path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    return sorted(path for path in found if not any(part[0] == "." for part in path.relative_to(folder).parts))


def _read_tensor(path: Path) -> Tensor:
    """Read the array of a file; pickles run no code: `.npy` without objects, `.pt` with `weights_only`.

    Raises:
        ValueError: if the file has none, or several.
    """
    if path.suffix == ".npy":
        import numpy as np

        array = np.load(path, allow_pickle=False)
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
            raise ValueError(f"{getattr(array, 'dtype', 'an archive')}, not an array of numbers")
        return torch.from_numpy(array.astype(np.float32))  # also converts byte orders that torch does not support
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return _only_tensor(load_file(path))
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    return loaded if isinstance(loaded, Tensor) else _only_tensor(loaded)


def _only_tensor(found: object) -> Tensor:
    tensors = {k: v for k, v in found.items() if isinstance(v, Tensor)} if isinstance(found, Mapping) else {}
    chosen = [tensors[name] for name in _TENSOR_NAMES if name in tensors] if len(tensors) > 1 else [*tensors.values()]
    if len(chosen) != 1:
        raise ValueError(f"{len(tensors)} tensors, needs one, or one named {' or '.join(_TENSOR_NAMES)}")
    return chosen[0]
