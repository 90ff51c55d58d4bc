"""A machine's peak rates, and the least work of each step of a frame: the roofline of `frame_steps.py`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import measuring
import torch
from torch import nn

from lift3d_cli.config import RenderConfig
from lift3d_cli.lifting.blending.network import NUM_VIEW_INPUTS
from lift3d_cli.lifting.blending.pyramid import NUM_PHOTO_FEATURES, PYRAMID_STRIDE
from lift3d_cli.lifting.correction.evidence import SKETCH_CHANNELS, TAPS
from lift3d_cli.lifting.network import Lift3DNetwork
from lift3d_cli.lifting.proposal.network import NUM_CUES, NUM_LATENTS
from lift3d_cli.machine.device import resolve_device, resolve_precision

FLOAT = 4  # bytes
TAP = 8  # flops per channel of a bilinear sample: four products, each added up
PROJECT = 9  # per point on a ray: three multiply-adds with its depth, a division, two products
ANGLE = 13  # between two lines of sight: two dot products of three numbers, a root, a product, an arc cosine
COLORS = 7  # sharpened and plain colour, mean square
# Bytes per sample and view that the gather reads: (u, v) and omega.
SAMPLE = 3 * FLOAT


@dataclass(frozen=True)
class FrameSizes:
    """Sizes of a frame and its inputs; those of photos are totals over all V views.

    Args:
        views: V.
        photo_bytes: size of the photos' files.
        source_pixels: pixels of the resized photos.
        pixels: pixels of the frame.
        samples: S, samples per ray.
        voxels: (planes, height, width) of Stage I's sweep.
        channels: C, channels of the features.
        source_cells: cells of the photos' features.
        cells: cells of the frame's features.
    """

    views: int
    photo_bytes: int
    source_pixels: int
    pixels: int
    samples: int
    voxels: tuple[int, int, int]
    channels: int
    source_cells: int
    cells: int


@dataclass(frozen=True)
class Work:
    """The least work of a step."""

    bytes: float
    flops: float = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.bytes + other.bytes, self.flops + other.flops)

    def seconds(self, bandwidth: float, rate: float) -> float:
        """Return the roofline of a machine that moves `bandwidth` bytes and does `rate` flops per second."""
        return max(self.bytes / bandwidth, self.flops / rate)


def work(n: FrameSizes, network: Lift3DNetwork) -> dict[str, Work]:
    """Return each step's work, in the order of the frame. Bytes are its inputs and results, each counted once."""
    planes = n.voxels[0]
    voxels = math.prod(n.voxels)
    rays = n.pixels if n.cells == n.pixels else n.pixels + n.cells  # with one cell per pixel they share the weights
    samples = n.views * rays * n.samples
    features_bytes = FLOAT * n.channels * n.source_cells
    pyramid_cells = n.source_pixels / PYRAMID_STRIDE**2
    return {
        # From the files to 8 bits per channel; from half to single precision.
        "read photos": Work(n.photo_bytes + 3 * n.source_pixels),
        "read features": Work(1.5 * features_bytes),
        "photo features": Work(
            FLOAT * (3 * n.source_pixels + NUM_PHOTO_FEATURES * pyramid_cells),
            pyramid_flops(network.pyramid, n.source_pixels),
        ),
        # Seven channels are sampled; for six, each view is compared with the mean and with the nearest view. Three
        # passes of a box filter, each of two additions along three axes.
        "Stage I: sweep": Work(
            FLOAT * (3 * n.source_pixels + NUM_CUES * voxels),
            voxels * (n.views * (PROJECT + ANGLE + 7 * TAP + 6 * 7) + 3 * 3 * 2),
        ),
        "Stage I: 3-D network": Work(
            FLOAT * voxels * (NUM_CUES + 1 + NUM_LATENTS), regularizer_flops(network.regularizer, voxels)
        ),
        # A ray's column of the distribution is interpolated, accumulated, and searched for each sample.
        "sampling": Work(
            FLOAT * (voxels + rays * n.samples), rays * (planes * (TAP + 1) + n.samples * math.log2(planes))
        ),
        # Colours, blurred colours, validity and photo features are sampled; then agreement with the mean colour.
        "Stage II: looking": Work(
            FLOAT * (7 * n.source_pixels + NUM_PHOTO_FEATURES * pyramid_cells + NUM_LATENTS * voxels)
            + samples * (SAMPLE + FLOAT * NUM_VIEW_INPUTS),
            samples * (PROJECT + ANGLE + (7 + NUM_PHOTO_FEATURES) * TAP + 12),
        ),
        "Stage II: network": Work(
            samples * FLOAT * (NUM_VIEW_INPUTS + 2) + FLOAT * rays * n.samples * (NUM_LATENTS + 4),
            blending_flops(network.blending, rays * n.samples, n.views),
        ),
        "gather of colour": gather(n, n.pixels, COLORS, n.source_pixels),
        "gather of features": gather(n, n.cells, n.channels, n.source_cells),
        **corrector_work(n, network.corrector),
        "fill": Work(FLOAT * (n.pixels + n.cells)),  # the coverage must be read, even if nothing is unseen
        # Single precision to 8 bits: colour, coverage, confidence. Depth unchanged. Features to half precision.
        "write": Work(n.pixels * (5 * (FLOAT + 1) + 2 * FLOAT) + n.cells * n.channels * (FLOAT + 2)),
        "read what is rendered": Work(n.pixels * (2 * 3 + FLOAT + 2) + n.cells * n.channels * 2),
        "decode": Work(n.cells * n.channels * FLOAT + n.pixels * 2 * 3 * FLOAT),
        "write what is decoded": Work(n.pixels * (3 * FLOAT + 3)),
    }


