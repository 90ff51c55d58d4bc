"""decode: run rendered features, or a photo's own, through their model's decoder, and write the results."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lift3d_cli.cache.renders import FeatureRender, Render
from lift3d_cli.config import MODEL_FOR_TEXT, RAW_FORMATS, DecodeConfig
from lift3d_cli.errors import CacheError, ModelError, SceneError
from lift3d_cli.machine.background import BackgroundWriter, prefetched, touched
from lift3d_cli.machine.device import resolve_device
from lift3d_cli.machine.png import read_png
from lift3d_cli.machine.progress import Progress, no_progress
from lift3d_cli.models.base import (
    DecodeContext,
    DecodeOptions,
    Decoder,
    FeatureMap,
    Model,
    OnAccess,
    RenderedView,
    Segmentation,
)
from lift3d_cli.models.edges import refined
from lift3d_cli.models.fingerprint import is_made_by
from lift3d_cli.models.registry import find_recorded_model
from lift3d_cli.pipeline.encode import to_image
from lift3d_cli.pipeline.lifted_features import on_device, rendered_features, stored_features
from lift3d_cli.pipeline.render import CachedFeatures
from lift3d_cli.pipeline.results import TaskFolder, video_writer, write_features
from lift3d_cli.pipeline.workspace import Workspace
from lift3d_cli.scene.photos import open_picture
from lift3d_cli.scene.scene import Scene


@dataclass(frozen=True)
class Decoded:
    """The result of `decode`.

    Args:
        frames: folder of PNGs, one per pose or photo; or of feature files.
        video: the MP4, or None.
        note: a line for the user, or "".
        scale: width and height of the frames relative to the rendered views'.
    """

    frames: Path
    video: Path | None = None
    note: str = ""
    scale: int = 1


def decode(
    render: Path,
    output: Path,
    config: DecodeConfig,
    progress: Progress = no_progress,
    open_workspace: Callable[[Path], Workspace] | None = None,
) -> Decoded:
    """Decode every frame of a render into `output/<task>/` and `output/<task>.mp4`; see `TaskFolder`.

    With `config.source_views`, decode photos from their own features instead, into `output/<task>-2d/`; with
    `config.raw`, write the features unchanged into `output/features/`.

    Args:
        render: folder of the render.
        output: folder of the results.
        config: settings.
        progress: see `Progress`.
        open_workspace: opens the scene at a path with its cache; needed only for tasks that use a photo.

    Raises:
        CacheError: if the render is missing, unfinished, or has no features for the task.
        SceneError, ModelError, ResourceError: in one line.
    """
    if config.raw and config.raw not in RAW_FORMATS:
        raise ValueError(f"raw is {config.raw!r}, not one of {RAW_FORMATS}")
    job = _DecodeJob(render, config, open_workspace)
    if config.raw:
        return _write_raw(job, output, progress)
    if config.source_views:
        return _decode_photos(job, output, progress)
    return _decode_frames(job, output, progress)


class _DecodeJob:
    """Everything that a decode works with: a render, its features to decode, their model, and the task."""

    def __init__(self, render: Path, config: DecodeConfig, open_workspace: Callable[[Path], Workspace] | None) -> None:
        self.config = config
        self.colors = Render.open(render)
        self.features, self.model, self.task = _choose(self.colors, config)
        self.names = self.colors.names
        self.device = resolve_device(config.device)
        self.model.to(self.device)
        self._depth = self.colors if self.task == "segment" else None
        self._open_workspace = open_workspace
        self._source: CachedFeatures | None = None
        unfinished = len(set(self.colors.missing()) | set(self.features.missing()))
        if unfinished:
            raise CacheError(
                f"{render}: {unfinished} of {len(self.names)} frames are not rendered yet, or damaged. "
                "hint: run lift3d render again"
            )

    @property
    def scale(self) -> int:
        """See `Decoded`."""
        return self.model.spec.scale if self.task == "superres" else 1

    def read(self, index: int) -> tuple[FeatureMap, Tensor, Tensor]:
        """Read a stored frame: its features, colour [3, H, W] uint8 and coverage [H, W] uint8."""
        image = torch.from_numpy(read_png(self.colors.color_path(index))).permute(2, 0, 1)
        stored = stored_features(self.features, index, self._depth)
        touched(stored.data)
        return stored, image, touched(self.colors.read_maps(index).coverage)

    def frame(self, stored: FeatureMap, image: Tensor, coverage: Tensor) -> tuple[FeatureMap, RenderedView]:
        """Convert what `read` returns to float tensors on the device."""
        view = RenderedView(*(x.to(self.device).float().div(255) for x in (image, coverage)))
        return on_device(stored, self.device), view

    def photo(self, name: str) -> tuple[FeatureMap, Tensor]:
        """Read a photo's own features and its pixels [3, H, W]; see `DecodeContext`."""
        source = self._photo_features()
        index = photo_index(source.workspace.scene, name)
        camera = source.workspace.camera(index)
        features, (width, height) = source.read(index), source.size(index)
        grid = features.grid.rescaled(camera.width / width, camera.height / height)
        image = to_image(source.workspace.photo(index), self.device)
        return FeatureMap(features.data.to(self.device).float(), grid), image

    def decoder(self) -> Decoder:
        """Make the task's decoder."""
        options = decode_options(self.config)
        if options.point is not None:
            workspace = self._photo_features().workspace
            camera = workspace.camera(photo_index(workspace.scene, options.point_view))
            options = replace(options, point=(options.point[0] / camera.width, options.point[1] / camera.height))
        torch.manual_seed(self.config.seed)
        frames = rendered_features(self.features, self.device, self._depth)
        views = OnAccess(len(frames), lambda index: self.frame(*self.read(index))[1])
        return self.model.decoder(DecodeContext(self.task, options, frames, self.photo, views))

    def decoded(self, decoder: Decoder, features: FeatureMap, view: RenderedView) -> Tensor | Segmentation:
        """Decode one frame, and check what the decoder returned."""
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
        return refined(out, view.image) if self.config.refine and isinstance(out, Segmentation) else out

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


