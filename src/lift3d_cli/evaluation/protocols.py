"""eval: leave photos out, render them from the others, compare."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lift3d_cli.config import EvalConfig, RenderConfig
from lift3d_cli.errors import SceneError
from lift3d_cli.evaluation.metrics import feature_mse, psnr, ssim
from lift3d_cli.geometry.grids import FeatureGrid, sample_map
from lift3d_cli.models.base import FeatureMap, Model
from lift3d_cli.registry import find_model
from lift3d_cli.scene.scene import Photo, Scene
from lift3d_cli.stages.device import resolve_device
from lift3d_cli.stages.encode import Progress, no_progress, to_image
from lift3d_cli.stages.lift import LiftedView, SceneLifter
from lift3d_cli.stages.photos import Recent, ResizedPhotos, ScenePhotos
from lift3d_cli.stages.render import encode_png, to_uint8
from lift3d_cli.stages.renderers import make_renderer
from lift3d_cli.stages.results import write_output


class EncodedOnTheSpot:
    """Features of photos as they are evaluated, made when asked for: a `FeatureSource`."""

    def __init__(self, photos: ScenePhotos, model: Model, device: torch.device, keep: int) -> None:
        self.model = model.to(device)
        self._photos = photos
        self._device = device
        self._recent: Recent[FeatureMap] = Recent(keep)

    def size(self, index: int) -> tuple[int, int]:
        """See `FeatureSource`."""
        camera = self._photos.scene.views[index].camera
        return camera.width, camera.height

    def read(self, index: int) -> FeatureMap:
        """See `FeatureSource`."""
        return self._recent.get(index, lambda: self._encode(index))

    def _encode(self, index: int) -> FeatureMap:
        image = to_image(self._photos.resized(index, *self.size(index)), self._device)
        return self.model.checked_encode(image, self._photos.scene.views[index].name)


def evaluate(
    scene: Scene, config: EvalConfig, save: Path | None = None, progress: Progress = no_progress
) -> dict[str, object]:
    """Render left-out photos from the others and measure; a left-out photo is never a source.

    Pixels without ground truth (undistortion borders, masked or transparent ones) do not count.

    Args:
        scene: at least two photos, one of which stays.
        config: settings.
        save: folder for photo | render | depth of each, or None.

    Returns:
        JSON values: settings, `views` with the metrics of each, and `mean`.

    Raises:
        SceneError, ModelError, ResourceError: in one line.
    """
    device = resolve_device(config.device)
    held_out, candidates = split(scene, config.every)
    photos = ResizedPhotos(scene, config.height, keep=8 * config.views)
    renderer = make_renderer(RenderConfig(memory=config.memory, weights=config.weights), device, config.variant)
    lifter = SceneLifter(photos, photos.points(candidates), renderer, config.views, device, candidates)
    features = {}
    if config.model:
        model = find_model(config.model).load()
        features[model.spec.name] = EncodedOnTheSpot(photos, model, device, 3 * config.views)
    rows = []
    for i in progress(held_out, f"eval {scene.root.name}", len(held_out)):
        camera = photos.scene.views[i].camera
        view = lifter.lift(camera, lifter.choose(camera), features)
        photo = photos.resized(i, camera.width, camera.height)
        rows.append(_measure(scene.views[i].name, view, photo, features, i))
        rows[-1]["sources"] = [scene.views[j].name for j in view.choice.sources]
        if save is not None:
            write_output(save / _picture_name(scene.views[i].name), encode_png(side_by_side(view, photo)))
    metrics = [key for key, value in rows[0].items() if isinstance(value, float)]
    return {
        "scene": scene.root.name,
        "every": config.every,
        "height": config.height,
        "num_views": config.views,
        "variant": config.variant,
        "model": config.model or None,
        "mean": {key: statistics.fmean(row[key] for row in rows) for key in metrics},
        "views": rows,
    }


def split(scene: Scene, every: int) -> tuple[list[int], list[int]]:
    """Indices of the photos to leave out, every n-th from the first, and of those to render from.

    Raises:
        SceneError: if none is left to render from.
    """
    held_out = list(range(0, len(scene.views), max(1, every)))
    candidates = [i for i in range(len(scene.views)) if i not in held_out]
    if every < 2 or not candidates:
        raise SceneError(f"{scene.root}: --every {every} leaves no photo to render from. hint: 2 or more")
    return held_out, candidates


def _measure(
    name: str, view: LiftedView, photo: Photo, features: Mapping[str, EncodedOnTheSpot], index: int
) -> dict[str, object]:
    truth = to_image(photo, view.frame.image.device)
    counts = torch.from_numpy(photo.valid & photo.opaque).to(truth.device)
    if not counts.any():
        raise SceneError(f"{name}: no pixel of it has ground truth, all are masked or transparent")
    row: dict[str, object] = {
        "name": name,
        "psnr": psnr(view.frame.image, truth, counts),
        "ssim": ssim(view.frame.image, truth, counts),
        "coverage": float(view.frame.coverage.mean()),
    }
    for model, source in features.items():
        grid = view.grids[model]
        row["feature_mse"], row["feature_mse_relative"] = feature_mse(
            view.frame.features[model], on_grid(source.read(index), grid), cells_that_count(counts, grid)
        )
    return row


def on_grid(features: FeatureMap, grid: FeatureGrid) -> Tensor:  # [C, h, w] float32
    """A photo's features at the cells of `grid`, which is another one where the sources are of other focal length."""
    if features.grid == grid:
        return features.data.float()
    scale, offset = (torch.tensor(x) for x in (features.grid.scale, features.grid.offset))
    uv = (grid.cell_centers() * scale + offset).to(features.data.device)
    return sample_map(features.data[None].float(), uv[None])[0].reshape(-1, grid.height, grid.width)


def cells_that_count(counts: Tensor, grid: FeatureGrid) -> Tensor:  # [h, w] bool
    """Cells whose centre pixel has ground truth; all cells if none has."""
    uv = grid.cell_centers().to(counts.device).long()
    height, width = counts.shape
    inside = (uv >= 0).all(1) & (uv[:, 0] < width) & (uv[:, 1] < height)
    cells = inside & counts[uv[:, 1].clamp(0, height - 1), uv[:, 0].clamp(0, width - 1)]
    cells = cells.reshape(grid.height, grid.width)
    return cells if cells.any() else torch.ones_like(cells)


def _picture_name(view: str) -> str:
    """`images-0007.png` for the photo `images/0007.jpg`: all pictures lie in one folder."""
    return Path(view).with_suffix(".png").as_posix().replace("/", "-")


def side_by_side(view: LiftedView, photo: Photo) -> np.ndarray:
    """photo | render | depth as one [H, 3 W, 3] uint8 picture; near is red, far is blue, evenly in 1/z."""
    import cv2

    near, far = (1 / z for z in view.choice.depth_range)
    shade = ((1 / view.frame.depth - far) / (near - far)).clamp(0, 1)
    gray = (shade.cpu().numpy() * 255).astype(np.uint8)
    depth = cv2.cvtColor(cv2.applyColorMap(gray, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    return np.concatenate([photo.image, to_uint8(view.frame.image), depth], 1)
