"""What a decode works with: the frames of a render as they are stored, and how one of them is decoded."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lift3d_cli.cache.renders import FrameMaps, Render
from lift3d_cli.config import DEPTH_SCALE, DecodeConfig
from lift3d_cli.errors import CacheError, ModelError, UsageError
from lift3d_cli.machine.background import touched
from lift3d_cli.machine.device import resolve_device
from lift3d_cli.machine.png import read_png
from lift3d_cli.models.base import (
    DecodeContext,
    Decoder,
    FeatureMap,
    OnAccess,
    RenderedView,
    Segmentation,
)
from lift3d_cli.models.edges import refined
from lift3d_cli.models.heads import principal_colors
from lift3d_cli.pipeline.decode_choice import FEATURES, choose_features, is_view_task
from lift3d_cli.pipeline.decode_options import NotedOptions, decode_options, flag_of, photo_index
from lift3d_cli.pipeline.encode import to_image
from lift3d_cli.pipeline.lifted_features import on_device, rendered_features, stored_features
from lift3d_cli.pipeline.render import CachedFeatures
from lift3d_cli.pipeline.results import Result
from lift3d_cli.pipeline.view_tasks import depth_picture, normals, shown_depths
from lift3d_cli.pipeline.workspace import Workspace

OpenWorkspace = Callable[[Path], Workspace]
_MOST_LEVEL = 65535


@dataclass(frozen=True)
class FrameInput:
    """A frame as it is stored.

    Args:
        index: index in the path.
        image: [3, H, W] uint8.
        maps: depth, coverage and confidence.
        features: of the model, if there is one.
    """

    index: int
    image: Tensor
    maps: FrameMaps
    features: FeatureMap | None = None

    def layers(self) -> dict[str, Tensor]:
        """Return the view's layers, see `Result`."""
        found = {"Z": self.maps.depth, "A": self.maps.coverage / 255}
        return found if self.maps.confidence is None else found | {"confidence": self.maps.confidence / 255}


class ViewJob:
    """Decodes the tasks that need no model."""

    model_name = ""
    scale = 1

    def __init__(self, render: Render, config: DecodeConfig, task: str) -> None:
        self.colors, self.config, self.task = render, config, task
        self.names = render.names
        self.folder_name = task
        self.note, self._farthest = "", 0.0
        self._depths = shown_depths(render) if task == "depth" else None

    def read(self, index: int) -> FrameInput:
        """Read a frame."""
        image = torch.from_numpy(read_png(self.colors.color_path(index))).permute(2, 0, 1)
        return FrameInput(index, image, self.colors.read_maps(index))

    def begin(self) -> Decoder | None:
        """Prepare what all frames share."""
        return None

    def decode(self, _: Decoder | None, frame: FrameInput) -> Result:
        """Decode one frame."""
        image, depth = frame.image / 255, frame.maps.depth
        if self.task == "color":
            return Result(image, image, layers=frame.layers())
        if self.task == "depth":
            picture = depth_picture(depth, self._depths)
            return Result(picture, image, {"Z": depth}, self._levels(depth), frame.layers())
        normal = normals(depth, self.colors.cameras[frame.index])
        numbers = dict(zip(("N.X", "N.Y", "N.Z"), normal, strict=True))
        return Result((normal + 1) / 2, image, numbers, layers=frame.layers())

    def _levels(self, depth: Tensor) -> Tensor | None:
        """Return what a 16-bit PNG stores of z-depth [H, W]: 0, unknown, where it is too far for 16 bits."""
        if self.config.format != "png16":
            return None
        scale = self.config.depth_scale or DEPTH_SCALE
        levels = depth * scale
        is_beyond = levels > _MOST_LEVEL - 1
        if bool(is_beyond.any()):
            self._farthest = max(self._farthest, float(depth.max()))
            self.note = (
                f"depth beyond {_MOST_LEVEL / scale:.4g} units is stored as 0, unknown. "
                f"hint: --depth-scale {_MOST_LEVEL / self._farthest:.2g} for all of it, or --format exr"
            )
        return levels.masked_fill(is_beyond, 0)


