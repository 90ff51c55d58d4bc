"""The metrics, against numbers worked out by hand, a slow, literal SSIM and that of scikit-image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lift3d_cli.evaluation.metrics import average_precision, feature_mse, segmentation_scores, ssim

ALL = torch.ones(20, 24, dtype=torch.bool)


def pictures(seed: int = 0, height: int = 20, width: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    """A smooth picture with noise, and the picture without."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.linspace(0, 1, width).expand(3, height, width) * torch.tensor([1.0, 0.6, 0.3]).view(3, 1, 1)
    return (truth + 0.1 * torch.randn(3, height, width, generator=generator)).clamp(0, 1), truth


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


def test_ssim_is_that_of_scikit_image():
    reference = pytest.importorskip("skimage.metrics", reason="needs scikit-image").structural_similarity
    image, truth = (x.double() for x in pictures(1, 60, 80))
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
    want = reference(image.numpy(), truth.numpy(), channel_axis=0, **settings)
    assert ssim(image, truth, torch.ones(60, 80, dtype=torch.bool)) == pytest.approx(want, abs=1e-9)


# ---- segmentation ----------------------------------------------------------------------------------------------------


def test_average_precision_known_by_hand():
    # Ranks 1, 3 and 4 are right: precisions 1, 2/3, 3/4, each for a third of the recall.
    scores, positive = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]), torch.tensor([1, 0, 1, 1, 0]).bool()
    assert average_precision(scores, positive) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert average_precision(-scores, ~positive) == pytest.approx((1 + 2 / 4) / 2)


def test_equal_scores_are_taken_at_once_whatever_their_order():
    positive = torch.tensor([1, 0, 1, 0]).bool()
    assert average_precision(torch.zeros(4), positive) == pytest.approx(0.5)
    assert average_precision(torch.zeros(4), ~positive) == pytest.approx(0.5)
    # One right above two equal ones of which one is right: 1 * 1/2 + 2/3 * 1/2.
    scores = torch.tensor([0.9, 0.5, 0.5, 0.1])
    assert average_precision(scores, positive) == pytest.approx(1 / 2 + (2 / 3) / 2)


def segmented(found: list[list[int]], classes: int = 3) -> torch.Tensor:
    """[classes, H, W] scores of a segmentation that is sure."""
    return torch.nn.functional.one_hot(torch.tensor(found), classes).permute(2, 0, 1).float()


def test_segmentation_scores_known_by_hand():
    truth = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 2]])
    scores = segmented([[0, 1, 1, 1], [0, 0, 0, 2]])
    counts = torch.ones(2, 4, dtype=torch.bool)
    got = segmentation_scores(scores, truth, counts, [0, 1, 2])
    assert got["accuracy"] == pytest.approx(6 / 8)
    assert got["iou"] == pytest.approx((3 / 5 + 2 / 4 + 1 / 1) / 3)
    # Class 0: 3 of the 4 that are sure are right, of 4; then all: 3/4 * 3/4 + 4/8 * 1/4. Class 1: 2 of 3, then 3 of 8.
    precisions = [9 / 16 + 1 / 8, 2 / 3 * 2 / 3 + 3 / 8 / 3, 1.0]
    assert got["map"] == pytest.approx(sum(precisions) / 3)
    assert segmentation_scores(scores, truth, counts, [1])["iou"] == pytest.approx(1 / 2)
    counts[:, 3] = False
    assert segmentation_scores(scores, truth, counts, [1])["iou"] == pytest.approx(1 / 3)


def test_class_that_is_nowhere_is_left_out_and_alone_is_not_defined():
    truth, scores = torch.zeros(2, 2, dtype=torch.long), segmented([[0, 0], [0, 0]])
    counts = torch.ones(2, 2, dtype=torch.bool)
    assert segmentation_scores(scores, truth, counts, [0, 1]) == {"iou": 1, "accuracy": 1, "map": 1}
    alone = segmentation_scores(scores, truth, counts, [1])
    assert math.isnan(alone["iou"])
    assert math.isnan(alone["map"])
