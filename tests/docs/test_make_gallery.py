"""docs/make_gallery.py makes a picture of a scene given to it, with any models, and with strokes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from plane_world import read_image, rig, write_scene

DOCS = Path(__file__).parents[2] / "docs"


def make(folder: Path, *words: str) -> subprocess.CompletedProcess:
    argv = [sys.executable, str(DOCS / "make_gallery.py"), *words]
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_strip_of_a_scene_has_its_colour_and_each_model(wall_scene, tmp_path):
    out = tmp_path / "strip.png"
    done = make(tmp_path, str(wall_scene), "--model", "rgb", "--size", "48", "--views", "2", "--output", str(out))
    assert (done.returncode, done.stdout) == (0, f"{out}\n"), done.stderr
    strip = read_image(out)
    assert strip.shape[:2] == (240 + 30, 2 * 320 + 8)
    color, rgb = strip[:240, :320].astype(int), strip[:240, 328:].astype(int)
    assert abs(color - rgb).mean() < 10  # the model's result is the colour again
    assert color.std() > 10


@pytest.mark.slow
def test_poses_of_left_out_photos_are_shown_whose_frames_lie_in_folders(tmp_path):
    scene, out = write_scene(tmp_path / "scene", rig(6)), tmp_path / "strip.png"
    write_scene(scene / "held_out", rig(3))
    done = make(tmp_path, str(scene), "--model", "rgb", "--size", "48", "--views", "2", "--output", str(out))
    assert done.returncode == 0, done.stderr
    assert read_image(out)[:240, :320].std() > 10


@pytest.mark.slow
def test_strokes_show_features_the_photo_and_the_classes(wall_scene, tmp_path):
    strokes = np.zeros((72, 96, 3), np.uint8)
    strokes[10:14, 10:40] = (0, 0, 255)
    strokes[50:54, 50:90] = (0, 255, 0)
    cv2.imwrite(str(tmp_path / "strokes.png"), strokes)
    out = tmp_path / "strip.png"
    words = ["--strokes", str(tmp_path / "strokes.png"), "--view", "01.png", "--size", "48", "--views", "2"]
    source = tmp_path / "segmenter.py"
    source.write_text(
        "from lift3d_cli import FeatureMap, FeatureModel, ModelSpec\n"
        "class Cells(FeatureModel):\n"
        "    spec = ModelSpec('cells', 3, 1, ('features', 'segment'))\n"
        "    def encode(self, image):\n"
        "        return FeatureMap(image, self.grid(image.shape[2], image.shape[1]))\n"
    )
    done = make(tmp_path, str(wall_scene), "--model", f"{source}:Cells", *words, "--output", str(out))
    assert done.returncode == 0, done.stderr
    strip = read_image(out)
    assert strip.shape[1] == 4 * 320 + 3 * 8
    photo = strip[:240, 2 * 328 : 2 * 328 + 320]
    assert (abs(photo.astype(int) - (255, 0, 0)).max(2) < 30).any()  # the first stroke is red
    assert make(tmp_path, str(wall_scene), "--strokes", "x.png").returncode == 2