def gather(n: FrameSizes, rays: int, channels: int, cells: int) -> Work:
    """Return the work of reading every map once, positions and weights, and writing the result."""
    samples = n.views * rays * n.samples
    return Work(FLOAT * channels * (cells + rays) + SAMPLE * samples, samples * (4 + TAP * channels))


def corrector_work(n: FrameSizes, corrector: nn.Module) -> dict[str, Work]:
    """Return the corrector's work, see `lifting/correction/corrector.py`: descriptors, and two steps with them."""
    descriptors = corrector.descriptor.plain.out_channels
    cues = corrector.descriptor.plain.in_channels
    evidence, around = descriptors + SKETCH_CHANNELS, n.views * n.cells * len(TAPS)

    def describing(pixels: int, cells: int) -> Work:
        return Work(FLOAT * (3 * pixels + descriptors * cells), dense(corrector.descriptor, cells) + cells * cues * TAP)

    return {
        "descriptors of photos": describing(n.source_pixels, n.source_cells),
        "descriptors of the frame": describing(n.pixels, n.cells),
        # Descriptors and sketches are gathered; P D' and half of the symmetric D P D' of the cells around; a Cholesky
        # factor; the features are moved; the regression of features on descriptors, and what it adds to each cell.
        "corrector": Work(
            FLOAT * (evidence + n.channels) * n.source_cells
            + n.cells * (SAMPLE * n.views * n.samples + FLOAT * (2 * n.channels + descriptors)),
            n.views * n.cells * n.samples * TAP * evidence
            + dense(corrector.cell_head, around)
            + dense(corrector.ray_head, n.cells)
            + around * (descriptors + descriptors**2 + 2 * n.channels)
            + n.cells * descriptors**3 / 3
            + n.source_cells * descriptors * (descriptors + 2 * n.channels)
            + n.cells * 2 * descriptors * n.channels,
        ),
    }


def dense(network: nn.Module, positions: float) -> float:
    """Return the flops of linear layers and convolutions: at each position of the result, a multiply-add per weight."""
    return 2 * positions * sum(weight.numel() for weight in network.parameters() if weight.dim() > 1)


def pyramid_flops(pyramid: nn.Module, pixels: int) -> float:
    """Return the pyramid's flops; level i has a cell for 4^(i + 1) pixels."""
    levels = zip(pyramid.down, pyramid.lateral, strict=True)
    of_levels = sum(dense(nn.ModuleList(level), pixels / 4 ** (i + 1)) for i, level in enumerate(levels))
    return of_levels + dense(pyramid.out, pixels / 4)


def regularizer_flops(network: nn.Module, voxels: int) -> float:
    """Return the U-Net's flops; each level has half the planes, height and width of the one above."""
    parts = {"encoder0": 0, "encoder1": 1, "encoder2": 2, "encoder3": 3, "decoder2": 2, "decoder1": 1, "decoder0": 0}
    return sum(dense(getattr(network, name), voxels / 8**level) for name, level in {**parts, "head": 0}.items())


def blending_flops(network: nn.Module, samples: int, views: int) -> float:
    """Return Stage II's flops; parts of the network run per sample and view, parts per sample."""
    of_views = dense(network.view_encoder, samples * views) + dense(network.view_head, samples * views)
    # Half of the input of the head's first layer is pooled over all views.
    pooled = network.view_head[0].weight.numel() / 2
    of_samples = dense(network.pool_encoder, samples) + dense(network.ray_head, samples)
    return of_views - 2 * pooled * samples * (views - 1) + of_samples


def speed(config: RenderConfig) -> tuple[float, float]:
    """Measure bytes per second of a large copy (read and written), and flops per second of a large matrix product.

    The product is in the precision of the renderer's networks.
    """
    device = resolve_device(config.device)
    is_half = resolve_precision(config.precision, device) == "bf16"
    elements, side = (2**28, 8192) if device.type == "cuda" else (2**26, 2048)
    source = torch.ones(elements, device=device)
    square = torch.ones(side, side, device=device, dtype=torch.bfloat16 if is_half else torch.float32)
    target = torch.empty_like(source)
    seconds = measuring.medians({"copy": lambda: target.copy_(source), "product": lambda: square @ square}, 7, device)
    return 2 * FLOAT * elements / seconds["copy"], 2 * side**3 / seconds["product"]
