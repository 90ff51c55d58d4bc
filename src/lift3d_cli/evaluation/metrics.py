"""Metrics of images, features and segmentations, over the pixels that have ground truth."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

# Wang et al. 2004, "Image quality assessment": 11x11 Gaussian window of sigma 1.5, K1 = 0.01, K2 = 0.03, range 1.
_WINDOW, _SIGMA, _C1, _C2 = 11, 1.5, 0.01**2, 0.03**2


def ssim(image: Tensor, truth: Tensor, counts: Tensor) -> float:
    """Return the structural similarity, averaged over channels and over the windows whose pixels all count.

    If there is no such window, windows whose centre counts are used, with images padded by replication.
    """
    # float64: the variances are small differences of large numbers.
    x, y = image.double(), truth.double()
    if min(counts.shape) >= _WINDOW:
        whole = -F.max_pool2d(-counts[None, None].double(), _WINDOW, stride=1)[0, 0] > 0
        if whole.any():
            return float(_ssim_of_windows(x, y)[:, whole].mean())
    x, y = (F.pad(picture, (_WINDOW // 2,) * 4, mode="replicate") for picture in (x, y))
    return float(_ssim_of_windows(x, y)[:, counts].mean())


def _ssim_of_windows(x: Tensor, y: Tensor) -> Tensor:  # [C, H, W] float64 to [C, H - 10, W - 10]
    """Return SSIM of each window: Wang et al. 2004, equation 13."""
    offset = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
    kernel = torch.exp(-(offset**2) / (2 * _SIGMA**2))
    kernel = (kernel / kernel.sum()).to(x.device)

    def blur(picture: Tensor) -> Tensor:
        picture = F.conv2d(picture[:, None], kernel.view(1, 1, -1, 1))
        return F.conv2d(picture, kernel.view(1, 1, 1, -1))[:, 0]

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y, cov = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2, blur(x * y) - mean_x * mean_y
    return (2 * mean_x * mean_y + _C1) * (2 * cov + _C2) / ((mean_x**2 + mean_y**2 + _C1) * (var_x + var_y + _C2))


def feature_mse(
    features: Tensor,  # [C, h, w]
    truth: Tensor,  # [C, h, w]
    counts: Tensor,  # [h, w] bool
) -> tuple[float, float]:
    """Return the mean squared error in the features' own units, and relative to the truth's variance.

    The variance is per channel over the cells that count, then averaged: predicting the mean feature has an error of 1.
    """
    x, y = features[:, counts].double(), truth[:, counts].double()
    mse = float(((x - y) ** 2).mean())
    variance = float(y.var(dim=1, correction=0).mean())
    return mse, mse / variance if variance > 0 else float("nan")


def segmentation_scores(
    scores: Tensor,  # [K, H, W]: score of each class
    truth: Tensor,  # [H, W] integers: the class of each pixel
    counts: Tensor,  # [H, W] bool
    classes: Sequence[int],
) -> dict[str, float]:
    """Return `iou` and `map`, means over some classes, and `accuracy` over all.

    A pixel's class is that of its highest score. `iou` of a class is the number of its pixels both by the scores and in
    truth, over the number by either; `accuracy` is the share of pixels with the right class; `map` is the mean of the
    classes' average precision. NaN where there is no such class.
    """
    scores, truth = scores[:, counts], truth[counts]
    found = scores.argmax(0)
    pairs = [(found == k, truth == k) for k in classes]
    either = [(a & b).sum() / (a | b).sum() for a, b in pairs if (a | b).any()]
    precisions = [average_precision(scores[k], truth == k) for k in classes if (truth == k).any()]
    return {
        "iou": float(torch.stack(either).mean()) if either else math.nan,
        "accuracy": float((found == truth).float().mean()),
        "map": statistics.fmean(precisions) if precisions else math.nan,
    }


def average_precision(scores: Tensor, positive: Tensor) -> float:  # [N], [N] bool
    """Return the area below the precision-recall curve: the sum of (R_n - R_(n-1)) P_n over thresholds n.

    Equal scores have one threshold, as in scikit-learn's `average_precision_score`.
    """
    order = scores.argsort(descending=True)
    ranked, hits = scores[order], positive[order].double().cumsum(0)
    last = torch.cat([ranked[1:] != ranked[:-1], torch.ones_like(ranked[:1], dtype=torch.bool)])
    hits, taken = hits[last], (last.nonzero()[:, 0] + 1).double()
    gained = torch.diff(hits, prepend=torch.zeros_like(hits[:1]))
    return float((gained * hits / taken).sum() / hits[-1])
