"""Files of rendered features as they are, with everything that is needed to use them elsewhere."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import torch

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.machine.atomic import write_output
from lift3d_cli.models.base import FeatureMap
from lift3d_cli.pipeline.exr import write_exr


def write_features(path: Path, features: FeatureMap, model: str, stride: float, camera: Camera, kind: str) -> Path:
    """Write features [C, h, w] of a view, with grid, stride, model and camera.

    `.npy` has the features only; `.npz` and `.safetensors` (as text, in its metadata) have all else beside them;
    `.exr` has a channel per feature, f000 and so on, and the rest in its header.

    Args:
        path: file to write, without a suffix.
        features: features and their grid in the view.
        model: name of the model.
        stride: pixels of an encoded photo per cell.
        camera: the view.
        kind: one of the `RAW_FORMATS`.

    Raises:
        ResourceError: if it cannot be written.
    """
    data, grid = features.data.cpu().contiguous(), features.grid
    facts = {"scale": list(grid.scale), "offset": list(grid.offset), "stride": stride, "model": model}
    facts |= {"K": camera.K.tolist(), "w2c": camera.w2c.tolist(), "width": camera.width, "height": camera.height}
    path = path.with_name(f"{path.name}.{kind}")
    values = (data.float() if data.dtype == torch.bfloat16 else data).numpy()  # numpy has no bfloat16
    if kind == "exr":
        digits = max(3, len(str(len(values) - 1)))
        channels = {f"f{i:0{digits}d}": channel for i, channel in enumerate(values)}
        write_exr(path, channels, {f"lift3d:{name}": json.dumps(value) for name, value in facts.items()})
        return path
    if kind == "safetensors":
        import safetensors.torch

        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts.items()}
        write_output(path, safetensors.torch.save({"features": data}, texts))
        return path
    file = io.BytesIO()
    if kind == "npy":
        np.save(file, values)
    else:
        np.savez_compressed(file, features=values, **{name: np.array(value) for name, value in facts.items()})
    write_output(path, file.getvalue())
    return path
