"""render: colour, depth and features at every pose of a camera path, into a folder; it can be resumed."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

import lift3d_cli
from lift3d_cli.cache.format import EncoderRecord
from lift3d_cli.cache.renders import FrameMaps, Render, render_content, render_dir
from lift3d_cli.config import RenderConfig
from lift3d_cli.errors import CacheError
from lift3d_cli.machine.atomic import Later, write_atomic
from lift3d_cli.machine.background import BackgroundWriter, prefetched
from lift3d_cli.machine.device import resolve_device
from lift3d_cli.machine.png import encode_png, read_png, to_uint8
from lift3d_cli.machine.progress import Progress, no_progress
from lift3d_cli.models.base import FeatureMap, Model
from lift3d_cli.pipeline.encode import encoded_size, model_of
from lift3d_cli.pipeline.lift import Choice, LiftedView, Plan, SceneLifter
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


def render(
    workspace: Workspace,
    path: CameraPath,
    name: str,
    config: RenderConfig,
    output: Path | None = None,
    progress: Progress = no_progress,
) -> Path:
    """Render the poses of a path that are not rendered yet; return the render's folder.

    Args:
        workspace: the scene, with a cache.
        path: the poses.
        name: name of the render, for people.
        config: settings.
        output: folder to use instead of one in the cache.

    Raises:
        SceneError, CacheError, ModelError, ResourceError: in one line.
    """
    lifter = _lifter(workspace, config)
    choices = [lifter.choose(camera) for camera in progress(path.cameras, "choose photos", len(path))]
    used = sorted({i for choice in choices for i in choice.sources})
    features = {e.name: CachedFeatures(workspace, e, 2 * config.views) for e in _encoders(workspace, used, config)}
    content = _content(workspace, path, choices, config.views, lifter)
    root = output or render_dir(workspace.cache.root, name, content)
    colors = Render.begin(root, content, workspace.scene.root.resolve(), path.fps, path.names)
    lifted = {name: colors.begin_features(source.encoder, config.dtype) for name, source in features.items()}
    todo_colors, missing = set(colors.missing()), {name: set(r.missing()) for name, r in lifted.items()}
    todo = sorted(todo_colors.union(*missing.values()))
    lifter.find_surfaces([choices[index] for index in todo], progress)

    def read(index: int) -> Plan:
        wanted = {name: source for name, source in features.items() if index in missing[name]}
        plan = lifter.plan(path.cameras[index], choices[index], wanted)
        lifter.read_ahead(plan)
        return plan

    with prefetched(todo, read) as plans, BackgroundWriter() as later:
        for index, plan in zip(progress(todo, "render", len(todo)), plans, strict=True):
            if index in todo_colors:
                view = lifter.lift(plan)
                _write_colors(colors, index, view, later)
                found, grids = view.frame.features, view.grids
            else:
                image = torch.from_numpy(read_png(colors.color_path(index))).permute(2, 0, 1) / 255
                found, grids = lifter.lift_features(plan, image)
            for name, data in found.items():
                lifted[name].write_frame(index, data.cpu(), grids[name], later=later)
    return root


def _lifter(workspace: Workspace, config: RenderConfig) -> SceneLifter:
    """Make the lifter of the scene's photos, with weights tuned to the scene if so asked."""
    device = resolve_device(config.device)
    if config.tuned:
        config = replace(config, weights=str(find_tuned(workspace, config.weights)))
    return SceneLifter(workspace, workspace.points(), make_renderer(config, device), config.views, device)


def _encoders(workspace: Workspace, used: Sequence[int], config: RenderConfig) -> list[EncoderRecord]:
    """Return the encoders to lift; raise an error now if a photo that is needed is not encoded."""
    cache = workspace.cache
    if config.models:
        encoders = [cache.find_encoder(name) for name in config.models]
    else:
        encoders = list({e.name: e for e in cache.encoders(strict=True)}.values())
    for encoder in encoders:
        records = [workspace.record(i, encoded_size(encoder, workspace.camera(i))) for i in used]
        missing = cache.missing(encoder, records)
        if missing:
            raise CacheError(
                f"{cache.root}: {len(missing)} of {len(records)} photos are not encoded with {encoder.name} "
                f"(first: {missing[0].name}). "
                f"hint: lift3d encode {workspace.scene.root} --model {shlex.quote(encoder.ref)}"
            )
    return encoders


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


def _as_bytes(share: torch.Tensor) -> torch.Tensor:
    """Convert [H, W] in [0, 1] to uint8."""
    return (share * 255).round().to(torch.uint8).cpu()
