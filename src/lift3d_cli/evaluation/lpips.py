"""LPIPS (Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric"), version 0.1.

Its weights do not ship with lift3d. Expected is the state dict of the package `lpips`, as safetensors: `net.slice1.0`
and so on of AlexNet or VGG-16, with `.weight` and `.bias`; `lin0.model.1.weight` and so on for the five layers. With
the package and torchvision's weights, the file is written by

    safetensors.torch.save_file({k: v.clone() for k, v in lpips.LPIPS(net="alex").state_dict().items()}, FILE)
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.errors import ModelError, SceneError
from lift3d_cli.weights import find_other_weights, load_weights

NOT_MEASURED = "no weights. hint: --lpips FILE"
# Convolutions by their numbers in torchvision's networks, in five slices. A slice's result is compared, and pooled
# before the next one, except for AlexNet's third and fourth.
_ALEX, _VGG = ((0,), (3,), (6,), (8,), (10,)), ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
_POOLED = {_ALEX: (1, 2), _VGG: (1, 2, 3, 4)}
_POOL = {_ALEX: 3, _VGG: 2}
_ALEX_FIRST_KERNEL = 11
# ImageNet's mean and deviation, for images in [-1, 1].
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_MIN_SIDE_PX = 32


class Lpips:
    """The perceptual distance of two images: 0 for equal ones.

    Args:
        reference: the weights: a safetensors file, or a Hugging Face repository that has `lpips.safetensors`.
        device: where to compute.

    Raises:
        ModelError: if they are missing, or not laid out as described in this module.
    """

    def __init__(self, reference: str, device: torch.device | str = "cpu") -> None:
        state = load_weights("", find_other_weights(reference, "lpips.safetensors"))
        first = state.get("net.slice1.0.weight", torch.empty(0))
        self._slices = _ALEX if first.shape[-1:] == (_ALEX_FIRST_KERNEL,) else _VGG
        try:
            self._convs = [
                [tuple(state[f"net.slice{n}.{conv}.{part}"] for part in ("weight", "bias")) for conv in convs]
                for n, convs in enumerate(self._slices, 1)
            ]
            lines = [state[f"lin{n}.model.1.weight"].flatten() for n in range(len(self._slices))]
        except KeyError as e:
            raise ModelError(
                f"--lpips {reference}: has no tensor {e}. hint: the state dict of lpips.LPIPS, see docs/evaluation.md"
            ) from e
        self._convs = [[tuple(x.to(device).float() for x in conv) for conv in convs] for convs in self._convs]
        self._lines = [line.to(device).float() for line in lines]
        self._shift, self._scale = (torch.tensor(x, device=device)[:, None, None] for x in (_SHIFT, _SCALE))

    @torch.inference_mode()
    def __call__(
        self,
        image: Tensor,  # [3, H, W] in [0, 1]
        truth: Tensor,  # [3, H, W] in [0, 1]
        counts: Tensor,  # [H, W] bool: pixels to compare
    ) -> float:
        """Return the mean over the cells of each layer, weighted by their pixels that count, summed over the layers.

        Pixels that do not count are made equal first, since nearby cells depend on them.

        Raises:
            SceneError: if the images are too small for the network.
        """
        if min(counts.shape) < _MIN_SIDE_PX:
            raise SceneError(f"LPIPS of {tuple(counts.shape)} pixels: too small. hint: --height {_MIN_SIDE_PX} or more")
        x = (torch.stack([torch.where(counts, image, truth), truth]) * 2 - 1 - self._shift) / self._scale
        total = 0.0
        for n, (convs, line) in enumerate(zip(self._convs, self._lines, strict=True)):
            if n in _POOLED[self._slices]:
                x = F.max_pool2d(x, _POOL[self._slices], 2)
            for weight, bias in convs:
                kernel = weight.shape[-1]
                stride, padding = (4, 2) if kernel == _ALEX_FIRST_KERNEL else (1, kernel // 2)
                x = F.relu(F.conv2d(x, weight, bias, stride, padding))
            a, b = x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)
            distance = torch.einsum("chw,c->hw", (a - b).square(), line)
            share = F.adaptive_avg_pool2d(counts[None].float(), distance.shape)[0]
            total += float((distance * share).sum() / share.sum())
        return total
