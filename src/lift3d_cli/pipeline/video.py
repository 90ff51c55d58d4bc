"""Videos of frames, and animations to share."""

from __future__ import annotations

import errno
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lift3d_cli.config import VIDEO_CODECS, VIDEO_QUALITY
from lift3d_cli.errors import ResourceError
from lift3d_cli.machine.atomic import output_error, replacement


@dataclass(frozen=True)
class _Codec:
    """How ffmpeg is told: its encoder and pixel format, and the options of a quality from 0 (worst) to 1."""

    suffix: str
    encoder: str
    pixels: str
    options: Callable[[float], list[str]]
    is_yuv: bool = True


_CODECS = {
    "h264": _Codec("mp4", "libx264", "yuv420p", lambda q: ["-crf", str(round(51 * (1 - q)))]),
    # Apple's players want the tag; x265 reports to standard error otherwise.
    "h265": _Codec(
        "mp4",
        "libx265",
        "yuv420p",
        lambda q: ["-crf", str(round(51 * (1 - q))), "-tag:v", "hvc1", "-x265-params", "log-level=error"],
    ),
    "prores": _Codec(
        "mov", "prores_ks", "yuv422p10le", lambda q: ["-profile:v", "3", "-qscale:v", str(round(1 + 30 * (1 - q)))]
    ),
    "webp": _Codec(
        "webp", "libwebp_anim", "yuv420p", lambda q: ["-quality", str(round(100 * q)), "-loop", "0"], is_yuv=False
    ),
    # One palette of all frames, of more colours the higher the quality.
    "gif": _Codec(
        "gif",
        "gif",
        "pal8",
        lambda q: [
            "-filter_complex",
            f"split[a][b];[a]palettegen=max_colors={round(16 + 240 * q)}:stats_mode=diff[p];[b][p]paletteuse",
            "-loop",
            "0",
        ],
        is_yuv=False,
    ),
}
# What a player assumes of large videos and small ones differs, so it is said: BT.709, with sRGB's own curve.
_BT709 = [
    "-vf",
    "scale=out_color_matrix=bt709:out_range=tv,"
    "setparams=colorspace=bt709:color_primaries=bt709:color_trc=iec61966-2-1:range=tv",
]


def video_path(folder: Path, name: str, codec: str) -> Path:
    """Return the path of a video: the codec decides the suffix."""
    return folder / f"{name}.{_CODECS[codec].suffix}"


def require_encoder(codec: str) -> None:
    """Check that there is an ffmpeg, and that it has the encoder of a codec.

    Raises:
        ResourceError: if not.
    """
    encoder = _CODECS[codec].encoder
    try:
        import imageio_ffmpeg

        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-h", f"encoder={encoder}"]
        said = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60).stdout
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as e:
        reason = " ".join(str(e).split())
        raise ResourceError(
            f"no ffmpeg for videos ({reason}). hint: pip install 'imageio[ffmpeg]', or --no-video"
        ) from e
    if not said.startswith("Encoder "):
        raise ResourceError(
            f"--codec {codec}: this ffmpeg has no encoder {encoder}. hint: another --codec, or --no-video"
        )


@contextmanager
def video_writer(
    path: Path | None, fps: float, codec: str = VIDEO_CODECS[0], quality: float = VIDEO_QUALITY
) -> Iterator[Callable[[np.ndarray], None]]:
    """Open a video and yield a function that appends a frame [H, W, 3] uint8; the file appears when it is complete.

    Args:
        path: see `video_path`; None to write nothing.
        fps: frames per second.
        codec: one of `VIDEO_CODECS`.
        quality: 1 to 10, the best.

    Raises:
        ResourceError: if it cannot be written.
    """
    if path is None:
        yield lambda image: None
        return
    import imageio.v2 as imageio

    how = _CODECS[codec]
    options = ["-f", how.suffix, *how.options(quality / 10), *(_BT709 if how.is_yuv else [])]
    try:
        with replacement(path, ".mp4") as temporary:  # imageio knows no other
            # 4:2:0 halves the chroma in both directions, so sides must be even.
            writer = imageio.get_writer(
                temporary,
                format="FFMPEG",
                fps=fps,
                codec=how.encoder,
                quality=None,
                macro_block_size=1,
                pixelformat=how.pixels,
                output_params=options,
                ffmpeg_log_level="quiet",
            )
            try:
                yield lambda image: writer.append_data(_even(image))
            finally:
                writer.close()
            if how.suffix in ("mp4", "mov") and not _is_whole(temporary):  # ffmpeg's own errors are not passed on
                raise OSError(errno.ENOSPC, "the encoder stopped early, as on a full disk")
    except OSError as e:
        raise output_error(path, e) from e


def _is_whole(path: Path) -> bool:
    """Tell if a file ends where its boxes do, and has the index, which is written last; see ISO/IEC 14496-12."""
    kinds, size = [], path.stat().st_size
    with path.open("rb") as file:
        while file.tell() < size:
            begin = file.tell()
            length, kind = struct.unpack(">I4s", file.read(8).ljust(8, b"\0"))
            if length == 1:  # larger than 4 GB
                (length,) = struct.unpack(">Q", file.read(8).ljust(8, b"\0"))
            kinds.append(kind)
            file.seek(begin + max(length, 8))
        return b"moov" in kinds and file.tell() == size


def _even(image: np.ndarray) -> np.ndarray:
    """Pad an image with odd sides by repeating its last row and column."""
    return np.pad(image, ((0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)), mode="edge")
