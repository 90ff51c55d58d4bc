"""Pictures and videos embedded in the page as data URIs; and colour maps for numbers."""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from lift3d_cli.pipeline.view_tasks import DEPTH_COLORS, colored

# The colour map of each quantity, for the pictures and for the legends below them.
DEPTH, CONFIDENCE, CORRECTION = DEPTH_COLORS, cv2.COLORMAP_VIRIDIS, cv2.COLORMAP_INFERNO
UNSEEN = (240, 70, 40)


def shrunk(image: np.ndarray, side: int) -> np.ndarray:
    """Shrink a picture [H, W, 3] uint8 to at most `side` pixels along the longer side, both sides even for videos."""
    factor = min(1.0, side / max(image.shape[:2]))
    height, width = (max(2, round(n * factor / 2) * 2) for n in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def jpeg(image: np.ndarray, side: int, quality: int = 82) -> str:
    """Encode a picture [H, W, 3] uint8 as a data URI."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(shrunk(image, side)).save(file, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def mp4(images: Sequence[np.ndarray], side: int, fps: float, crf: int) -> str:
    """Encode frames [H, W, 3] uint8 of one size as an H.264 video, in base64, with every eighth frame a keyframe."""
    import imageio.v2 as imageio

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        options = ["-crf", str(crf), "-g", "8", "-movflags", "+faststart"]
        with imageio.get_writer(
            path, fps=fps, codec="libx264", quality=None, macro_block_size=1, output_params=options
        ) as writer:
            for image in images:
                writer.append_data(shrunk(image, side))
        return base64.b64encode(path.read_bytes()).decode()


def enlarged(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Enlarge a picture of cells; each cell becomes a block."""
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST)


def gradient(colors: int) -> str:
    """Return a colour map from 0 to 1, left to right, in CSS."""
    stops = colored(np.linspace(0, 1, 9)[None], colors)[0]
    return f"linear-gradient(90deg, {', '.join('rgb({} {} {})'.format(*stop) for stop in stops)})"
