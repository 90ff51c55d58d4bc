"""Which frames are named, and how several processes part them."""

from __future__ import annotations

from itertools import chain

import pytest

from lift3d_cli.errors import UsageError
from lift3d_cli.pipeline.frame_choice import named_frames, part_of_frames

SLURM = {f"SLURM_ARRAY_TASK_{name}": str(n) for name, n in (("ID", 5), ("MIN", 4), ("MAX", 6), ("COUNT", 3))}


@pytest.mark.parametrize(
    ("text", "frames"),
    [("7", [7]), ("2-5", [2, 3, 4, 5]), ("1-8x3", [1, 4, 7]), ("8, 0-2,1-3", [0, 1, 2, 3, 8]), ("9-9x2", [9])],
)
def test_frames_are_named_as_in_render_managers(text, frames):
    assert named_frames(text, 10) == frames


@pytest.mark.parametrize("text", ["", "a", "-1", "5-3", "10", "0-10", "0-4x0", "0-4x", "1,,2", "1-2-3", "9" * 30])
def test_frames_that_are_none_of_the_path_are_refused_in_a_line(text):
    with pytest.raises(UsageError, match=r"--frames .*(such as|the frames 0-9)"):
        named_frames(text, 10)


@pytest.mark.parametrize(("count", "parts"), [(10, 3), (10, 1), (2, 5), (7, 7)])
def test_parts_are_neighbours_as_many_as_can_be_alike_and_together_everything(count, parts):
    frames = list(range(0, 2 * count, 2))
    found = [part_of_frames(frames, f"{i}/{parts}", {}) for i in range(1, parts + 1)]
    assert list(chain(*found)) == frames
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_task_of_a_job_array_is_a_part_whatever_number_the_array_begins_at():
    assert part_of_frames(range(9), "slurm", SLURM) == [3, 4, 5]


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "x/3", "1/2/3", ""])
def test_what_is_no_part_is_refused(text):
    with pytest.raises(UsageError, match="such as 1/4, or slurm"):
        part_of_frames(range(9), text, {})


@pytest.mark.parametrize(
    ("environment", "hint"), [({}, "sbatch --array=1-8"), (SLURM | {"SLURM_ARRAY_TASK_MAX": "9"}, "array within 1-N")]
)
def test_slurm_without_an_array_or_with_gaps_in_it_is_refused(environment, hint):
    with pytest.raises(UsageError, match=hint):
        part_of_frames(range(9), "slurm", environment)
