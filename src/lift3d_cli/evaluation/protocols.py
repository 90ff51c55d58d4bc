"""eval: leave photos out, render them from the others, compare."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lift3d_cli.config import DecodeConfig, EvalConfig, RenderConfig
from lift3d_cli.errors import ModelError, SceneError
from lift3d_cli.evaluation.lpips import NOT_MEASURED, Lpips
from lift3d_cli.evaluation.metrics import feature_mse, ssim
from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.geometry.grids import FeatureGrid, sample_map
from lift3d_cli.machine.atomic import write_output
from lift3d_cli.machine.device import resolve_device
from lift3d_cli.machine.png import encode_png, to_uint8
from lift3d_cli.machine.progress import Progress, no_progress
from lift3d_cli.models.base import DecodeContext, Decoder, FeatureMap, Model, OnAccess, RenderedView, Segmentation
from lift3d_cli.models.heads import segment_clusters, segment_strokes
from lift3d_cli.models.registry import find_model
from lift3d_cli.pipeline.decode_options import decode_options, photo_index
from lift3d_cli.pipeline.encode import to_image
from lift3d_cli.pipeline.held_out import HeldOutPhotos, psnr
from lift3d_cli.pipeline.lift import LiftedView, SceneLifter
from lift3d_cli.pipeline.lifted_features import cell_points
from lift3d_cli.pipeline.renderers import make_renderer
from lift3d_cli.pipeline.surfaces import PhotoSurfaces
from lift3d_cli.pipeline.workspace import Recent, Workspace
from lift3d_cli.scene.photo_files import free_name
from lift3d_cli.scene.scene import Photo, Scene


class EncodedOnTheSpot:
    """Features of photos, encoded on demand: a `FeatureSource`."""

    def __init__(self, photos: Workspace, model: Model, device: torch.device, keep: int) -> None:
        self.model = model.to(device)
        self._photos = photos
        self._device = device
        self._recent: Recent[FeatureMap] = Recent(keep)

    def size(self, index: int) -> tuple[int, int]:
        """See `FeatureSource`."""
        camera = self._photos.camera(index)
        return camera.width, camera.height

    def read(self, index: int, keep: bool = True) -> FeatureMap:
        """See `FeatureSource`."""
        return self._recent.get(index, lambda: self._encode(index))

    def _encode(self, index: int) -> FeatureMap:
        image = to_image(self._photos.resized(index, *self.size(index)), self._device)
        return self.model.checked_encode(image, self._photos.scene.views[index].name)


class Bench:
    """A scene with some photos left out, and the means to render them from the others; the basis of every protocol.

    Args:
        scene: at least two photos, one of which is not left out.
        config: settings; without a model, `source` is None.
        photos: the scene's photos, if they exist already.

    Raises:
        SceneError, ModelError, ResourceError: in one line.
    """

    def __init__(self, scene: Scene, config: EvalConfig, photos: HeldOutPhotos | None = None) -> None:
        self.scene = scene
        self.config = config
        self.device = resolve_device(config.device)
        self.photos = photos or HeldOutPhotos(scene, config.height, config.every, config.views)
        self.held_out, self.candidates = self.photos.held_out, self.photos.candidates
        settings = RenderConfig(memory=config.memory, weights=config.weights)
        self.renderer = make_renderer(settings, self.device, config.variant)
        self.source: EncodedOnTheSpot | None = None
        if config.model:
            model = find_model(config.model).load()
            self.source = EncodedOnTheSpot(self.photos, model, self.device, 3 * config.views)
        self.task = config.task or (self.source.model.spec.tasks[0] if self.source else "")

    def lifter(self, views: int = 0) -> SceneLifter:
        """Make a lifter from the photos that are not left out, `views` per target at most; 0 for the config's."""
        return self.photos.lifter(self.renderer, self.device, views)

    def camera(self, index: int) -> Camera:
        """Return a photo's camera, at the size used here."""
        return self.photos.camera(index)

    def photo(self, index: int) -> tuple[Tensor, Tensor]:
        """Return a photo's pixels [3, H, W], and which of them [H, W] are ground truth.

        Raises:
            SceneError: if no pixel is.
        """
        image, counts = self.photos.truth(index, self.device)
        if not counts.any():
            name = self.scene.views[index].name
            raise SceneError(f"{name}: no pixel of it has ground truth, all are masked or transparent")
        return image, counts

    @torch.inference_mode()
    def decoder(self, task: str, photos: Sequence[int] | None = None, surfaces: PhotoSurfaces | None = None) -> Decoder:
        """Make the decoder of frames; all frames use the same seed.

        Any model's features can be segmented, by strokes or clusters.

        Args:
            task: the task.
            photos: indices of the photos that it is prepared on; None for those that are not left out.
            surfaces: of these photos, for the points of their cells; None not to have them.

        Raises:
            ModelError: if the model cannot do the task.
        """
        config, model = self.config, self.source.model
        settings = DecodeConfig(
            text=config.text,
            strokes=config.strokes,
            view=config.view,
            clusters=0 if config.text or config.strokes else config.clusters,
            style=config.style,
        )
        # In place of frames.
        chosen = self.candidates if photos is None else photos
        frames = OnAccess(len(chosen), lambda i: self._features(chosen[i], surfaces))
        views = OnAccess(len(chosen), lambda i: self._view(chosen[i]))
        context = DecodeContext(task, decode_options(settings), frames, self._by_name, views)
        torch.manual_seed(0)
        if task in model.spec.tasks:
            decode = model.decoder(context)
        elif task == "segment" and not config.text:
            decode = segment_strokes(context) if config.strokes else segment_clusters(context.frames, config.clusters)
        else:
            does = ", ".join(model.spec.tasks)
            raise ModelError(f"model {model.spec.name}: cannot {task}{' by --text' * bool(config.text)}, only {does}")

        def seeded(features: FeatureMap, view: RenderedView) -> Tensor | Segmentation:
            torch.manual_seed(0)
            return decode(features, view)

        return seeded

    def _features(self, index: int, surfaces: PhotoSurfaces | None) -> FeatureMap:
        features = self.source.read(index)
        if surfaces is None:
            return features
        inverse, _, sure = surfaces.get(index)
        depth = torch.where(sure > 0, 1 / inverse, torch.nan)
        points = cell_points(features.grid, self.camera(index), depth)
        return FeatureMap(features.data, features.grid, points.to(features.data.device))

    def _view(self, index: int) -> RenderedView:
        image = self.photo(index)[0]
        return RenderedView(image, torch.ones_like(image[0]))

    def _by_name(self, name: str) -> tuple[FeatureMap, Tensor]:
        index = photo_index(self.scene, name)
        if index in self.held_out:
            raise SceneError(f"{name}: is one of the photos that are left out. hint: another --view, or --every")
        return self.source.read(index), self.photo(index)[0]


