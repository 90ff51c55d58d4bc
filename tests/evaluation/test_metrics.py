"""The metrics, against numbers worked out by hand and against a slow, literal SSIM."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lift3d_cli.evaluation.metrics import feature_mse, psnr, ssim

ALL = torch.ones(20, 24, dtype=torch.bool)


def pictures(seed: int = 0, height: int = 20, width: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    """A smooth picture with noise, and the picture without."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.linspace(0, 1, width).expand(3, height, width) * torch.tensor([1.0, 0.6, 0.3]).view(3, 1, 1)
    return (truth + 0.1 * torch.randn(3, height, width, generator=generator)).clamp(0, 1), truth


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


def ssim_by_loops(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> float:
    """Wang et al. 2004, equation 13, window by window, as `structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=1)` of scikit-image computes it."""
    at = np.arange(11) - 5
    kernel = np.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * 1.5**2))
    kernel /= kernel.sum()
    values = []
    for c in range(3):
        for i in range(5, x.shape[1] - 5):
            for j in range(5, x.shape[2] - 5):
                window = (slice(i - 5, i + 6), slice(j - 5, j + 6))
                if not counts[window].all():
                    continue
                a, b = x[c][window], y[c][window]
                ma, mb = (kernel * a).sum(), (kernel * b).sum()
                va, vb = (kernel * (a - ma) ** 2).sum(), (kernel * (b - mb) ** 2).sum()
                cov = (kernel * (a - ma) * (b - mb)).sum()
                top = (2 * ma * mb + 0.01**2) * (2 * cov + 0.03**2)
                values.append(top / ((ma**2 + mb**2 + 0.01**2) * (va + vb + 0.03**2)))
    return float(np.mean(values))


@pytest.mark.parametrize("masked", [False, True])
def test_ssim_is_that_of_the_formula(masked):
    image, truth = pictures()
    counts = ALL.clone()
    if masked:
        counts[:7, :5] = False
        counts[13, 20] = False
    want = ssim_by_loops(image.double().numpy(), truth.double().numpy(), counts.numpy())
    assert ssim(image, truth, counts) == pytest.approx(want, abs=1e-6)
    assert 0.05 < want < 0.95  # the formula is put to the test


def test_ssim_of_equal_pictures_is_1_and_of_opposite_ones_negative():
    image, truth = pictures()
    assert ssim(image, image, ALL) == pytest.approx(1)
    board = (torch.arange(20)[:, None] + torch.arange(24)[None]).remainder(2).expand(3, -1, -1).float()
    assert ssim(board, 1 - board, ALL) < -0.9
    assert ssim(image, truth, ALL) == pytest.approx(ssim(truth, image, ALL))


def test_ssim_of_two_flat_pictures_is_the_luminance_term():
    a, b = torch.full((3, 20, 24), 0.2), torch.full((3, 20, 24), 0.6)
    want = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    assert ssim(a, b, ALL) == pytest.approx(want, abs=1e-6)


def test_ssim_takes_no_window_that_touches_a_pixel_without_ground_truth():
    image, truth = pictures()
    counts = ALL.clone()
    counts[:, :6] = False
    garbage = image.clone()
    garbage[:, :, :6] = 50.0
    assert ssim(garbage, truth, counts) == pytest.approx(ssim(image[:, :, 6:], truth[:, :, 6:], ALL[:, 6:]), abs=1e-9)


def test_ssim_where_no_window_counts_entirely_takes_those_whose_centre_counts():
    image, truth = pictures()
    counts = torch.zeros_like(ALL)
    counts[8:12, 8:12] = True
    assert math.isfinite(ssim(image, truth, counts))
    assert ssim(truth, truth, counts) == pytest.approx(1)


@pytest.mark.parametrize(
    ("size", "counted"),
    [((20, 24), (slice(0, 3), slice(0, 24))), ((7, 24), (slice(0, 7), slice(0, 24))), ((1, 1), (slice(1), slice(1)))],
    ids=["only the margin counts", "lower than the window", "one pixel"],
)
def test_ssim_is_a_number_for_every_picture(size, counted):
    counts = torch.zeros(size, dtype=torch.bool)
    counts[counted] = True
    image, truth = pictures(0, *size)
    assert math.isfinite(ssim(image, truth, counts))
    assert ssim(truth, truth, counts) == pytest.approx(1)


def test_feature_mse_known_by_hand():
    truth = torch.tensor([[[0.0, 2.0], [0.0, 2.0]], [[5.0, 5.0], [9.0, 9.0]]])  # variances 1 and 4
    mse, relative = feature_mse(truth + 0.5, truth, torch.ones(2, 2, dtype=torch.bool))
    assert mse == pytest.approx(0.25)
    assert relative == pytest.approx(0.25 / 2.5)


def test_mean_feature_scores_a_relative_mse_of_1():
    truth = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))
    mean = truth.mean((1, 2), keepdim=True).expand_as(truth)
    assert feature_mse(mean, truth, torch.ones(5, 6, dtype=torch.bool))[1] == pytest.approx(1, rel=1e-5)


def test_feature_mse_looks_at_the_cells_that_count_only():
    truth = torch.tensor([[[0.0, 2.0, 100.0]]])
    counts = torch.tensor([[True, True, False]])
    assert feature_mse(torch.tensor([[[1.0, 2.0, -5.0]]]), truth, counts) == (pytest.approx(0.5), pytest.approx(0.5))


def test_relative_mse_of_constant_features_is_not_defined():
    mse, relative = feature_mse(torch.ones(2, 3, 3), torch.zeros(2, 3, 3), torch.ones(3, 3, dtype=torch.bool))
    assert mse == 1
    assert math.isnan(relative)
