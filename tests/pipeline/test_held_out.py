"""The held-out protocol: which photos are left out, what of them is truth, and PSNR, worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import plane_world
import pytest
import torch

from lift3d_cli.config import RenderConfig
from lift3d_cli.errors import SceneError
from lift3d_cli.lifting.exposure import shifted
from lift3d_cli.pipeline.held_out import HeldOutPhotos, psnr, split
from lift3d_cli.pipeline.renderers import make_renderer
from lift3d_cli.scene.load import load_scene

ALL = torch.ones(20, 24, dtype=torch.bool)


@pytest.fixture
def scene(tmp_path):
    """Seven photos of 96 x 72 pixels, the first masked on its left."""
    mask = np.full((72, 96), 255, np.uint8)
    mask[:, :48] = 0
    return load_scene(plane_world.write_scene(tmp_path / "scene", plane_world.rig(7), masks={0: mask}))


def test_every_nth_photo_from_the_first_is_left_out(scene):
    assert split(scene, 3) == ([0, 3, 6], [1, 2, 4, 5])


@pytest.mark.parametrize("every", [0, 1])
def test_some_photo_stays_to_render_from(scene, every):
    with pytest.raises(SceneError, match=f"--every {every} leaves no photo to render from"):
        HeldOutPhotos(scene, 36, every)


def test_truth_is_the_photo_at_the_height_where_it_is_not_masked(scene):
    photos = HeldOutPhotos(scene, 36, 3)
    image, counts = photos.truth(0)
    assert (photos.camera(0).width, photos.camera(0).height) == (48, 36)
    assert image.shape == (3, 36, 48)
    assert 0 <= image.min() < image.max() <= 1
    assert counts[:, 25:].all()
    assert not counts[:, :23].any()


def test_photo_of_another_exposure_is_as_good_at_any_exposure(scene):
    renderer, cpu = make_renderer(RenderConfig(planes=16), variant="training-free"), torch.device("cpu")
    photos = HeldOutPhotos(scene, 0)
    usual, at_any = (photos.mean_psnr(renderer, cpu, [0], any_exposure=x) for x in (False, True))
    darker = 255 * shifted(photos.truth(0)[0][None], torch.full((1, 3), -0.5))[0]
    plane_world.write_image(scene.root / "images" / "00.png", darker.round().byte().permute(1, 2, 0).numpy())
    photos = HeldOutPhotos(load_scene(scene.root), 0)
    assert photos.mean_psnr(renderer, cpu, [0]) < usual - 1
    assert abs(photos.mean_psnr(renderer, cpu, [0], any_exposure=True) - at_any) < 0.5


def test_psnr_of_a_constant_difference_of_a_tenth_is_20_db():
    truth = torch.full((3, 20, 24), 0.4)
    assert psnr(truth + 0.1, truth, ALL) == pytest.approx(20, abs=1e-4)
    assert psnr(truth + 0.01, truth, ALL) == pytest.approx(40, abs=1e-3)


def test_psnr_takes_the_mean_before_the_logarithm():
    truth = torch.zeros(3, 20, 24)
    image = truth.clone()
    image[0, :10] = 0.6  # a sixth of the values
    assert psnr(image, truth, ALL) == pytest.approx(-10 * math.log10(0.36 / 6), abs=1e-4)


def test_psnr_of_equal_pictures_is_infinite():
    assert psnr(*[torch.rand(3, 20, 24)] * 2, ALL) == math.inf


def test_psnr_looks_at_the_pixels_that_count_only():
    truth = torch.full((3, 20, 24), 0.4)
    image, counts = truth + 0.1, ALL.clone()
    image[:, 5:9, 3:8], counts[5:9, 3:8] = 77.0, False
    assert psnr(image, truth, counts) == pytest.approx(20, abs=1e-4)


def test_psnr_without_a_mask_looks_at_every_pixel():
    image, truth = torch.rand(2, 1, 3, 20, 24)
    assert psnr(image, truth) == pytest.approx(psnr(image, truth, ALL), abs=1e-4)
