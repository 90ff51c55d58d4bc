"""Comparisons for a report: the 2D model on each rendered frame, the consistency of both, the corrector's effect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.config import RenderConfig, ReportConfig
from lift3d_cli.errors import CacheError, ModelError
from lift3d_cli.evaluation.consistency import correspondences
from lift3d_cli.geometry.grids import sample_map
from lift3d_cli.machine.device import resolve_device
from lift3d_cli.machine.png import to_uint8
from lift3d_cli.machine.progress import Progress
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
from lift3d_cli.models.builtin.color_space import lab_from_rgb
from lift3d_cli.models.fingerprint import is_made_by
from lift3d_cli.models.pretrained import is_here
from lift3d_cli.models.registry import find_recorded_model
from lift3d_cli.pipeline.class_pictures import labels_and_colors, overlay
from lift3d_cli.pipeline.lift import Choice, SceneLifter
from lift3d_cli.pipeline.lifted_features import rendered_features
from lift3d_cli.pipeline.render import CachedFeatures
from lift3d_cli.pipeline.renderers import make_renderer
from lift3d_cli.pipeline.workspace import shrunk_size
from lift3d_cli.report.collect import DecodedTask, ReportedRender, StoredFrame

# Mean difference, out of 255, up to which two decodings count as the same: GPUs and processors round differently.
_SAME = 2.0
# The methods whose frames are compared.
LIFTED, ALONE, COLOUR = "lifted", "2D per frame", "rendered-colour"


@dataclass(frozen=True)
class Comparison:
    """The 2D model's result on each rendered frame, to compare with the lifted one.

    Args:
        model: name of the model.
        images: [H, W, 3] uint8 of each shown frame.
        contradictions: by method, "near" and "far": RMS difference of two frames over the surface that both show,
                relative to "contrast", the RMS deviation of the method's pixels from their mean, so that a method with
                less contrast does not seem more consistent; NaN if no two frames share a surface.
    """

    model: str
    images: Sequence[np.ndarray]
    contradictions: Mapping[str, Mapping[str, float]]


@torch.inference_mode()
def run_2d(
    run: ReportedRender, task: DecodedTask, lifted: Sequence[np.ndarray], config: ReportConfig, progress: Progress
) -> Comparison:
    """Run the 2D model on each shown frame's rendered colour, and decode its features as the lifted ones were.

    Args:
        task: one of the render's tasks.
        task: one of its tasks.
        lifted: the task's pictures of the shown frames.
        config: settings.
        progress: see `Progress`.

    Raises:
        ModelError: if that is impossible, with the reason.
    """
    device = resolve_device(config.device)
    model, decoder = _decoder(run, task, lifted[0], device)
    images = []
    for frame in progress(run.frames, f"2D {task.name}", len(run.frames)):
        torch.manual_seed(0)
        view = _view(frame, device)
        images.append(_shown(decoder(_encode(model, view.image, run), view), frame))
    methods = {LIFTED: lifted, ALONE: images, COLOUR: [frame.image for frame in run.frames]}
    is_chroma = task.name == "colorize"
    found = {name: _contradictions(run, pictures, is_chroma) for name, pictures in methods.items()}
    return Comparison(model.spec.name, images, found)


def _decoder(run: ReportedRender, task: DecodedTask, first: np.ndarray, device: torch.device) -> tuple[Model, Decoder]:
    """Find the model and decoder of a task's pictures: the one, of several possible, that reproduces the first."""
    reason = "none of the render's models can do it"
    for name in task.models:
        lifted = run.lifted[name]
        ref = find_recorded_model(lifted.ref, run.render.root, run.render.scene)
        if not ref.settings and not is_here(ref.spec()):
            reason = f"the weights of {name} are not on this machine"
            continue
        model = ref.load().to(device)
        if not is_made_by(lifted.fingerprint, model, ref):
            reason = f"{name} changed since its features were rendered"
            continue
        maps = rendered_features(lifted, device, run.render if task.name == "segment" else None)
        views = OnAccess(len(run.frames), lambda index: _view(run.frames[index], device))
        torch.manual_seed(0)
        decoder = model.decoder(DecodeContext(task.name, DecodeOptions(), maps, _no_photo, views))
        torch.manual_seed(0)
        again = _shown(decoder(maps[0], _view(run.frames[0], device)), run.frames[0])
        if again.shape == first.shape and np.abs(again.astype(int) - first).mean() <= _SAME:
            return model, decoder
        reason = f"it was decoded with options that are not recorded, or not from these features of {name}"
    raise ModelError(reason)


def _no_photo(name: str) -> tuple[FeatureMap, Tensor]:
    raise ModelError("it was decoded by a photo, which is not recorded")


def _view(frame: StoredFrame, device: torch.device) -> RenderedView:
    return RenderedView(_tensor(frame.image).to(device), frame.coverage.to(device))