def evaluate(
    scene: Scene,
    config: EvalConfig,
    progress: Progress = no_progress,
    photos: HeldOutPhotos | None = None,
    save: Path | None = None,
) -> dict[str, object]:
    """Render left-out photos from the others and measure; a left-out photo is never a source.

    Pixels without ground truth (undistortion borders, masked or transparent ones) do not count.

    Args:
        scene: at least two photos, one of which is not left out.
        config: settings.
        progress: see `Progress`.
        photos: see `Bench`.
        save: folder for pictures of photo, render and depth side by side; or None.

    Returns:
        JSON values: settings, `views` with the metrics of each, `mean`, and why a metric is `not_measured`.

    Raises:
        SceneError, ModelError, ResourceError: in one line.
    """
    lpips = Lpips(config.lpips, resolve_device(config.device)) if config.lpips else None
    bench = Bench(scene, config, photos)
    lifter = bench.lifter(config.views)
    features = {"model": bench.source} if bench.source else {}
    rows, pictures = [], _picture_names([scene.views[i].name for i in bench.held_out])
    for k, i in enumerate(progress(bench.held_out, f"eval {scene.root.name}", len(bench.held_out))):
        camera = bench.camera(i)
        view = lifter.lift(lifter.plan(camera, lifter.choose(camera), features))
        rows.append({"name": scene.views[i].name, **_measure(view, bench, i, lpips)})
        rows[-1]["sources"] = [scene.views[j].name for j in view.choice.sources]
        if save is not None:
            photo = bench.photos.resized(i, camera.width, camera.height)
            write_output(save / pictures[k], encode_png(side_by_side(view, photo)))
    metrics = [key for key, value in rows[0].items() if isinstance(value, float)]
    return {
        "scene": scene.root.name,
        "photos": bench.photos.photos_digest(),
        "every": config.every,
        "height": config.height,
        "num_views": config.views,
        "variant": config.variant,
        "model": config.model or None,
        "not_measured": {} if lpips else {"lpips": NOT_MEASURED},
        "mean": {key: statistics.fmean(row[key] for row in rows) for key in metrics},
        "views": rows,
    }