class ModelJob(ViewJob):
    """Decodes rendered features by their model."""

    def __init__(self, render: Render, config: DecodeConfig, open_workspace: OpenWorkspace | None) -> None:
        self.features, self.model, task, is_only = choose_features(render, config)
        super().__init__(render, config, task)
        self.model_name = self.features.model
        self.folder_name = task if is_only else f"{task}-{self.model_name}"
        self.scale = self.model.spec.scale if task == "superres" else 1
        self.device = resolve_device(config.device)
        self.model.to(self.device)
        self._open_workspace = open_workspace
        self._places = render if task == "segment" else None  # the points of the cells, for their classes
        self._source: CachedFeatures | None = None
        self._options = NotedOptions()

    def read(self, index: int) -> FrameInput:
        """Read a frame, and its features."""
        frame = super().read(index)
        features = stored_features(self.features, index, self._places)
        touched(features.data)
        touched(frame.maps.coverage)
        return FrameInput(index, frame.image, frame.maps, features)

    def begin(self) -> Decoder:
        """Make the task's decoder."""
        point = self.config.point
        if point is not None:
            workspace = self._photo_features().workspace
            camera = workspace.camera(photo_index(workspace.scene, self.config.view))
            point = (point[0] / camera.width, point[1] / camera.height)
        self._options = decode_options(self.config, point)
        torch.manual_seed(self.config.seed)
        frames = rendered_features(self.features, self.device, self._places)
        if self.task == FEATURES and FEATURES not in self.model.spec.tasks:
            if self.config.seed:
                raise UsageError(f"--seed does nothing here: task '{self.task}' does not use it. hint: leave it out")
            return principal_colors(frames)
        views = OnAccess(len(frames), lambda index: self._view(super(ModelJob, self).read(index)))
        return self.model.decoder(DecodeContext(self.task, self._options, frames, self.photo, views))

    def decode(self, decoder: Decoder, frame: FrameInput) -> Result:
        """Decode one frame."""
        view, features = self._view(frame), on_device(frame.features, self.device)
        return Result(self.decoded(decoder, features, view), view.image, layers=frame.layers())

    def _view(self, frame: FrameInput) -> RenderedView:
        return RenderedView(*(x.to(self.device).float().div(255) for x in (frame.image, frame.maps.coverage)))

    def decoded(self, decoder: Decoder, features: FeatureMap, view: RenderedView) -> Tensor | Segmentation:
        """Run the decoder on one frame or photo, and check what it returns and which options it used."""
        torch.manual_seed(self.config.seed)  # per frame, so that all of them have the same noise
        out = decoder(features, view)
        values = out.scores if isinstance(out, Segmentation) else out
        channels = len(out.names) if isinstance(out, Segmentation) else 3
        want = (channels, *(self.scale * n for n in view.image.shape[1:]))
        if tuple(values.shape) != want or not torch.isfinite(values).all():
            raise ModelError(
                f"model {self.model.spec.name}: decode() gave {tuple(values.shape)}, with or without NaN; "
                f"it must give finite values {want}"
            )
        self._options.check_used(self.task)
        if isinstance(out, Segmentation):
            if self.config.format == "png16":
                what = f"--format png16 does nothing here: task '{self.task}' gives classes, of 8 bits"
                raise UsageError(f"{what}. hint: leave it out, or --format exr for how much a pixel is of each")
            return refined(out, view.image) if self.config.refine else out
        for name in ("soft_masks", "refine"):
            if getattr(self.config, name):
                what = f"{flag_of(name)} does nothing here: task '{self.task}' gives pictures"
                raise UsageError(f"{what}. hint: leave it out")
        return out

    def photo(self, name: str) -> tuple[FeatureMap, Tensor]:
        """Read a photo's own features and its pixels [3, H, W]; see `DecodeContext`."""
        source = self._photo_features()
        index = photo_index(source.workspace.scene, name)
        camera = source.workspace.camera(index)
        features, (width, height) = source.read(index), source.size(index)
        grid = features.grid.rescaled(camera.width / width, camera.height / height)
        image = to_image(source.workspace.photo(index), self.device)
        return FeatureMap(features.data.to(self.device).float(), grid), image

    def scene(self) -> Workspace:
        """Return the scene whose photos are asked for."""
        return self._photo_features().workspace

    def _photo_features(self) -> CachedFeatures:
        if self._source is None:
            if self._open_workspace is None:
                raise ValueError("a task asks for a photo, and there is no scene")
            workspace = self._open_workspace(self.colors.scene)
            encoders = [e for e in workspace.cache.encoders() if e.key == self.features.encoder]
            if not encoders:
                raise CacheError(
                    f"{workspace.cache.root}: has no features of {self.model.spec.name} any more. "
                    f"hint: lift3d encode {workspace.scene.root} --model {shlex.quote(self.features.ref)}"
                )
            self._source = CachedFeatures(workspace, encoders[0], keep=2, model=self.model)
        return self._source


def open_job(folder: Path, config: DecodeConfig, open_workspace: OpenWorkspace | None) -> ViewJob:
    """Open a finished render for the task of a decode.

    Raises:
        CacheError: if the render is missing, unfinished, or has no features for the task.
        ModelError, UsageError: in one line.
    """
    render = Render.open(folder)
    unfinished, job = set(render.missing()), None
    if not is_view_task(render, config):
        job = ModelJob(render, config, open_workspace)
        unfinished |= set(job.features.missing())
    if unfinished:
        raise CacheError(
            f"{folder}: {len(unfinished)} of {len(render.names)} frames are not rendered yet, or damaged. "
            "hint: run lift3d render again"
        )
    return job or ViewJob(render, config, config.task)
