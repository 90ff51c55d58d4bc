"""Lab, against OpenCV and by hand."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from lift3d_cli.models.builtin.color_space import lab_from_rgb, lightness, rgb_from_lab


def _random_rgb() -> torch.Tensor:
    rgb = torch.rand(2, 3, 40, 50, generator=torch.Generator().manual_seed(0))
    rgb[0, :, :3] *= 0.02  # the linear part near black
    rgb[1, :, 0, :2] = torch.tensor([[0.0, 1.0]] * 3)
    return rgb


def test_white_black_and_red_have_their_book_values():
    rgb = torch.tensor([[1.0, 1, 1], [0, 0, 0], [1, 0, 0]]).T[:, None]
    lab = lab_from_rgb(rgb)[:, 0].T
    book = torch.tensor([[100.0, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20]])
    torch.testing.assert_close(lab, book, atol=0.02, rtol=0)


def test_lab_equals_opencv():
    rgb = _random_rgb()
    for image, lab in zip(rgb, lab_from_rgb(rgb), strict=True):
        expected = cv2.cvtColor(np.ascontiguousarray(image.permute(1, 2, 0).numpy()), cv2.COLOR_RGB2LAB)
        # OpenCV interpolates in a table, in steps of 1/64.
        np.testing.assert_allclose(lab.permute(1, 2, 0).numpy(), expected, atol=0.5)


def test_rgb_survives_the_way_to_lab_and_back():
    rgb = _random_rgb()
    torch.testing.assert_close(rgb_from_lab(lab_from_rgb(rgb)), rgb, atol=2e-4, rtol=0)


def test_lightness_is_the_l_of_lab_also_of_the_grey_picture():
    rgb = _random_rgb()
    light = lightness(rgb)
    torch.testing.assert_close(light, lab_from_rgb(rgb)[:, :1], atol=1e-3, rtol=0)
    grey = rgb_from_lab(torch.cat([light, torch.zeros_like(light), torch.zeros_like(light)], 1))
    torch.testing.assert_close(lightness(grey), light, atol=2e-3, rtol=0)
