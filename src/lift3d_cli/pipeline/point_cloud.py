"""The surface that a render's frames show, as a PLY of points with colours, and with classes or features."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.machine.png import to_uint8
from lift3d_cli.machine.progress import Progress
from lift3d_cli.models.base import FeatureMap, Segmentation
from lift3d_cli.pipeline.class_pictures import labels_and_colors
from lift3d_cli.pipeline.decode_job import FrameInput, ModelJob, ViewJob
from lift3d_cli.pipeline.result_folder import Run, parsed_run
from lift3d_cli.pipeline.trust import DOUBTFUL

# A point of each patch of the surface as large as so many pixels: frames show the same surface again and again.
_PIXELS_PER_POINT = 1.5
# Of both neighbours, in parts of the depth: beyond it a pixel is between two surfaces, on neither.
_EDGE = 0.05
_SEEN = 0.5
_RUN = b"comment lift3d run"
_MAX_LINE_BYTES = 4096  # of a header; a longer line is not one of ours


def points(job: ViewJob, has_classes: bool, progress: Progress, run: Mapping[str, object]) -> bytes:
    """Return the points of all frames, thinned to one per patch of the surface, as a binary PLY.

    Each has x, y, z in the scene's world and its colour; with `has_classes`, the index of its class as `label` (names
    in the header) and the class's colour if it has one; or else, for a job with a model, its features f0, f1, ...

    Args:
        job: the frames.
        has_classes: decode the job's segmentation.
        progress: see `Progress`.
        run: whose points they are, for the header, see `points_run`.
    """
    names: tuple[str, ...] = ()
    kept: np.ndarray | None = None
    size = _patch_size(job)
    decoder = job.begin() if has_classes else None
    for index in progress(range(len(job.names)), "points", len(job.names)):
        frame, camera = job.read(index), job.colors.cameras[index]
        fields: dict[str, np.ndarray] = {}
        color = to_uint8(frame.image / 255)
        if has_classes:
            value = job.decode(decoder, frame).value
            if isinstance(value, Segmentation):
                labels, colors = labels_and_colors(value)
                names, fields["label"] = value.names, labels
                color = np.where(colors[labels].any(2, keepdims=True), colors[labels], color)
        v, u = np.nonzero(_on_surface(frame))
        fields = {name: values[v, u] for name, values in fields.items()}
        if isinstance(job, ModelJob) and not has_classes:
            fields |= _features(frame.features, u, v)
        new = _vertices(camera, frame.maps.depth.numpy()[v, u], u, v, color[v, u], fields)
        kept = _thinned(new if kept is None else np.concatenate([kept, new]), size)
    vertices = kept if kept is not None else np.empty(0)
    return _ply(vertices, names, job.model_name, run)


def points_run(file: Path) -> Run | None:
    """Return the run that made a file of points, by its header; None if it does not say so, or there is no file."""
    with suppress(OSError, ValueError, TypeError), file.open("rb") as opened:
        for line in iter(lambda: opened.readline(_MAX_LINE_BYTES), b""):
            if line.startswith(_RUN):
                return parsed_run(dict(json.loads(line.removeprefix(_RUN))))
            if line.rstrip() == b"end_header" or len(line) == _MAX_LINE_BYTES:
                break
    return None


def _patch_size(job: ViewJob) -> float:
    """Return the side of the patch of surface that a point stands for, in the scene's units."""
    sizes = []
    for index, camera in enumerate(job.colors.cameras):
        depth = job.colors.read_maps(index).depth
        sizes.append(float(depth.median()) / camera.K[0, 0])
    return _PIXELS_PER_POINT * float(np.median(sizes))


def _on_surface(frame: FrameInput) -> np.ndarray:  # [H, W] bool
    """Tell the pixels that photos see and agree on, away from edges of depth."""
    depth, maps = frame.maps.depth.numpy(), frame.maps
    good = maps.coverage.numpy() > 255 * _SEEN
    if maps.confidence is not None:
        good &= maps.confidence.numpy() > 255 * DOUBTFUL
    for axis in (0, 1):
        jump = np.abs(np.diff(depth, axis=axis)) > _EDGE * np.minimum(
            *(np.take(depth, range(first, depth.shape[axis] + first - 1), axis) for first in (0, 1))
        )
        ends = [(1, 0), (0, 1)]
        for end in ends:
            good &= ~np.pad(jump, [end if a == axis else (0, 0) for a in (0, 1)])
    return good


def _features(features: FeatureMap, u: np.ndarray, v: np.ndarray) -> dict[str, np.ndarray]:
    uv = torch.from_numpy(np.stack([u, v], -1) + 0.5).float()
    values = FeatureMap(features.data.float(), features.grid).at(uv[None])[:, 0].cpu().numpy()
    return {f"f{i}": channel for i, channel in enumerate(values)}


def _vertices(
    camera: Camera, z: np.ndarray, u: np.ndarray, v: np.ndarray, color: np.ndarray, fields: dict[str, np.ndarray]
) -> np.ndarray:
    xyz = camera.unproject(np.stack([u, v], 1) + 0.5, z).T
    kinds = [(axis, "<f4") for axis in "xyz"] + [(name, "u1") for name in ("red", "green", "blue")]
    kinds += [(name, "u1" if values.dtype == np.uint8 else "<f4") for name, values in fields.items()]
    out = np.empty(len(z), kinds)
    for name, values in zip(out.dtype.names, [*xyz, *color.T, *fields.values()], strict=True):
        out[name] = values
    return out


def _thinned(vertices: np.ndarray, size: float) -> np.ndarray:
    """Keep the first point of each cube of this side."""
    cells = np.stack([np.floor(vertices[axis].astype(np.float64) / size) for axis in "xyz"], 1).astype(np.int64)
    _, first = np.unique(cells, axis=0, return_index=True)
    return vertices[np.sort(first)]


def _ply(vertices: np.ndarray, names: tuple[str, ...], model: str, run: Mapping[str, object]) -> bytes:
    def lines() -> Iterator[str]:
        yield from ("ply", "format binary_little_endian 1.0", "comment colours are sRGB")
        yield f"{_RUN.decode()} {json.dumps(run)}"
        if model:
            yield f"comment model {model}"
        yield from (f"comment label {index} {' '.join(name.split())}" for index, name in enumerate(names))
        yield f"element vertex {len(vertices)}"
        for name, (kind, _) in (vertices.dtype.fields or {}).items():
            yield f"property {'uchar' if kind == np.uint8 else 'float'} {name}"
        yield "end_header"

    head = io.BytesIO()
    head.write(("\n".join(lines()) + "\n").encode("ascii", "replace"))
    head.write(vertices.tobytes())
    return head.getvalue()