def _tensor(image: np.ndarray) -> Tensor:  # [H, W, 3] uint8 to [3, H, W] in [0, 1]
    return torch.from_numpy(image).permute(2, 0, 1).float() / 255


def _encode(model: Model, image: Tensor, run: ReportedRender) -> FeatureMap:
    """Encode a rendered frame as the photos were, shrunk to the same longest side."""
    height, width = image.shape[1:]
    size = shrunk_size(run.cameras[0].resized(width, height), run.lifted[model.spec.name].max_size)
    if size != (width, height):
        image = F.interpolate(image[None], size[::-1], mode="bilinear", antialias=True, align_corners=False)[0]
    features = model.checked_encode(image)
    return FeatureMap(features.data.float(), features.grid.rescaled(width / size[0], height / size[1]))


def _shown(result: Tensor | Segmentation, frame: StoredFrame) -> np.ndarray:
    """Convert a result to the picture that `decode` shows."""
    if isinstance(result, Tensor):
        return to_uint8(result)
    return overlay(frame.image, *labels_and_colors(result))


def _contradictions(run: ReportedRender, images: Sequence[np.ndarray], is_chroma: bool) -> dict[str, float]:
    """Measure contradictions of neighbouring frames, and of frames a quarter of the path apart; see `Comparison`."""
    frames = [_comparable(image, frame, is_chroma) for image, frame in zip(images, run.frames, strict=True)]
    pixels = torch.cat([frame.flatten(1) for frame in frames], 1)
    contrast = max(float((pixels - pixels.mean(1, keepdim=True)).square().mean().sqrt()), 1e-6)
    steps = {"near": 1, "far": max(2, len(images) // 4)}
    return {pair: _difference(run, frames, n) / contrast for pair, n in steps.items()} | {"contrast": contrast}


def _difference(run: ReportedRender, frames: Sequence[Tensor], step: int) -> float:
    """Average the difference over the pairs of frames `step` apart."""
    found = []
    for here, there, a, b in zip(frames, frames[step:], run.frames, run.frames[step:], strict=False):
        cameras, coverage = (run.cameras[a.index], run.cameras[b.index]), (a.coverage, b.coverage)
        uv, shared = correspondences(cameras[0], a.depth.float(), cameras[1], b.depth.float(), coverage)
        if shared.any():
            difference = (here.flatten(1) - sample_map(there[None], uv[None])[0])[:, shared]
            found.append(float(difference.square().mean().sqrt()))
    return float(np.mean(found)) if found else float("nan")


def _comparable(image: np.ndarray, frame: StoredFrame, is_chroma: bool) -> Tensor:  # [c, H, W]
    """Return what to compare: sRGB, or Lab's a and b, which are all that a colorizer adds; at the frame's size."""
    size = frame.depth.shape
    pixels = F.interpolate(_tensor(image)[None], size, mode="bilinear", antialias=True, align_corners=False)[0]
    return lab_from_rgb(pixels)[1:] if is_chroma else pixels


def corrections(
    run: ReportedRender, chosen: Sequence[int], config: ReportConfig, progress: Progress
) -> dict[str, list[np.ndarray]]:
    """Measure, by model, how far the corrector moved each cell of the frames `chosen`: [h, w] |R| over features' RMS.

    The features of each frame are rendered again without correction.

    Raises:
        ModelError, CacheError: if that is impossible, with the reason.
    """
    render, device = run.render, resolve_device(config.device)
    made = RenderConfig(
        planes=render.planes or RenderConfig.planes,
        samples=render.samples,
        memory=config.memory,
        weights=config.weights,
        precision=render.precision or "auto",
    )
    renderer = make_renderer(made, device)
    if renderer.settings() != render.renderer:
        raise ModelError("the render is of other weights, precision or version. hint: --weights")
    if not run.encoders:
        raise CacheError("the cache has no features of its models any more")
    sources = {name: CachedFeatures(run.workspace, e, 2 * render.views) for name, e in run.encoders.items()}
    plain = replace(renderer, corrector=None)
    lifter = SceneLifter(run.workspace, run.workspace.points(), plain, render.views, device)
    found: dict[str, list[np.ndarray]] = {name: [] for name in sources}
    for place in progress(chosen, "corrector", len(chosen)):
        frame = run.frames[place]
        choice = Choice(render.depth_range(frame.index), frame.sources)
        plan = lifter.plan(run.cameras[frame.index], choice, sources)
        blended, _ = lifter.lift_features(plan, _tensor(frame.image))
        for name, maps in found.items():
            without, (stored, _, _) = blended[name].float().cpu(), run.lifted[name].read_frame(frame.index)
            norm = without.square().sum(0).mean().sqrt().clamp(min=1e-12)  # of the frame, as cells may be 0
            maps.append(((stored.float() - without).norm(dim=0) / norm).numpy())
    return found
