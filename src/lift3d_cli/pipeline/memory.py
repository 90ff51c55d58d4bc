"""The memory budget of a pose, so that `--memory` bounds all of it, and not only the temporaries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lift3d_cli.errors import ResourceError
from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.lifting.proposal.protocol import Proposal
from lift3d_cli.lifting.source_features import SourceFeatures

# Bytes per pixel of a source photo: its colours, validity, 5x5 means and Stage II's features, and what is kept of these
# for neighbouring poses; half of what depths are refined by, which is gone before features are lifted. Bytes per pixel
# of the frame: its results.
_PHOTO_BYTES, _FRAME_BYTES = 4 * (28 + 4), 4 * 12
# Bytes per cell of a source map: its channels in float32 for gathering, and as stored in the files of two poses; the
# corrector's inputs. Bytes per cell of the result: its channels, and those of results waiting to be written.
_CELL_BYTES_PER_CHANNEL, _CELL_BYTES, _RESULT_BYTES_PER_CHANNEL = 8, 4 * 256, 20
# Reading and writing threads, and fragmentation.
_FIXED_BYTES = 28 * 2**20
# The renderer may keep the weights of all rays on top of its temporaries.
_SHARE_OF_TEMPORARIES = 0.75
_LEAST_TEMPORARY_BYTES = 8 * 2**20
# The fewest channels to lift at once where memory is short: Stage II may have to run again for each block.
_FEWEST_CHANNELS = 8


def plan_memory(
    memory_bytes: int,
    proposal: Proposal,
    target: Camera,
    cameras: Sequence[Camera],
    depth_range: tuple[float, float],
    features: Mapping[str, SourceFeatures],
) -> tuple[int, dict[str, int]]:
    """Divide a memory budget between what a pose holds as a whole and temporaries.

    Args:
        memory_bytes: the budget.
        proposal: Stage I, which holds a cost volume.
        target: the pose.
        cameras: cameras of the source photos, at the size that they are used in.
        depth_range: (near, far) z-depth of the target.
        features: by model name; descriptors are not needed.

    Returns:
        Bytes for temporaries; and by model, how many channels to lift at once, 0 for all.

    Raises:
        ResourceError: if the budget is too small.
    """
    pixels = len(cameras) * max(c.width for c in cameras) * max(c.height for c in cameras)
    photos = pixels * _PHOTO_BYTES + target.width * target.height * _FRAME_BYTES
    volume = proposal.volume_bytes(target, cameras, depth_range)
    sizes = [_ModelBytes(model) for model in features.values()]
    held = photos + volume + sum(size.held for size in sizes) + _FIXED_BYTES
    whole = sum(size.of_channels(size.channels) for size in sizes)
    least = max((size.least for size in sizes), default=0)
    spare = memory_bytes - _LEAST_TEMPORARY_BYTES - held
    if spare >= whole:
        return int(_SHARE_OF_TEMPORARIES * (spare - whole + _LEAST_TEMPORARY_BYTES)), dict.fromkeys(features, 0)
    if spare < least:
        needed = held + least + _LEAST_TEMPORARY_BYTES
        raise ResourceError(
            f"--memory {_mebibytes(memory_bytes)}: a pose of {target.width}x{target.height} needs "
            f"{_mebibytes(needed)} ({len(cameras)} photos {_mebibytes(photos)}, depth planes "
            f"{_mebibytes(volume)}, features {_mebibytes(needed - photos - volume - _FIXED_BYTES)}). "
            f"hint: --memory {_mebibytes(1.5 * needed)}, fewer --views or smaller pictures"
        )
    # Models are lifted a block of channels at a time, which gets half of what is left.
    budget = max(least, spare // 2)
    at_once = {name: size.channels_within(budget) for name, size in zip(features, sizes, strict=True)}
    return int(_SHARE_OF_TEMPORARIES * (spare - budget + _LEAST_TEMPORARY_BYTES)), at_once


def held_bytes(memory_bytes: int, temporary_bytes: int) -> int:
    """Return what of its budget a pose holds at once, from the bytes that `plan_memory` left for temporaries."""
    return int(memory_bytes - temporary_bytes / _SHARE_OF_TEMPORARIES)


class _ModelBytes:
    """Memory of one model's maps and results, in bytes.

    Attributes:
        channels: C.
        held: bytes needed in any case: the results, and the corrector's inputs.
        least: bytes for the fewest channels that can be lifted at once.
    """

    def __init__(self, model: SourceFeatures) -> None:
        self.channels, *sides = (max(sizes) for sizes in zip(*(m.shape for m in model.maps), strict=True))
        self._cells = len(model.maps) * math.prod(sides)
        of_result = model.target.width * model.target.height * self.channels * _RESULT_BYTES_PER_CHANNEL
        self.held = of_result + (self._cells * _CELL_BYTES if model.corrector else 0)
        is_divisible = model.corrector is None or model.corrector.by_channel
        self.least = self.of_channels(min(_FEWEST_CHANNELS, self.channels) if is_divisible else self.channels)

    def of_channels(self, channels: int) -> int:
        return self._cells * channels * _CELL_BYTES_PER_CHANNEL

    def channels_within(self, budget: int) -> int:
        return min(self.channels, budget // self.of_channels(1))


def _mebibytes(size: float) -> str:
    return f"{math.ceil(size / 2**20)}MiB"
