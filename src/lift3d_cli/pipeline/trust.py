"""How reliable a finished render is: coverage and confidence per frame, warnings, and the confidence as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lift3d_cli.cache.renders import Render
from lift3d_cli.machine.atomic import write_atomic
from lift3d_cli.machine.background import BackgroundWriter
from lift3d_cli.machine.png import encode_png, is_whole_png
from lift3d_cli.machine.progress import Progress, no_progress

# Of 119 frames of real scenes, 30 and 52 are on the wrong side; all but one of them are below 20 dB: docs/history.md.
LEAST_COVERAGE = 0.9  # mean over the frame
DOUBTFUL, MOST_DOUBTFUL = 0.25, 0.25  # a confidence; and the share of a frame that may be below it


@dataclass(frozen=True)
class Trust:
    """Quality of a render, estimated without ground truth.

    Args:
        coverage: mean of each frame, in [0, 1].
        confidence: mean of each frame, in [0, 1].
        warnings: one line each, for the user.
    """

    coverage: list[float]
    confidence: list[float]
    warnings: list[str]


def judge(render: Render, frames: Sequence[int] | None = None) -> Trust:
    """Compute the mean coverage and confidence of frames that are finished, by default all, with warnings."""
    coverage, confidence, doubtful, num_sources = [], [], [], []
    frames = range(render.num_frames) if frames is None else frames
    for index in frames:
        maps = render.read_maps(index)
        coverage.append(float(maps.coverage.numpy().mean()) / 255)
        confidence.append(float(maps.confidence.numpy().mean()) / 255)
        doubtful.append(float((maps.confidence.numpy() < 255 * DOUBTFUL).mean()))
        num_sources.append(len(maps.sources))
    warnings, names, total = [], [render.names[index] for index in frames], len(coverage)
    unseen = [i for i, share in enumerate(coverage) if share < LEAST_COVERAGE]
    if unseen:
        worst = min(unseen, key=coverage.__getitem__)
        # Fewer were chosen where more would have added nothing.
        is_bounded = any(num_sources[i] == render.views for i in unseen)
        warnings.append(
            f"the photos see less than {LEAST_COVERAGE:.0%} of {len(unseen)} of {total} frames, {coverage[worst]:.0%} "
            f"of the worst ({names[worst]}); the rest is filled in. hint: take photos there, or move the path nearer "
            f"to the photos{', or more --views' if is_bounded else ''}"
        )
    vague = [i for i, share in enumerate(doubtful) if share > MOST_DOUBTFUL]
    if vague:
        worst = max(vague, key=doubtful.__getitem__)
        warnings.append(
            f"over {MOST_DOUBTFUL:.0%} of {len(vague)} of {total} frames is doubtful, {doubtful[worst]:.0%} of the "
            f"worst ({names[worst]}): few photos see it, or they disagree. hint: --confidence shows where; take more "
            "photos around the path"
        )
    return Trust(coverage, confidence, warnings)


def write_confidence(render: Render, progress: Progress = no_progress, frames: Sequence[int] | None = None) -> None:
    """Write the confidence of frames, by default all, as grey PNGs where these are missing or damaged.

    Raises:
        ResourceError, CacheError: if the disk is full or the folder cannot be written.
    """
    frames = range(render.num_frames) if frames is None else frames
    todo = [i for i in frames if not is_whole_png(render.confidence_path(i))]
    with BackgroundWriter() as later:
        for index in progress(todo, "confidence", len(todo)):
            later(_write, render, index)


def _write(render: Render, index: int) -> None:
    write_atomic(render.confidence_path(index), encode_png(render.read_maps(index).confidence.numpy()))