def _measure(view: LiftedView, bench: Bench, index: int, lpips: Lpips | None) -> dict[str, object]:
    image, (truth, counts) = view.frame.image, bench.photo(index)
    row = {
        "psnr": psnr(image, truth, counts),
        "ssim": ssim(image, truth, counts),
        **({"lpips": lpips(image, truth, counts)} if lpips else {}),
        "coverage": float(view.frame.coverage.mean()),
    }
    if bench.source is not None:
        grid = view.grids["model"]
        row["feature_mse"], row["feature_mse_relative"] = feature_mse(
            view.frame.features["model"], on_grid(bench.source.read(index), grid), cells_that_count(counts, grid)
        )
    return row


def on_grid(features: FeatureMap, grid: FeatureGrid) -> Tensor:  # [C, h, w] float32
    """Sample a photo's features at the cells of `grid`, which differs where the sources have another focal length."""
    if features.grid == grid:
        return features.data.float()
    scale, offset = (torch.tensor(x) for x in (features.grid.scale, features.grid.offset))
    uv = (grid.cell_centers() * scale + offset).to(features.data.device)
    return sample_map(features.data[None].float(), uv[None])[0].reshape(-1, grid.height, grid.width)


def cells_that_count(counts: Tensor, grid: FeatureGrid) -> Tensor:  # [h, w] bool
    """Return the cells whose centre pixel has ground truth; all cells if none has."""
    uv = grid.cell_centers().to(counts.device).long()
    height, width = counts.shape
    inside = (uv >= 0).all(1) & (uv[:, 0] < width) & (uv[:, 1] < height)
    cells = inside & counts[uv[:, 1].clamp(0, height - 1), uv[:, 0].clamp(0, width - 1)]
    cells = cells.reshape(grid.height, grid.width)
    return cells if cells.any() else torch.ones_like(cells)


def _picture_names(views: Sequence[str]) -> list[str]:
    """Name pictures: `images-0007.png` for the photo `images/0007.jpg`, as all pictures are in one folder."""
    names: list[str] = []
    for view in views:
        names.append(free_name(Path(view).with_suffix(".png").as_posix().replace("/", "-"), names))
    return names


def side_by_side(view: LiftedView, photo: Photo) -> np.ndarray:
    """Join photo, render and depth to one [H, 3 W, 3] uint8 picture; near is red, far is blue, linear in 1/z."""
    import cv2

    near, far = (1 / z for z in view.choice.depth_range)
    shade = ((1 / view.frame.depth - far) / (near - far)).clamp(0, 1)
    gray = (shade.cpu().numpy() * 255).astype(np.uint8)
    depth = cv2.cvtColor(cv2.applyColorMap(gray, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    return np.concatenate([photo.image, to_uint8(view.frame.image), depth], 1)
