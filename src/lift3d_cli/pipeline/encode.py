"""encode: run every photo through each model's encoder, once."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from lift3d_cli.cache.format import EncoderRecord
from lift3d_cli.config import EncodeConfig
from lift3d_cli.errors import ModelError
from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.machine.background import BackgroundWriter, prefetched
from lift3d_cli.machine.device import resolve_device
from lift3d_cli.machine.progress import Progress, no_progress
from lift3d_cli.models.base import Model
from lift3d_cli.models.fingerprint import fingerprint, is_made_by
from lift3d_cli.models.registry import ModelRef, find_model, find_recorded_model
from lift3d_cli.pipeline.workspace import Workspace, shrunk_size
from lift3d_cli.scene.scene import Photo


@dataclass(frozen=True)
class Encoded:
    """The result of `encode` for one model.

    Args:
        model: its name.
        folder: folder of the features.
        num_encoded: photos encoded now.
        num_reused: photos that were encoded before.
    """

    model: str
    folder: Path
    num_encoded: int
    num_reused: int


def encode(workspace: Workspace, config: EncodeConfig, progress: Progress = no_progress) -> list[Encoded]:
    """Encode all photos of a scene that are missing in its cache; an interrupted run continues where it stopped.

    Raises:
        SceneError, CacheError, ModelError, ResourceError: with the photo or model at fault.
    """
    if workspace.cache is None:
        raise ValueError("encode needs a cache")
    device = resolve_device(config.device)
    return [_encode_model(workspace, find_model(name), config, device, progress) for name in config.models]


def _encode_model(
    workspace: Workspace, ref: ModelRef, config: EncodeConfig, device: torch.device, progress: Progress
) -> Encoded:
    cache = workspace.cache
    model = ref.load()
    max_size = config.max_size or model.spec.max_size
    made_by = fingerprint(model, ref) | {"max_size": max_size, "seed": config.seed}
    encoder = EncoderRecord(model.spec.name, ref.ref, config.dtype, made_by, asdict(model.spec))
    views = range(workspace.num_photos)
    records = {i: workspace.record(i, encoded_size(encoder, workspace.camera(i))) for i in views}
    todo = [i for i in views if config.force or not cache.has_features(encoder, records[i])]
    if todo:
        model.to(device)  # before the first features make it the latest encoder: it may fail
    else:
        cache.begin(encoder)
    # Photos are encoded one at a time: batches of 4 are 0.6 to 1.1 times as fast on a CPU, and the last bits of a
    # photo's features would depend on the rest of its batch.
    with prefetched(todo, lambda i: workspace.resized(i, *records[i].size)) as resized, BackgroundWriter() as later:
        for i, photo in zip(progress(todo, f"encode {model.spec.name}", len(todo)), resized, strict=True):
            # Another process may have encoded it meanwhile.
            if not config.force and cache.has_features(encoder, records[i]):
                continue
            torch.manual_seed(config.seed)  # per photo: independent of their order and of what was encoded before
            features = model.checked_encode(to_image(photo, device), workspace.scene.views[i].name)
            cache.write_features(encoder, records[i], features.data, features.grid, later)
    return Encoded(model.spec.name, cache.features_dir(encoder), len(todo), len(views) - len(todo))


def encoded_size(encoder: EncoderRecord, camera: Camera) -> tuple[int, int]:
    """Return (width, height) of the image that an encoder gets for a photo of this camera."""
    return shrunk_size(camera, encoder.max_size)


def to_image(photo: Photo, device: torch.device | str = "cpu") -> torch.Tensor:
    """Convert a photo's pixels to [3, H, W] float32 in [0, 1]."""
    return torch.from_numpy(photo.image).to(device).permute(2, 0, 1).float().div_(255)


def model_of(encoder: EncoderRecord, *folders: Path) -> Model:
    """Load the model that made an encoder's features, to ask for its grid or to decode with.

    Args:
        encoder: the encoder, as the cache has it.
        folders: see `find_recorded_model`.

    Raises:
        ModelError: if the model is missing, or has changed since.
    """
    ref = find_recorded_model(encoder.ref, *folders)
    model = ref.load()
    if not is_made_by(encoder.fingerprint, model, ref):
        raise ModelError(
            f"model {encoder.name}: changed since the photos were encoded with it. "
            f"hint: lift3d encode SCENE --model {shlex.quote(encoder.ref)}"
        )
    return model
