"""What a killed process leaves is removed by the next one that writes there, and a disk that is full is said."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lift3d_cli.errors import ResourceError
from lift3d_cli.machine import atomic
from lift3d_cli.pipeline.results import video_writer

KILLED = """
import os, signal, sys, time
from pathlib import Path
import numpy as np
from lift3d_cli.machine.atomic import replacement
from lift3d_cli.pipeline.results import video_writer
path = Path(sys.argv[1])
open_file = {"file": lambda: replacement(path), "video": lambda: video_writer(path, 24)}[sys.argv[2]]
with open_file() as file:
    file.write_bytes(b"half") if sys.argv[2] == "file" else [file(np.zeros((32, 32, 3), np.uint8)) for _ in range(3)]
    while not any(path.parent.iterdir()):  # the encoder is a process of its own
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("kind", "name"), [("file", "a.png"), ("video", "a.mp4"), ("file", "n" * 251 + ".png")])
def test_next_write_removes_what_a_killed_process_left(tmp_path, kind, name):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / name), kind], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".")
    mine = tmp_path / left.name.replace(str(left.name.split("-")[-2]), str(os.getpid()))
    mine.write_bytes(b"of a process that lives")
    atomic.write_atomic(tmp_path / "b.png", b"whole")
    assert set(tmp_path.iterdir()) == {mine, tmp_path / "b.png"}


def test_longest_name_of_a_file_can_be_written(tmp_path):
    path = tmp_path / ("ü" * 125 + ".png")
    atomic.write_atomic(path, b"whole")
    assert path.read_bytes() == b"whole"


@pytest.mark.parametrize("lost", [1, 5000])
def test_video_that_was_cut_short_is_an_error_and_leaves_nothing(tmp_path, monkeypatch, lost):
    """ffmpeg writes the index last, and what it says of a full disk does not reach us."""
    import imageio.v2 as imageio

    get_writer = imageio.get_writer

    def short_of_space(path: Path, **settings):
        writer = get_writer(path, **settings)
        close = writer.close

        def close_and_cut() -> None:
            close()
            os.truncate(path, max(0, path.stat().st_size - lost))

        writer.close = close_and_cut
        return writer

    monkeypatch.setattr(imageio, "get_writer", short_of_space)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    with pytest.raises(ResourceError, match=r"a\.mp4: cannot be written"), video_writer(tmp_path / "a.mp4", 24) as add:
        add(noise)
    assert list(tmp_path.iterdir()) == []


def test_output_on_a_full_disk_is_a_resource_error(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ResourceError, match=r"path\.json: cannot be written"):
        atomic.write_output(tmp_path / "path.json", b"{}")
    assert list(tmp_path.iterdir()) == []
