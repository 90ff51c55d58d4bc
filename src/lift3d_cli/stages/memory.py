"""What a pose holds in memory as a whole, so that `--memory` bounds all of it, and not only what is done in parts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lift3d_cli.errors import ResourceError
from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.lifting.renderer import Renderer, SourceFeatures

# Bytes of each pixel of a source photo: its colours, validity, 5x5 means and Stage II's features, and what is kept of
# these of the poses around. Of each pixel of the frame: its results.
_PHOTO_BYTES, _FRAME_BYTES = 4 * 28, 4 * 12
# Of each cell of a source map: its channels in float32 to gather from, and as they are in the files of two poses; what
# the corrector looks at. Of each cell of the result: its channels, and those of results that wait to be written.
_CELL_BYTES_PER_CHANNEL, _CELL_BYTES, _RESULT_BYTES_PER_CHANNEL = 8, 4 * 256, 20
# Threads that read and write, and what the memory's own bookkeeping cannot use.
_FIXED_BYTES = 28 * 2**20
# The renderer may keep weights of all rays beside its temporaries.
_SHARE_OF_TEMPORARIES = 0.75
_LEAST_TEMPORARY_BYTES = 8 * 2**20


def left_for_temporaries(
    renderer: Renderer, target: Camera, cameras: Sequence[Camera], features: Mapping[str, SourceFeatures]
) -> int:
    """Bytes of the renderer's memory for what can be done in parts, beside what a pose has to hold.

    Args:
        renderer: the two stages.
        target: the pose.
        cameras: of the source photos, at the size that they are used in.
        features: by model name.

    Raises:
        ResourceError: if there are none.
    """
    pixels = len(cameras) * max(c.width for c in cameras) * max(c.height for c in cameras)
    photos = pixels * _PHOTO_BYTES + target.width * target.height * _FRAME_BYTES
    volume, cells = renderer.proposal.volume_bytes(target), 0
    for model in features.values():
        channels, *sides = (max(sizes) for sizes in zip(*(m.shape for m in model.maps), strict=True))
        of_cell = channels * _CELL_BYTES_PER_CHANNEL + (_CELL_BYTES if model.corrector else 0)
        results = model.target.width * model.target.height * channels * _RESULT_BYTES_PER_CHANNEL
        cells += len(model.maps) * math.prod(sides) * of_cell + results
    needed = photos + volume + cells + _FIXED_BYTES
    if renderer.memory_bytes < needed + _LEAST_TEMPORARY_BYTES:
        raise ResourceError(
            f"--memory {_mebibytes(renderer.memory_bytes)}: a pose of {target.width}x{target.height} needs "
            f"{_mebibytes(needed + _LEAST_TEMPORARY_BYTES)} ({len(cameras)} photos {_mebibytes(photos)}, depth planes "
            f"{_mebibytes(volume)}, features {_mebibytes(cells)}). "
            f"hint: --memory {_mebibytes(1.5 * needed)}, fewer --views or smaller pictures"
        )
    return int(_SHARE_OF_TEMPORARIES * (renderer.memory_bytes - needed))


def _mebibytes(size: float) -> str:
    return f"{math.ceil(size / 2**20)}MiB"
