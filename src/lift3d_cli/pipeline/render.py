"""render: colour, depth and features at every pose of a camera path, into a folder; it can be resumed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import lift3d_cli
from lift3d_cli.cache.format import EncoderRecord
from lift3d_cli.cache.frames import render_key
from lift3d_cli.cache.renders import FrameMaps, Render, render_content, render_dir
from lift3d_cli.config import RenderConfig
from lift3d_cli.machine.atomic import Later, write_atomic
from lift3d_cli.machine.background import BackgroundWriter, prefetched
from lift3d_cli.machine.device import resolve_device
from lift3d_cli.machine.png import encode_png, read_png, to_uint8
from lift3d_cli.machine.progress import Progress, no_progress
from lift3d_cli.models.base import FeatureMap, Model
from lift3d_cli.pipeline.encode import encoded_size, model_of
from lift3d_cli.pipeline.encoders import choose_encoders
from lift3d_cli.pipeline.forecast import Forecast, frame_bytes, measured_seconds, peak_memory
from lift3d_cli.pipeline.lift import Choice, LiftedView, Plan, SceneLifter
from lift3d_cli.pipeline.memory import held_bytes
from lift3d_cli.pipeline.renderers import make_renderer
from lift3d_cli.pipeline.tuned import find_tuned
from lift3d_cli.pipeline.workspace import Recent, Workspace
from lift3d_cli.scene.paths import CameraPath


class CachedFeatures:
    """Features of one encoder from the scene cache; a `FeatureSource`."""

    def __init__(self, workspace: Workspace, encoder: EncoderRecord, keep: int, model: Model | None = None) -> None:
        self.encoder = encoder
        self.model: Model = model or model_of(encoder, workspace.cache.root, workspace.scene.root)
        self.workspace = workspace
        self._recent: Recent[FeatureMap] = Recent(keep)

    def size(self, index: int) -> tuple[int, int]:
        """See `FeatureSource`."""
        return encoded_size(self.encoder, self.workspace.camera(index))

    def read(self, index: int, keep: bool = True) -> FeatureMap:
        """See `FeatureSource`; the file is memory-mapped."""
        record = self.workspace.record(index, self.size(index))

        def make() -> FeatureMap:
            return FeatureMap(*self.workspace.cache.read_features(self.encoder, record))

        return self._recent.get(index, make) if keep else make()


@dataclass(frozen=True)
class RenderJob:
    """Everything that a render works with, before anything is written.

    Args:
        lifter: of the scene's photos.
        path: the poses.
        choices: source photos and depth range of each.
        features: by model name, where features are read from.
        content: see `render_content`.
        root: folder of the render.
        frames: which poses to render.
    """

    lifter: SceneLifter
    path: CameraPath
    choices: Sequence[Choice]
    features: Mapping[str, CachedFeatures]
    content: Mapping[str, object]
    root: Path
    frames: Sequence[int]

    def read(self, index: int, names: Iterable[str]) -> Plan:
        """Plan a pose with the features of some models, and read what it needs."""
        wanted = {name: self.features[name] for name in names}
        plan = self.lifter.plan(self.path.cameras[index], self.choices[index], wanted)
        self.lifter.read_ahead(plan)
        return plan


def prepare(
    workspace: Workspace,
    path: CameraPath,
    name: str,
    config: RenderConfig,
    output: Path | None = None,
    progress: Progress = no_progress,
    warn: Callable[[str], object] = lambda text: None,
    frames: Sequence[int] | None = None,
) -> RenderJob:
    """Choose photos and features for the poses of a path.

    Args:
        workspace: the scene, with a cache.
        path: the poses.
        name: name of the render, for people.
        config: settings.
        output: folder to use instead of one in the cache.
        progress, warn: see `Progress`; takes a line about features that are taken instead of others.
        frames: which poses to render; None for all.

    Raises:
        UsageError, SceneError, CacheError, ModelError, ResourceError: in one line.
    """
    lifter = _lifter(workspace, config)
    choices = list(progress(lifter.choose_each(path.cameras), "choose photos", len(path)))
    used = sorted({i for choice in choices for i in choice.sources})
    encoders = choose_encoders(workspace, used, config.models, warn)
    features = {e.name: CachedFeatures(workspace, e, 2 * config.views) for e in encoders}
    content = _content(workspace, path, choices, config.views, lifter)
    root = output or render_dir(workspace.cache.root, name, content)
    # All choices, whichever frames are rendered: so all processes that share a path work on one render.
    return RenderJob(lifter, path, choices, features, content, root, range(len(path)) if frames is None else frames)


def render(
    workspace: Workspace,
    path: CameraPath,
    name: str,
    config: RenderConfig,
    output: Path | None = None,
    progress: Progress = no_progress,
    warn: Callable[[str], object] = lambda text: None,
    tell: Callable[[Forecast], object] = lambda forecast: None,
    frames: Sequence[int] | None = None,
) -> Path:
    """Render the poses of a path that are not rendered yet: `prepare` and `carry_out`; return the render's folder."""
    job = prepare(workspace, path, name, config, output, progress, warn, frames)
    return carry_out(workspace, job, config, progress, tell)


