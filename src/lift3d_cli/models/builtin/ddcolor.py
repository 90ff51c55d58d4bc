"""`ddcolor`, `ddcolor-tiny`: DDColor (Kang et al., ICCV 2023) colorizes photos; split after its U-Net.

Lifted is one map at stride 4: that of the U-Net, with the two coarser maps that the colour queries attend to as well,
each cell repeated. All of it can be blended linearly, and averaging the repeated cells gives the coarser maps back. The
rest of the network runs for each view: 15 % of the large one's work, 40 % of the tiny one's.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.errors import ModelError
from lift3d_cli.geometry.grids import FeatureGrid, sample_map
from lift3d_cli.models.base import FeatureMap, Model, ModelSpec, RenderedView
from lift3d_cli.models.builtin.color_space import lightness, rgb_from_lab
from lift3d_cli.models.builtin.ddcolor_net import DEEPEST_STRIDE, SPLIT_STRIDE, DDColorNet, Sizes
from lift3d_cli.models.pretrained import hub_file, read_state


class DDColor(Model):
    """Colorizes photos; reads lightness only. The variant with ConvNeXt-L that its authors recommend."""

    spec = ModelSpec(
        name="ddcolor",
        channels=1280,
        stride=SPLIT_STRIDE,
        tasks=("colorize",),
        license="Apache-2.0",
        summary="DDColor, large: colorizes photos",
        max_size=512,  # the size of the images that it was trained on
        hub="piddnad/ddcolor_modelscope",
        revision="060f67494e31883a4b13cb27f889f3154847ada4",
        download_bytes=911_914_869,
    )

    def __init__(self, checkpoint: str = "") -> None:
        """Load a checkpoint of any size.

        Args:
            checkpoint: a file, or a Hugging Face repository with a `pytorch_model.bin`; "" for the spec's.
        """
        super().__init__()
        path = hub_file(self.spec, "pytorch_model.bin", checkpoint)
        state = read_state(self.spec, path)
        try:
            sizes = Sizes.of_state(state)
            with torch.device("meta"):  # no memory or random numbers for weights that are replaced
                self.net = DDColorNet(sizes)
            self.net.load_state_dict(state, assign=True)
        except (KeyError, RuntimeError, TypeError, ValueError, AssertionError) as e:
            # torch's own message names every tensor: kept as the cause, not shown.
            raise ModelError(
                f"model {self.spec.name}: {path} does not hold a DDColor network. "
                "hint: weights of piddnad/DDColor with the multi-scale decoder"
            ) from e
        self.net.float()
        # Channels of each map: the U-Net's, at strides 4, 8 and 16.
        self._widths = (sizes.width // 2, sizes.width, sizes.width)
        self.spec = dataclasses.replace(type(self).spec, channels=sum(self._widths))

    def grid(self, width: int, height: int) -> FeatureGrid:
        """Return the cells of the image and of its padding, which the queries attended to as well."""
        cells = DEEPEST_STRIDE // SPLIT_STRIDE
        across, down = (cells * math.ceil(n / DEEPEST_STRIDE) for n in (width, height))
        return FeatureGrid(across, down, (1 / SPLIT_STRIDE, 1 / SPLIT_STRIDE))

    def encode(self, image: Tensor) -> FeatureMap:
        """Encode the lightness of a photo [3, H, W]; right and bottom are padded by replication to whole cells."""
        grid = self.grid(image.shape[2], image.shape[1])
        at_16, at_8, at_4 = self.net.encode(_grey_under(image, grid))
        maps = [at_4, _repeat(at_8, 2), _repeat(at_16, 4)]
        return FeatureMap(torch.cat(maps, 1)[0], grid)

    def decode(self, features: FeatureMap, view: RenderedView, task: str) -> Tensor:
        """Combine the view's lightness with the features' colour: [3, H, W] in [0, 1]."""
        features = _whole_cells(features, 4)  # cells of stride 16
        at_4, at_8, at_16 = features.data[None].split(self._widths, 1)
        maps = [F.avg_pool2d(at_16, 4), F.avg_pool2d(at_8, 2), at_4]
        ab = features.finer(self.net.decode(maps, _grey_under(view.image, features.grid))[0])
        return rgb_from_lab(torch.cat([lightness(view.image), ab.at_pixels(view.image.shape[2], view.image.shape[1])]))


class DDColorTiny(DDColor):
    """The variant with ConvNeXt-T, a quarter of the size."""

    spec = dataclasses.replace(
        DDColor.spec,
        name="ddcolor-tiny",
        summary="DDColor, tiny: colorizes photos",
        hub="piddnad/ddcolor_paper_tiny",
        revision="cf9fd99c1d7472689ec7413441c1b799a51866a3",
        download_bytes=220_372_845,
    )


def _grey_under(image: Tensor, grid: FeatureGrid) -> Tensor:
    """Return the network's grey input for the cells of a grid: RGB [1, 3, 4h, 4w] of equal lightness.

    Beyond the image, its border is replicated.
    """
    light = lightness(image)
    sides = [max(1, round(n * SPLIT_STRIDE * s)) for n, s in zip(light.shape[:0:-1], grid.scale, strict=True)]
    if sides[0] < light.shape[2] or sides[1] < light.shape[1]:  # point samples of too fine pixels would alias
        small = F.interpolate(light[None], size=sides[::-1], mode="bilinear", antialias=True, align_corners=False)[0]
        grid = grid.rescaled(small.shape[2] / light.shape[2], small.shape[1] / light.shape[1])
        light = small
    scale, offset = (tuple(SPLIT_STRIDE * n for n in pair) for pair in (grid.scale, grid.offset))
    pixels = FeatureGrid(SPLIT_STRIDE * grid.width, SPLIT_STRIDE * grid.height, scale, offset)
    light = sample_map(light[None], pixels.cell_centers()[None].to(light.device))[0]
    light = light.reshape(1, pixels.height, pixels.width)
    return rgb_from_lab(torch.cat([light, torch.zeros_like(light), torch.zeros_like(light)]))[None]


def _repeat(x: Tensor, times: int) -> Tensor:
    """Repeat every cell `times` x `times` times."""
    return x.repeat_interleave(times, 2).repeat_interleave(times, 3)


def _whole_cells(features: FeatureMap, times: int) -> FeatureMap:
    """Repeat the last row and column until both numbers of cells are multiples of `times`."""
    grid = features.grid
    data = F.pad(features.data[None], (0, -grid.width % times, 0, -grid.height % times), mode="replicate")[0]
    return FeatureMap(data, dataclasses.replace(grid, width=data.shape[2], height=data.shape[1]))