def photo_index(scene: Scene, name: str) -> int:
    """Find a photo's index by its name in the scene, or by its file name if that is unambiguous.

    Raises:
        SceneError: if no photo has that name, or several do.
    """
    found = [i for i, view in enumerate(scene.views) if name in (view.name, Path(view.name).name)]
    if len(found) != 1:
        what = (
            "which photo? hint: --view" if not name else f"{name!r} names {'several photos' if found else 'no photo'}"
        )
        raise SceneError(f"{scene.root}: {what}, such as {scene.views[0].name}")
    return found[0]


@torch.inference_mode()
def _decode_frames(job: _DecodeJob, output: Path, progress: Progress) -> Decoded:
    total, config = len(job.names), job.config
    sizes = {(camera.width, camera.height) for camera in job.colors.cameras}
    video = output / f"{job.task}.mp4" if config.video and len(sizes) == 1 and total > 1 else None
    decoder = job.decoder()
    with (
        video_writer(video, config.fps or job.colors.fps) as append,
        prefetched(range(total), job.read) as frames,
        BackgroundWriter() as later,
    ):
        folder = TaskFolder(output / job.task, config.soft_masks, later)
        names = progress(job.names, f"decode {job.task}", total)
        for name, stored in zip(names, frames, strict=True):
            features, view = job.frame(*stored)
            shown = folder.write(name, job.decoded(decoder, features, view), view.image)
            later(append, shown)
    note = "no video: the poses are of different sizes" if config.video and len(sizes) > 1 else ""
    return Decoded(folder.root, video, note, job.scale)


@torch.inference_mode()
def _decode_photos(job: _DecodeJob, output: Path, progress: Progress) -> Decoded:
    """Decode photos with the 2D model, for comparison with the lifted frames."""
    folder = TaskFolder(output / f"{job.task}-2d", job.config.soft_masks)
    decoder, names = job.decoder(), job.config.source_views
    for name in progress(names, f"decode {job.task} of photos", len(names)):
        features, image = job.photo(name)
        view = RenderedView(image, torch.ones_like(image[0]))
        folder.write(Path(name).stem, job.decoded(decoder, features, view), image)
    return Decoded(folder.root, scale=job.scale)


def _write_raw(job: _DecodeJob, output: Path, progress: Progress) -> Decoded:
    total = len(job.names)
    for index in progress(range(total), "write features", total):
        data, grid, _ = job.features.read_frame(index)
        write_features(output / "features" / job.names[index], FeatureMap(data, grid), job.config.raw)
    return Decoded(output / "features")


def decode_options(config: DecodeConfig) -> DecodeOptions:
    """Make the decoder's options, and read the pictures that they name.

    Raises:
        SceneError: if a picture cannot be read.
    """
    strokes = None if config.strokes is None else torch.from_numpy(_read_picture(config.strokes))
    style = (
        None if config.style is None else torch.from_numpy(_read_picture(config.style)).permute(2, 0, 1).float() / 255
    )
    return DecodeOptions(config.text, strokes, config.view, config.clusters, config.point, config.view, style)


def _read_picture(path: Path) -> np.ndarray:
    """Read a picture as [H, W, 3] uint8, black where it is transparent."""
    with open_picture(path) as image:
        pixels = np.array(image.convert("RGBA"))
    return pixels[..., :3] * (pixels[..., 3:] > 127)


def _choose(render: Render, config: DecodeConfig) -> tuple[FeatureRender, Model, str]:
    """Choose the lifted features to decode, the latest of each model; return them with their model and the task."""
    latest = {r.model: r for r in render.feature_renders()}
    found = [r for _, r in sorted(latest.items())]
    names = [r.model for r in found]
    hint = "hint: lift3d encode SCENE --model MODEL, then lift3d render again"
    if not found:
        raise CacheError(f"{render.root}: has colour only, no features of any model. {hint}")
    if config.model:
        wanted = {config.model, re.split(r"[:?]", config.model)[0]}  # a reference such as dinov2:FOLDER means its name
        found = [r for r in found if r.model in wanted]
        if not found:
            raise CacheError(f"{render.root}: has no features of {config.model}, only of {', '.join(names)}. {hint}")
    able = []
    for r in found:
        spec = find_recorded_model(r.ref, render.root, render.scene).spec()
        task = config.task or spec.tasks[0]
        if task in spec.tasks:
            able.append((r, task))
    if not able:
        raise CacheError(f"{render.root}: none of its models ({', '.join(names)}) can do '{config.task}'. {hint}")
    # Of several, weights that are not for commercial use are taken only by name.
    likely = [
        (r, task) for r, task in able if find_recorded_model(r.ref, render.root, render.scene).spec().commercial
    ] or able
    likely = [(r, task) for r, task in likely if config.text and r.model == MODEL_FOR_TEXT] or likely
    if len(likely) > 1:
        tasks = ", ".join(f"--model {r.model} --task {task}" for r, task in able)
        raise CacheError(f"{render.root}: which of its features? hint: {tasks}")
    chosen, task = likely[0]
    ref = find_recorded_model(chosen.ref, render.root, render.scene)
    model = ref.load()
    if task not in model.spec.tasks and not config.task:  # a model's tasks may depend on its checkpoint
        task = model.spec.tasks[0]
    if not is_made_by(chosen.fingerprint, model, ref):
        raise ModelError(
            f"model {ref.name}: changed since its features were rendered. hint: lift3d encode, then render"
        )
    return chosen, model, task
