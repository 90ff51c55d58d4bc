"""How much decoded frames of nearby and distant viewpoints contradict each other.

Two frames are compared where both show the same surface: pixels of one are looked up in the other by the rendered
depth, and left out where the other's depth says that something stands in between (as in StyleRF, Liu et al. 2023,
section 4.2, with our depth instead of optical flow). Lifted frames are compared with the two ways of using the 2D
model alone, on each rendered frame and on each real photo, and with the rendered colour itself: it says what no
decoding can be below, from depth that is not exact and from colours that change with the direction.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lift3d_cli.config import EvalConfig, RenderConfig
from lift3d_cli.evaluation.protocols import EncodedOnTheSpot, split
from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.geometry.epipolar import EpipolarLines
from lift3d_cli.geometry.grids import inside, pixel_centers, sample_map
from lift3d_cli.models.base import FeatureMap, Model, RenderedView
from lift3d_cli.models.color_space import lab_from_rgb
from lift3d_cli.registry import find_model
from lift3d_cli.scene.scene import Scene
from lift3d_cli.stages.device import resolve_device
from lift3d_cli.stages.encode import Progress, no_progress, to_image
from lift3d_cli.stages.lift import SceneLifter
from lift3d_cli.stages.photos import ResizedPhotos
from lift3d_cli.stages.renderers import make_renderer

METHODS = ("lifted", "2d-on-render", "2d-on-photo", "rendered-colour")
# Photos from one left-out photo to the other of a pair, in the order of names.
PAIRS = {"near": 1, "far": 4}
# Two depths within this part of each other are one surface.
_SAME_SURFACE = 0.02
_MIN_COVERAGE = 0.9


@dataclass(frozen=True)
class _Frame:
    camera: Camera
    depth: Tensor  # [H, W]
    coverage: Tensor  # [H, W]
    decoded: Mapping[str, Tensor]  # by method, [3, H, W]


def measure_consistency(
    scene: Scene, config: EvalConfig, task: str = "", progress: Progress = no_progress
) -> dict[str, object]:
    """Compare decoded frames at left-out photos with those at their neighbours.

    No frame of a pair is rendered from a photo of the pair.

    Args:
        scene: photos in the order of the camera's way.
        config: settings; its model decodes.
        task: what to decode to; the model's first if empty.
        progress: see `Progress`.

    Returns:
        JSON values: by pair (near, far), by method: `rmse` of sRGB, `chroma`: RMSE of Lab's a and b (what a colorizer
        adds), `shared`: the part of the picture that was compared.

    Raises:
        SceneError, ModelError, ResourceError: in one line.
    """
    device = resolve_device(config.device)
    held_out, _ = split(scene, config.every)
    photos = ResizedPhotos(scene, config.height, keep=8 * config.views)
    model = find_model(config.model).load()
    task = task or model.spec.tasks[0]
    source = EncodedOnTheSpot(photos, model, device, 3 * config.views)
    renderer = make_renderer(RenderConfig(memory=config.memory, weights=config.weights), device, config.variant)
    rows: dict[str, list[dict[str, dict[str, float]]]] = {pair: [] for pair in PAIRS}
    for i in progress(held_out, f"consistency {scene.root.name}", len(held_out)):
        partners = {pair: _partner(i, step, len(scene.views)) for pair, step in PAIRS.items()}
        pool = [j for j in range(len(scene.views)) if j != i and j not in partners.values()]
        lifter = SceneLifter(photos, photos.points(pool), renderer, config.views, device, pool)
        frames = {j: _frame(lifter, source, j, photos, task) for j in {i, *partners.values()}}
        for pair, j in partners.items():
            rows[pair].append(compare(frames[i], frames[j]))
    return {pair: _mean(measured) for pair, measured in rows.items()}


def _partner(index: int, step: int, count: int) -> int:
    """The photo `step` after this one, or before it at the end of the scene."""
    return index + step if index + step < count else max(index - step, 0)


@torch.inference_mode()
def _frame(lifter: SceneLifter, source: EncodedOnTheSpot, index: int, photos: ResizedPhotos, task: str) -> _Frame:
    model: Model = source.model
    camera = photos.scene.views[index].camera
    view = lifter.lift(camera, lifter.choose(camera), {"lifted": source})
    rendered = RenderedView(view.frame.image, view.frame.coverage)
    photo = to_image(photos.resized(index, camera.width, camera.height), rendered.image.device)
    lifted = FeatureMap(view.frame.features["lifted"], view.grids["lifted"])
    decoded = {
        "lifted": model.decode(lifted, rendered, task),
        "2d-on-render": model.decode(model.checked_encode(rendered.image), rendered, task),
        "2d-on-photo": model.decode(source.read(index), RenderedView(photo, torch.ones_like(rendered.coverage)), task),
        "rendered-colour": rendered.image,
    }
    return _Frame(camera, view.frame.depth, view.frame.coverage, decoded)


def compare(a: _Frame, b: _Frame) -> dict[str, dict[str, float]]:
    """By method, the difference of two frames over the surface that both show; NaN where they share none."""
    uv, shared = correspondences(a.camera, a.depth, b.camera, b.depth)
    shared = shared & (a.coverage.flatten() > _MIN_COVERAGE)
    shared = shared & (sample_map(b.coverage[None, None], uv[None])[0, 0] > _MIN_COVERAGE)
    rows = {}
    for method, image in a.decoded.items():
        here = image.flatten(1)[:, shared]
        there = sample_map(b.decoded[method][None], uv[None])[0][:, shared]
        chroma = (lab_from_rgb(here[:, None])[1:] - lab_from_rgb(there[:, None])[1:]).square().mean().sqrt()
        rows[method] = {
            "rmse": float((here - there).square().mean().sqrt()),
            "chroma": float(chroma),
            "shared": float(shared.float().mean()),
        }
    return rows


def correspondences(a: Camera, depth_a: Tensor, b: Camera, depth_b: Tensor) -> tuple[Tensor, Tensor]:
    """Where the pixels of one frame are in another: [H * W, 2] pixels of `b`, and which of them `b` shows too.

    Args:
        a, b: cameras.
        depth_a, depth_b: [H, W] z-depth of their pixels.
    """
    rays = pixel_centers(a.width, a.height, depth_a.device)
    uv, z = EpipolarLines.between(a, [b], depth_a.device).project(rays, depth_a.reshape(-1, 1))
    uv, z = uv[0, :, 0], z[0, :, 0]
    expected = sample_map(depth_b[None, None], uv[None])[0, 0]
    return uv, inside(uv, b.width, b.height) & ((z / expected - 1).abs() < _SAME_SURFACE)


def _mean(rows: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Mean over the pairs that share something."""
    rows = [row for row in rows if all(measured["shared"] > 0 for measured in row.values())]
    if not rows:
        return {}
    return {
        method: {key: statistics.fmean(row[method][key] for row in rows) for key in rows[0][method]}
        for method in METHODS
    }
