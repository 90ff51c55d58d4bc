"""Segmentation of a card before a wall: against its masks from strokes, and against the 2D model without."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from plane_world import WALL_AND_CARD, photograph, rig, write_image, write_scene

from lift3d_cli.config import EvalConfig
from lift3d_cli.errors import ModelError, SceneError
from lift3d_cli.evaluation.segmentation import measure_segmentation
from lift3d_cli.scene.load import load_scene

WAYS = ["lifted-3", "lifted-6", "lifted-10", "2d-on-render"]
settings = partial(EvalConfig, every=4, height=0, views=4, variant="training-free", model="rgb")


def is_card(index: int) -> np.ndarray:
    """[H, W] bool."""
    return photograph(rig(8)[index], WALL_AND_CARD)[1] < 3.4


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A card whose colours the wall does not have: red on blue."""
    root = write_scene(tmp_path_factory.mktemp("card") / "scene", rig(8), WALL_AND_CARD)
    for i, camera in enumerate(rig(8)):
        image = photograph(camera, WALL_AND_CARD)[0] // 4
        image[..., 2] += np.where(is_card(i), 0, 180).astype(np.uint8)
        image[..., 0] += np.where(is_card(i), 180, 0).astype(np.uint8)
        write_image(root / "images" / f"{i:02d}.png", image)
    return load_scene(root)


@pytest.fixture(scope="module")
def masks(tmp_path_factory) -> Path:
    """Of both photos that are left out, one beside its photo's folder and one in it; and another one."""
    folder = tmp_path_factory.mktemp("masks")
    for i, name in ((0, "00.png"), (4, "images/04.png"), (2, "02.png")):
        write_image(folder / name, np.where(is_card(i), 255, 0).astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def strokes(tmp_path_factory) -> Path:
    """On photo 1: white on the card, green on the wall."""
    path = tmp_path_factory.mktemp("strokes") / "strokes.png"
    picture = np.zeros((72, 96, 3), np.uint8)
    v, u = np.nonzero(is_card(1))
    picture[int(v.mean()) - 3 : int(v.mean()) + 3, int(u.mean()) - 3 : int(u.mean()) + 3] = 255
    picture[2:8, 2:90] = (0, 255, 0)
    write_image(path, picture)
    return path


def test_card_is_found_lifted_and_in_2d(scene, masks, strokes):
    got = measure_segmentation(scene, settings(strokes=strokes, view="01.png", masks=masks))
    assert list(got) == [*WAYS, "2d-on-photo"]
    for row in got.values():
        assert row["iou"] > 0.8
        assert row["accuracy"] > 0.95
        assert row["map"] > 0.9
    assert got["2d-on-photo"]["iou"] > 0.97  # of its own colours


def test_wrong_masks_score_badly(scene, strokes, tmp_path):
    write_image(tmp_path / "00.png", np.where(is_card(0), 0, 255).astype(np.uint8))
    got = measure_segmentation(scene, settings(strokes=strokes, view="01.png", masks=tmp_path))
    assert max(row["iou"] for row in got.values()) < 0.1
    assert max(row["accuracy"] for row in got.values()) < 0.2


def test_mask_may_be_of_another_size_and_photos_may_be_resized(scene, strokes, tmp_path):
    write_image(tmp_path / "00.png", np.where(is_card(0), 255, 0).astype(np.uint8).repeat(2, 0).repeat(2, 1))
    got = measure_segmentation(scene, settings(height=36, strokes=strokes, view="01.png", masks=tmp_path))
    assert got["2d-on-photo"]["iou"] > 0.9


def test_without_masks_the_truth_is_the_2d_model_on_the_photo(scene):
    got = measure_segmentation(scene, settings(clusters=2))
    assert list(got) == WAYS
    assert all(row["iou"] > 0.8 and row["accuracy"] > 0.9 for row in got.values())


def test_model_that_segments_is_asked_itself(scene, tmp_path):
    path = tmp_path / "halves.py"
    path.write_text(HALVES)
    got = measure_segmentation(scene, settings(model=f"{path}:Halves", text=("left",)))
    assert all(row == {"iou": 1, "accuracy": 1, "map": 1} for row in got.values())


HALVES = """
import torch
from lift3d_cli import FeatureMap, Model, ModelSpec
from lift3d_cli.models.base import Segmentation


class Halves(Model):
    spec = ModelSpec(name="halves", channels=3, stride=1, tasks=("segment",))

    def encode(self, image):
        return FeatureMap(image, self.grid(image.shape[2], image.shape[1]))

    def decode(self, features, view, task):
        raise AssertionError("not asked for")

    def decoder(self, context):
        def decode(features, view):
            height, width = view.image.shape[1:]
            left = (torch.arange(width) < width / 2).float().expand(height, -1)
            return Segmentation(torch.stack([left, 1 - left]), (*context.options.text, "other"))
        return decode
"""


def test_words_are_refused_for_a_model_that_knows_none(scene):
    with pytest.raises(ModelError, match="model rgb: cannot segment by --text, only rgb"):
        measure_segmentation(scene, settings(text=("card",)))


def test_masks_need_to_know_what_they_are_of(scene, masks, strokes, tmp_path):
    with pytest.raises(ModelError, match="--masks: are of what"):
        measure_segmentation(scene, settings(masks=masks))
    picture = np.zeros((72, 96, 3), np.uint8)
    picture[30:40, 40:50], picture[2:8] = (0, 0, 255), (0, 255, 0)  # nothing is white
    write_image(tmp_path / "strokes.png", picture)
    with pytest.raises(ModelError, match="painted white"):
        measure_segmentation(scene, settings(strokes=tmp_path / "strokes.png", view="01.png", masks=masks))


def test_folder_without_a_mask_is_refused_with_the_name_it_needs(scene, strokes, tmp_path):
    with pytest.raises(SceneError, match=r"has no mask of a photo that is left out. hint: 00\.png"):
        measure_segmentation(scene, settings(strokes=strokes, view="01.png", masks=tmp_path))


def test_strokes_on_a_photo_that_is_left_out_are_refused(scene, masks, strokes):
    with pytest.raises(SceneError, match=r"04\.png: is one of the photos that are left out"):
        measure_segmentation(scene, settings(strokes=strokes, view="04.png", masks=masks))
