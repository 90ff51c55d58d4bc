"""Weights as files of their authors, on the command line: from encode to frames, and refused in one line."""

from __future__ import annotations

from pathlib import Path

from commands import FAST, Run
from PIL import Image
from tiny_checkpoints import save_resshift


def test_resshift_makes_frames_of_four_times_the_size(done: Run):
    save_resshift(Path("weights"))
    done.ok("encode", "scene", "--model", "resshift:weights", "--max-size", "24")
    done.ok("render", *FAST, "--model", "resshift")
    (folder,) = done.ok("decode", "--task", "superres", "--no-video")
    pictures = [Image.open(path) for path in sorted(Path(folder).rglob("*.png"))]
    assert [picture.size for picture in pictures] == [(4 * 48, 4 * 36)] * 2
    assert all(low + 50 < high for picture in pictures for low, high in picture.getextrema())


def test_truncated_file_is_refused_in_one_line(done: Run):
    path = Path(save_resshift(Path("weights"))) / "resshift_realsrx4_s4_v3.pth"
    path.write_bytes(path.read_bytes()[:5000])
    result = done("encode", "scene", "--model", "resshift:weights")
    assert result.exit_code != 0
    assert result.stderr.startswith("error: model resshift: ")
    assert result.stderr.count("\n") == 1