def carry_out(
    workspace: Workspace,
    job: RenderJob,
    config: RenderConfig,
    progress: Progress = no_progress,
    tell: Callable[[Forecast], object] = lambda forecast: None,
) -> Path:
    """Render what is missing of a job; return the render's folder.

    Args:
        workspace, config: those that the job was prepared with.
        job: see `prepare`.
        progress: see `Progress`.
        tell: takes what the rest will take, after the first frame.

    Raises:
        SceneError, CacheError, ModelError, ResourceError: in one line.
    """
    path = job.path
    colors = Render.begin(job.root, job.content, workspace.scene.root.resolve(), path.fps, path.names)
    lifted = {name: colors.begin_features(source.encoder, config.dtype) for name, source in job.features.items()}
    todo_colors, missing = set(colors.missing()), {name: set(r.missing()) for name, r in lifted.items()}
    todo = sorted(todo_colors.union(*missing.values()).intersection(job.frames))
    job.lifter.find_surfaces([job.choices[index] for index in todo], progress)

    def read(index: int) -> Plan:
        return job.read(index, [name for name in job.features if index in missing[name]])

    begun = time.monotonic()
    with prefetched(todo, read) as plans, BackgroundWriter() as later:
        for index, plan in zip(progress(todo, "render", len(todo)), plans, strict=True):
            if index in todo_colors:
                view = job.lifter.lift(plan)
                _write_colors(colors, index, view, later)
                found, grids = view.frame.features, view.grids
            else:
                found, grids = job.lifter.lift_features(plan, _read_colors(colors, index))
            for name, data in found.items():
                lifted[name].write_frame(index, data.cpu(), grids[name], later=later)
            if index == todo[0]:
                tell(Forecast(len(todo), time.monotonic() - begun, peak_memory(), frame_bytes(plan, config.dtype)))
    return job.root


def forecast(workspace: Workspace, job: RenderJob, config: RenderConfig) -> Forecast:
    """Estimate what a render takes, without writing anything; frames that are there already are not counted."""
    todo = job.frames
    colors = Render.find(job.root, render_key(job.content))
    if colors is not None:
        lacking = [colors.missing_features(source.encoder, config.dtype) for source in job.features.values()]
        todo = sorted(set(colors.missing()).union(*lacking).intersection(todo))
    lifter, surfaces = job.lifter, []
    if lifter.surfaces:
        used = sorted({i for index in todo for i in job.choices[index].sources})
        names = workspace.scene.views
        surfaces = [i for i in used if not workspace.cache.has_surface(names[i].name, lifter.surfaces.key(i))]
    if surfaces:  # measured without them
        renderer = replace(lifter.renderer, surface_finder=None)
        lifter = SceneLifter(workspace, workspace.points(), renderer, config.views, resolve_device(config.device))
    if not todo:
        return Forecast(0, 0.0, 0, 0)
    index = todo[len(todo) // 2]
    target, choice = job.path.cameras[index], job.choices[index]
    seconds = measured_seconds(target, lambda camera: lifter.lift(lifter.plan(camera, choice, job.features)))
    plan = lifter.plan(target, choice, job.features)
    # Beyond what the cut-outs took there is what a whole frame holds at once.
    memory = peak_memory() + held_bytes(lifter.renderer.memory_bytes, plan.memory_bytes)
    return Forecast(len(todo), seconds, memory, frame_bytes(plan, config.dtype), len(surfaces))


def models_to_add(job: RenderJob, encoders: Sequence[EncoderRecord], dtype: str) -> list[str]:
    """Name the models whose features neither are lifted by a job nor are in its render already.

    Args:
        job: see `prepare`.
        encoders: of the scene, the last used one at the end.
        dtype: what the features would be stored as.
    """
    colors = Render.find(job.root, render_key(job.content))
    latest = {e.name: e for e in encoders if e.name not in job.features}
    return sorted(n for n, e in latest.items() if colors is None or colors.missing_features(e, dtype))


def _lifter(workspace: Workspace, config: RenderConfig) -> SceneLifter:
    """Make the lifter of the scene's photos, with weights tuned to the scene if so asked."""
    device = resolve_device(config.device)
    if config.tuned:
        config = replace(config, weights=str(find_tuned(workspace, config.weights)))
    return SceneLifter(workspace, workspace.points(), make_renderer(config, device), config.views, device)


def _content(
    workspace: Workspace, path: CameraPath, choices: Sequence[Choice], views: int, lifter: SceneLifter
) -> dict[str, object]:
    """Return everything that the rendered colours depend on."""
    used = sorted({i for choice in choices for i in choice.sources})
    place = {index: n for n, index in enumerate(used)}
    return render_content(
        lift3d_cli.__version__,
        path.cameras,
        [(workspace.record(i).key, workspace.camera(i)) for i in used],
        [(choice.depth_range, [place[i] for i in choice.sources]) for choice in choices],
        views,
        lifter.renderer.settings(),
        [lifter.surfaces.key(i) for i in used] if lifter.surfaces else (),
    )


def _write_colors(colors: Render, index: int, view: LiftedView, later: Later) -> None:
    frame, image = view.frame, to_uint8(view.frame.image)
    later(lambda: write_atomic(colors.color_path(index), encode_png(image)))
    coverage, confidence = _as_bytes(frame.coverage), _as_bytes(frame.confidence)
    colors.write_maps(index, FrameMaps(frame.depth, coverage, confidence, view.choice.sources), later)


def _read_colors(colors: Render, index: int) -> torch.Tensor:  # [3, H, W]
    return torch.from_numpy(read_png(colors.color_path(index))).permute(2, 0, 1) / 255


def _as_bytes(share: torch.Tensor) -> torch.Tensor:
    """Convert [H, W] in [0, 1] to uint8."""
    return (share * 255).round().to(torch.uint8).cpu()
