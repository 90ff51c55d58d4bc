"""Consistency of decoded frames between nearby and distant viewpoints, and how well they show an edit.

Two frames are compared where both show the same surface: pixels of one are looked up in the other by the rendered
depth, except where the other's depth shows an occluder (as in StyleRF, Liu et al. 2023, section 4.2, with our depth
instead of optical flow). Lifted frames are compared with two ways of using the 2D model alone, on each rendered frame
and on each real photo, and with the rendered colour itself: its error, from inexact depth and view-dependent colours,
is a lower bound for any decoding.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.config import EvalConfig
from lift3d_cli.errors import ModelError
from lift3d_cli.evaluation.editing import EditDirection, alike
from lift3d_cli.evaluation.lpips import Lpips
from lift3d_cli.evaluation.protocols import Bench
from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.geometry.epipolar import EpipolarLines
from lift3d_cli.geometry.grids import inside, pixel_centers, sample_map
from lift3d_cli.machine.progress import Progress, no_progress
from lift3d_cli.models.base import Decoder, FeatureMap, RenderedView
from lift3d_cli.models.builtin.color_space import lab_from_rgb
from lift3d_cli.pipeline.held_out import HeldOutPhotos
from lift3d_cli.pipeline.lift import SceneLifter
from lift3d_cli.scene.scene import Scene

METHODS = ("lifted", "2d-on-render", "2d-on-photo", "rendered-colour")
# Distance between the left-out photos of a pair, in the order of names.
PAIRS = {"near": 1, "far": 4}
# Two depths within this share of each other are the same surface.
_SAME_SURFACE = 0.02
_MIN_COVERAGE = 0.9


@dataclass(frozen=True)
class _DecodedFrame:
    camera: Camera
    depth: Tensor  # [H, W]
    coverage: Tensor  # [H, W]
    decoded: Mapping[str, Tensor]  # by method, [3, H, W]
    edits: Mapping[str, Tensor] = field(default_factory=dict)  # by method, [C] direction of the edit


def measure_consistency(
    scene: Scene, config: EvalConfig, progress: Progress = no_progress, photos: HeldOutPhotos | None = None
) -> dict[str, object]:
    """Compare decoded frames at left-out photos with those at their neighbours.

    No frame is rendered from a photo of its pair.

    Args:
        scene: photos in the order of the camera's path.
        config: settings; its model is decoded to its task.
        progress: see `Progress`.
        photos: see `Bench`.

    Returns:
        JSON values: by pair (near, far), by method: `rmse` of sRGB, `chroma`: RMSE of Lab's a and b (what a colorizer
        adds), `lpips` if it has weights, `shared`: the share of the image that was compared; with `edit_text`,
        `direction_similarity` and `direction_consistency` of the edit.

    Raises:
        SceneError, ModelError, ResourceError: in one line.
    """
    bench = Bench(scene, config, photos)
    if bench.task == "segment":
        raise ModelError("--consistency: compares pictures, segment gives none. hint: --task TASK, or --segmentation")
    decode = bench.decoder(bench.task)
    lpips = Lpips(config.lpips, bench.device) if config.lpips else None
    edit = EditDirection(config.clip, config.edit_text, bench.device) if config.edit_text else None
    rows: dict[str, list[dict[str, dict[str, float]]]] = {pair: [] for pair in PAIRS}
    for i in progress(bench.held_out, f"consistency {scene.root.name}", len(bench.held_out)):
        partners = {pair: _partner(i, step, len(scene.views)) for pair, step in PAIRS.items()}
        pool = [j for j in range(len(scene.views)) if j != i and j not in partners.values()]
        points = bench.photos.points(pool)
        lifter = SceneLifter(bench.photos, points, bench.renderer, config.views, bench.device, pool)
        frames = {j: _decoded_frame(bench, lifter, decode, edit, j) for j in {i, *partners.values()}}
        for pair, j in partners.items():
            rows[pair].append(compare(frames[i], frames[j], lpips, edit))
    return {pair: _mean(measured) for pair, measured in rows.items()}


def _partner(index: int, step: int, count: int) -> int:
    """Return the photo `step` after this one, or before it at the end of the scene."""
    return index + step if index + step < count else max(index - step, 0)


@torch.inference_mode()
def _decoded_frame(
    bench: Bench, lifter: SceneLifter, decode: Decoder, edit: EditDirection | None, index: int
) -> _DecodedFrame:
    model, camera = bench.source.model, bench.camera(index)
    view = lifter.lift(lifter.plan(camera, lifter.choose(camera), {"lifted": bench.source}))
    rendered = RenderedView(view.frame.image, view.frame.coverage)
    photo = RenderedView(bench.photo(index)[0], torch.ones_like(rendered.coverage))
    decoded = {
        "lifted": decode(FeatureMap(view.frame.features["lifted"], view.grids["lifted"]), rendered),
        "2d-on-render": decode(model.checked_encode(rendered.image), rendered),
        "2d-on-photo": decode(bench.source.read(index), photo),
    }
    before = {method: (photo if method == "2d-on-photo" else rendered).image for method in decoded}
    edits = {method: edit.of(before[method], decoded[method]) for method in decoded} if edit else {}
    size = decoded["lifted"].shape[1:]  # larger than the view for superres
    decoded["rendered-colour"] = F.interpolate(rendered.image[None], size, mode="bicubic", antialias=True)[0]
    # Depth is not interpolated: there is no surface between two surfaces.
    depth, coverage = F.interpolate(torch.stack([view.frame.depth, rendered.coverage])[None], size)[0]
    return _DecodedFrame(camera.resized(size[1], size[0]), depth, coverage, decoded, edits)


def compare(
    a: _DecodedFrame, b: _DecodedFrame, lpips: Lpips | None = None, edit: EditDirection | None = None
) -> dict[str, dict[str, float]]:
    """Return, by method, the difference of two frames over the surface that both show; NaN where there is none."""
    uv, shared = correspondences(a.camera, a.depth, b.camera, b.depth, (a.coverage, b.coverage))
    rows = {}
    for method, image in a.decoded.items():
        warped = sample_map(b.decoded[method][None], uv[None])[0]
        here, there = image.flatten(1)[:, shared], warped[:, shared]
        chroma = (lab_from_rgb(here[:, None])[1:] - lab_from_rgb(there[:, None])[1:]).square().mean().sqrt()
        row = rows[method] = {"rmse": float((here - there).square().mean().sqrt()), "chroma": float(chroma)}
        if lpips is not None:
            row["lpips"] = lpips(image, warped.reshape(image.shape), shared.reshape(image.shape[1:]))
        row["shared"] = float(shared.float().mean())
        if method in a.edits:
            row["direction_similarity"] = alike(a.edits[method], edit.wanted)
            row["direction_consistency"] = alike(a.edits[method], b.edits[method])
    return rows


def correspondences(
    a: Camera, depth_a: Tensor, b: Camera, depth_b: Tensor, coverage: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Find the pixels of one frame in another: [H * W, 2] pixels of `b`, and which of them `b` shows too.

    Args:
        a, b: cameras.
        depth_a, depth_b: [H, W] z-depth of their pixels.
        coverage: [H, W] of both; with low coverage, a pixel shows no surface.
    """
    rays = pixel_centers(a.width, a.height, depth_a.device)
    uv, z = EpipolarLines.between(a, [b], depth_a.device).project(rays, depth_a.reshape(-1, 1))
    uv, z = uv[0, :, 0], z[0, :, 0]
    expected = sample_map(depth_b[None, None], uv[None])[0, 0]
    shared = inside(uv, b.width, b.height) & ((z / expected - 1).abs() < _SAME_SURFACE)
    if coverage is not None:
        shared &= coverage[0].flatten() > _MIN_COVERAGE
        shared &= sample_map(coverage[1][None, None], uv[None])[0, 0] > _MIN_COVERAGE
    return uv, shared


def _mean(rows: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Average over the pairs that share a surface."""
    rows = [row for row in rows if all(measured["shared"] > 0 for measured in row.values())]
    if not rows:
        return {}
    return {
        method: {key: statistics.fmean(row[method][key] for row in rows) for key in rows[0][method]}
        for method in METHODS
    }
