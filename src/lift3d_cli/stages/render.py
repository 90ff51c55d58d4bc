"""render: colour, depth and features at every pose of a camera path, into a folder that can be gone on with."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

import lift3d_cli
from lift3d_cli.cache.atomic import write_atomic
from lift3d_cli.cache.format import EncoderRecord, slug
from lift3d_cli.cache.renders import Render, render_dir, render_key
from lift3d_cli.config import RenderConfig
from lift3d_cli.errors import CacheError
from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.geometry.grids import FeatureGrid
from lift3d_cli.models.base import FeatureMap, Model
from lift3d_cli.scene.paths import CameraPath
from lift3d_cli.stages.device import resolve_device
from lift3d_cli.stages.encode import Progress, encoded_size, model_of, no_progress
from lift3d_cli.stages.lift import Choice, LiftedView, SceneLifter
from lift3d_cli.stages.photos import Recent, ScenePhotos
from lift3d_cli.stages.renderers import make_renderer


class CachedFeatures:
    """Features of one encoder from the scene cache: a `FeatureSource`."""

    def __init__(self, photos: ScenePhotos, encoder: EncoderRecord, keep: int, model: Model | None = None) -> None:
        self.encoder = encoder
        self.model: Model = model or model_of(encoder)
        self.photos = photos
        self._recent: Recent[FeatureMap] = Recent(keep)

    def size(self, index: int) -> tuple[int, int]:
        """See `FeatureSource`."""
        return encoded_size(self.encoder, self.photos.scene.views[index].camera)

    def read(self, index: int) -> FeatureMap:
        """See `FeatureSource`."""
        record = self.photos.record(index, self.size(index))
        return self._recent.get(index, lambda: FeatureMap(*self.photos.cache.read_features(self.encoder, record)))


def render(
    photos: ScenePhotos,
    path: CameraPath,
    name: str,
    config: RenderConfig,
    output: Path | None = None,
    progress: Progress = no_progress,
) -> Path:
    """Render every pose of a path that is not rendered yet; returns the render's folder.

    Args:
        photos: the scene's photos, with a cache.
        path: the poses.
        name: of the render, for people.
        config: settings.
        output: folder instead of one in the cache.

    Raises:
        SceneError, CacheError, ModelError, ResourceError: in one line.
    """
    device = resolve_device(config.device)
    renderer = make_renderer(config, device)
    lifter = SceneLifter(photos, photos.points(), renderer, config.views, device)
    choices = [lifter.choose(camera) for camera in path.cameras]
    used = sorted({i for choice in choices for i in choice.sources})
    features = {e.name: CachedFeatures(photos, e, 2 * config.views) for e in _encoders(photos, used, config)}
    content = _content(photos, path, choices, config.views, renderer.settings())
    facts = {"scene": str(photos.scene.root.resolve()), "fps": path.fps, "names": list(path.names)}
    root = output or render_dir(photos.cache.root, name, content)
    colors = Render.create(root, content, facts)
    lifted = {name: _features_render(colors, source.encoder, config.dtype) for name, source in features.items()}
    todo_colors = set(colors.missing())
    missing = {name: set(r.missing()) for name, r in lifted.items()}
    todo = sorted(todo_colors.union(*missing.values()))
    for index in progress(todo, "render", len(todo)):
        wanted = {name: source for name, source in features.items() if index in missing[name]}
        view = lifter.lift(path.cameras[index], choices[index], wanted)
        if index in todo_colors:
            _write_colors(colors, index, view)
        for name, data in view.frame.features.items():
            lifted[name].write_frame(index, data.cpu(), view.grids[name])
    return root


def _features_render(colors: Render, encoder: EncoderRecord, dtype: str) -> Render:
    """An encoder's lifted features: they join the render of the colours, also when they are made later."""
    content = {"frames": colors.content["frames"], "dtype": dtype, "render": colors.key, "encoder": encoder.key}
    facts = {"ref": encoder.ref, "model": encoder.name, "fingerprint": dict(encoder.fingerprint)}
    return Render.create(
        colors.root / "feats" / f"{slug(encoder.name, 'model')}-{render_key(content)[:8]}", content, facts
    )


def _encoders(photos: ScenePhotos, used: Sequence[int], config: RenderConfig) -> list[EncoderRecord]:
    """The encoders to lift, and a clear word now if a photo that is needed is not encoded."""
    cache = photos.cache
    if config.models:
        encoders = [cache.find_encoder(name) for name in config.models]
    else:
        encoders = list({e.name: e for e in cache.encoders()}.values())
    for encoder in encoders:
        records = [photos.record(i, encoded_size(encoder, photos.scene.views[i].camera)) for i in used]
        missing = cache.missing(encoder, records)
        if missing:
            raise CacheError(
                f"{cache.root}: {len(missing)} of {len(records)} photos are not encoded with {encoder.name} "
                f"(first: {missing[0].name}). "
                f"hint: lift3d encode {photos.scene.root} --model {shlex.quote(encoder.ref)}"
            )
    return encoders


def _content(
    photos: ScenePhotos, path: CameraPath, choices: Sequence[Choice], views: int, renderer: Mapping[str, object]
) -> dict[str, object]:
    """Everything that the rendered colours depend on."""
    used = sorted({i for choice in choices for i in choice.sources})
    return {
        "version": lift3d_cli.__version__,
        "frames": len(path),
        "dtype": "fp32",  # of the depth
        "cameras": [camera_json(camera) for camera in path.cameras],
        "sources": [[photos.record(i).key, photos.scene.views[i].camera.w2c.tolist()] for i in used],
        # Per pose: near and far, and which of the sources. They follow from all photos, by the points of the surfaces.
        "choices": [[*choice.depth_range, [used.index(i) for i in choice.sources]] for choice in choices],
        "views": views,
        "renderer": renderer,
    }


def camera_json(camera: Camera) -> dict[str, object]:
    """A camera as JSON values."""
    return {"K": camera.K.tolist(), "w2c": camera.w2c.tolist(), "width": camera.width, "height": camera.height}


def _write_colors(colors: Render, index: int, view: LiftedView) -> None:
    frame = view.frame
    write_atomic(colors.color_path(index), encode_png(to_uint8(frame.image)))
    height, width = frame.depth.shape
    coverage = (frame.coverage * 255).round().to(torch.uint8).cpu()
    colors.write_frame(
        index,
        frame.depth[None].cpu(),
        FeatureGrid(width, height, (1.0, 1.0)),
        {"coverage": coverage, "sources": torch.tensor(list(view.choice.sources), dtype=torch.int32)},
    )


def to_uint8(image: torch.Tensor) -> np.ndarray:
    """[3, H, W] in [0, 1] to [H, W, 3] uint8."""
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def encode_png(image: np.ndarray) -> bytes:
    """[H, W, 3] uint8 RGB as the bytes of a PNG file."""
    import cv2

    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
