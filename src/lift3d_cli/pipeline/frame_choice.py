"""Which frames of a path one process renders: those that are named, and its part of these among several processes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from lift3d_cli.errors import UsageError

_RANGE = re.compile(r"(\d{1,8})(?:-(\d{1,8})(?:x(\d{1,8}))?)?")
_SHARD = re.compile(r"(\d{1,8})/(\d{1,8})")
SLURM = "slurm"


def named_frames(text: str, count: int) -> list[int]:
    """Read which frames are named, as render managers write it: `7`, `10-50`, `10-50x2`, several with commas.

    Args:
        text: numbers from 0; the last of a range is in it, `x2` takes every second.
        count: how many frames the path has.

    Raises:
        UsageError: if it is something else, or names a frame that the path does not have.
    """
    found: set[int] = set()
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None or match[3] == "0":
            raise UsageError(f"--frames {text}: {part.strip()!r} is not a frame or a range. hint: such as 10-50x2,60")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < count:
            raise UsageError(f"--frames {text}: the path has the frames 0-{count - 1}")
        found.update(range(first, last + 1, int(match[3] or 1)))
    return sorted(found)


def part_of_frames(frames: Sequence[int], text: str, environment: Mapping[str, str]) -> list[int]:
    """Return one process's part of some frames: neighbours, since these are rendered from the same photos.

    Args:
        frames: in order.
        text: `I/N`, the I-th of N parts, from 1; or `slurm`, this task of a Slurm job array.
        environment: of the process.

    Raises:
        UsageError: if it is something else.
    """
    if text == SLURM:
        part, parts = _slurm_task(environment)
    else:
        match = _SHARD.fullmatch(text)
        part, parts = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= part <= parts:
        raise UsageError(f"--shard {text}: is not one of several parts. hint: such as 1/4, or {SLURM} in a job array")
    return list(frames[len(frames) * (part - 1) // parts : len(frames) * part // parts])


def _slurm_task(environment: Mapping[str, str]) -> tuple[int, int]:
    """Return which task of its job array this is, from 1, and of how many."""
    names = [f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "MIN", "MAX", "COUNT")]
    try:
        task, first, last, count = (int(environment[name]) for name in names)
    except (KeyError, ValueError) as error:
        raise UsageError(f"--shard {SLURM}: this is no task of a Slurm job array. hint: sbatch --array=1-8") from error
    if last - first + 1 != count:  # with gaps, as where some tasks are run again, the parts would be others
        raise UsageError(
            f"--shard {SLURM}: the array has {count} tasks from {first} to {last}. "
            "hint: --shard $SLURM_ARRAY_TASK_ID/N with an array within 1-N"
        )
    return task - first + 1, count
