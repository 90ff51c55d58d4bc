"""decode: rendered features through their model's own decoder, to PNG frames and a video."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lift3d_cli.cache.atomic import replace_file
from lift3d_cli.cache.renders import Render
from lift3d_cli.config import DecodeConfig
from lift3d_cli.errors import CacheError, ModelError, ResourceError
from lift3d_cli.models.base import FeatureMap, Model, RenderedView
from lift3d_cli.models.fingerprint import fingerprint
from lift3d_cli.registry import find_model
from lift3d_cli.stages.device import resolve_device
from lift3d_cli.stages.encode import Progress, no_progress
from lift3d_cli.stages.render import encode_png, to_uint8


@dataclass(frozen=True)
class Decoded:
    """What `decode` wrote.

    Args:
        frames: folder of PNGs, one per pose.
        video: the MP4, or None.
        note: a line for the user, or "".
    """

    frames: Path
    video: Path | None
    note: str = ""


def decode(render: Path, output: Path, config: DecodeConfig, progress: Progress = no_progress) -> Decoded:
    """Decode every frame of a render into `output/<task>/` and `output/<task>.mp4`.

    Raises:
        CacheError: if the render is missing, unfinished, or has no features for the task.
        ModelError, ResourceError: in one line.
    """
    colors = Render.open(render)
    features, model, task = _choose(render, config)
    total = colors.content["frames"]
    unfinished = len(set(colors.missing()) | set(features.missing()))
    if unfinished:
        raise CacheError(
            f"{render}: {unfinished} of {total} frames are not rendered yet. hint: run lift3d render again"
        )
    model.to(resolve_device(config.device))
    frames = output / task
    names = [f"{name}.png" for name in colors.facts["names"]]
    sizes = {(camera["width"], camera["height"]) for camera in colors.content["cameras"]}
    video = output / f"{task}.mp4" if config.video and len(sizes) == 1 and total > 1 else None
    fps = config.fps or float(colors.facts["fps"])
    with _video_writer(video, fps) as append:
        for index in progress(range(total), f"decode {task}", total):
            torch.manual_seed(config.seed)  # per frame: the same noise in all of them
            image = to_uint8(_decode_frame(colors, features, model, task, index))
            write_output(frames / names[index], encode_png(image))
            append(image)
    note = "no video: the poses are of different sizes" if config.video and len(sizes) > 1 else ""
    return Decoded(frames, video, note)


def _choose(render: Path, config: DecodeConfig) -> tuple[Render, Model, str]:
    """The lifted features to decode, of several of one model the ones rendered last; their model, and the task."""
    manifests = sorted(render.glob("feats/*/manifest.json"), key=lambda path: (path.stat().st_mtime_ns, path))
    latest = {r.facts["model"]: r for r in (Render.open(path.parent) for path in manifests)}
    found = [r for _, r in sorted(latest.items())]
    names = [r.facts["model"] for r in found]
    hint = "hint: lift3d encode SCENE --model MODEL, then lift3d render again"
    if not found:
        raise CacheError(f"{render}: has colour only, no features of any model. {hint}")
    if config.model:
        found = [r for r in found if r.facts["model"] == config.model]
        if not found:
            raise CacheError(f"{render}: has no features of {config.model}, only of {', '.join(names)}. {hint}")
    able = []
    for r in found:
        spec = find_model(r.facts["ref"]).spec()
        task = config.task or spec.tasks[0]
        if task in spec.tasks:
            able.append((r, task))
    if not able:
        raise CacheError(f"{render}: none of its models ({', '.join(names)}) can do '{config.task}'. {hint}")
    if len(able) > 1:
        tasks = ", ".join(f"--model {r.facts['model']} --task {task}" for r, task in able)
        raise CacheError(f"{render}: which of its features? hint: {tasks}")
    chosen, task = able[0]
    ref = find_model(chosen.facts["ref"])
    model = ref.load()
    if not fingerprint(model, ref).items() <= chosen.facts["fingerprint"].items():
        raise ModelError(
            f"model {ref.name}: changed since its features were rendered. hint: lift3d encode, then render"
        )
    return chosen, model, task


@torch.inference_mode()
def _decode_frame(colors: Render, features: Render, model: Model, task: str, index: int) -> torch.Tensor:
    device = next((p.device for p in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    _, _, extra = colors.read_frame(index)
    image = torch.from_numpy(read_png(colors.color_path(index))).permute(2, 0, 1).to(device).float().div(255)
    data, grid, _ = features.read_frame(index)
    view = RenderedView(image, extra["coverage"].to(device).float().div(255))
    out = model.decode(FeatureMap(data.to(device).float(), grid), view, task)
    if out.shape != image.shape or not torch.isfinite(out).all():
        raise ModelError(
            f"model {model.spec.name}: decode() gave {tuple(out.shape)}, with or without NaN; "
            f"it must give a finite image {tuple(image.shape)}"
        )
    return out


def write_output(path: Path, data: bytes) -> None:
    """Write a file that the user asked for, whole or not at all.

    Raises:
        ResourceError: if it cannot be written.
    """
    try:
        replace_file(path, data)
    except OSError as e:
        raise ResourceError(f"{path}: cannot be written ({e.strerror or e})") from e


def read_png(path: Path) -> np.ndarray:
    """A PNG file as [H, W, 3] uint8 RGB."""
    import cv2

    try:
        image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error):
        image = None
    if image is None:
        raise CacheError(f"{path}: damaged or missing. hint: delete the render's folder and run lift3d render")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


@contextmanager
def _video_writer(path: Path | None, fps: float) -> Iterator:
    """Gives a function that appends a frame [H, W, 3] uint8; the file appears when all is written."""
    if path is None:
        yield lambda image: None
        return
    import imageio.v2 as imageio

    temporary = path.with_name(f".{path.stem}-{os.getpid()}.tmp.mp4")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # yuv420p halves the chroma in both directions, so sides must be even; 8 is close to lossless to the eye.
        writer = imageio.get_writer(temporary, fps=fps, codec="libx264", quality=8, macro_block_size=1)
        try:
            yield lambda image: writer.append_data(_even(image))
        finally:
            writer.close()
        os.replace(temporary, path)
    except OSError as e:
        raise ResourceError(f"{path}: cannot be written ({e.strerror or e})") from e
    finally:
        with suppress(OSError):
            temporary.unlink()


def _even(image: np.ndarray) -> np.ndarray:
    """Repeat the last row and column of an image with odd sides."""
    return np.pad(image, ((0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)), mode="edge")
