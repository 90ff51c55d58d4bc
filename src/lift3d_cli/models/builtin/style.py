"""`style`: renders photos in the style of a picture. A small network ships with lift3d; others come as files."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor
from torch.nn import functional as F

from lift3d_cli.errors import ModelError
from lift3d_cli.geometry.grids import FeatureGrid
from lift3d_cli.models.base import DecodeContext, Decoder, FeatureMap, Model, ModelSpec, RenderedView
from lift3d_cli.models.builtin.style_nets import AdaInNet, StyleNetwork, TinyStyleNet, TransformerNet
from lift3d_cli.models.pretrained import read_state
from lift3d_cli.weights import load_weights

_ANY_STYLE = "--model style:vgg_normalised.pth,decoder.pth"
# A style picture is shrunk to this shorter side, that of the training pictures of the published AdaIN.
_STYLE_SIDE_PX = 512
# Guards the division in a constant channel; the published AdaIN's value.
_EPSILON = 1e-5


class Style(Model):
    """Stylizes. With `style:FILE`, in the style of a checkpoint; with `style:VGG,DECODER`, in that of any picture."""

    spec = ModelSpec(
        name="style",
        channels=TinyStyleNet.channels,
        stride=TinyStyleNet.stride,
        tasks=("stylize",),
        version="1",
        license="Apache-2.0",
        summary="paints photos with brush strokes; ships with lift3d; other styles from files, or with --style",
        max_size=640,
    )

    def __init__(self, checkpoint: str = "") -> None:
        """Load the shipped network, or that of `checkpoint`: FILE or FILE,FILE; their keys identify it."""
        super().__init__()
        if not checkpoint:
            self.net = _filled(TinyStyleNet(), load_weights("style.safetensors"), "weights of lift3d")
            return
        paths = [Path(part) for part in checkpoint.split(",")]
        missing = [str(path) for path in paths if not path.is_file()]
        if missing:
            raise ModelError(f"model style: there is no file {missing[0]}. hint: style:FILE, or {_ANY_STYLE}")
        self.net = network_of([read_state(self.spec, path) for path in paths], checkpoint)
        self.spec = dataclasses.replace(
            type(self).spec, channels=self.net.channels, stride=self.net.stride, license="unknown"
        )

    def grid(self, width: int, height: int) -> FeatureGrid:
        """Return whole cells; odd kernels of stride 2 are centred on pixels, which shifts the grid."""
        n, offset = self.net.stride, self.net.offset
        return FeatureGrid(math.ceil(width / n), math.ceil(height / n), (1 / n, 1 / n), (offset, offset))

    def encode(self, image: Tensor) -> FeatureMap:
        """Encode a photo [3, H, W]."""
        return FeatureMap(self.net.encode(image[None])[0], self.grid(image.shape[2], image.shape[1]))

    def decode(self, features: FeatureMap, view: RenderedView, task: str) -> Tensor:
        """Decode to the stylized view [3, H, W]; colour comes from the features only.

        Raises:
            ModelError: for AdaIN, which needs a style: see `decoder`.
        """
        if isinstance(self.net, AdaInNet):
            raise ModelError("model style: these weights need a style. hint: --style PICTURE")
        return self._painted(features, view)

    def decoder(self, context: DecodeContext) -> Decoder:
        """Prepare AdaIN (Huang & Belongie 2017, equation 8): the features get the style's mean and deviation.

        Their own statistics are those of all frames: with each frame's own, colours would change as the camera turns.
        """
        style = context.options.style
        if not isinstance(self.net, AdaInNet):
            if style is not None:
                raise ModelError(f"model style: these weights have one style of their own. hint: {_ANY_STYLE}")
            return super().decoder(context)
        if style is None:
            raise ModelError("model style: which style? hint: --style PICTURE")
        style = style.to(next(self.parameters()).device)
        style_mean, style_std = moments([self.net.encode(_shrunk(style)[None])[0]])
        mean, std = moments(frame.data for frame in context.frames)

        def painted(features: FeatureMap, view: RenderedView) -> Tensor:
            data = (features.data - mean) / std * style_std + style_mean
            return self._painted(FeatureMap(data, features.grid), view)

        return painted

    def _painted(self, features: FeatureMap, view: RenderedView) -> Tensor:
        """Decode, and resample the result at the view's pixels: its pixel (0, 0) corresponds to the photo's."""
        image = self.net.decode(features.data[None])[0]
        n, grid = self.net.stride, features.grid
        offset = ((grid.offset[0] - self.net.offset) * n, (grid.offset[1] - self.net.offset) * n)
        scale = (grid.scale[0] * n, grid.scale[1] * n)
        image = FeatureMap(image, FeatureGrid(image.shape[2], image.shape[1], scale, offset))
        return image.at_pixels(view.image.shape[2], view.image.shape[1])


def moments(maps: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel over all cells of all maps [C, h, w]: each [C, 1, 1].

    Raises:
        ModelError: if there is no map.
    """
    number, total, squares = 0, 0.0, 0.0
    for data in maps:
        rows = data.double().flatten(1)  # sums of squares need more digits than float32 has
        number += rows.shape[1]
        total, squares = total + rows.sum(1), squares + rows.square().sum(1)
    if not number:
        raise ModelError("model style: there is no frame to stylize")
    mean = total / number
    variance = (squares - number * mean.square()).clamp_min(0) / max(number - 1, 1)
    return mean.float()[:, None, None], (variance + _EPSILON).sqrt().float()[:, None, None]


def _shrunk(picture: Tensor) -> Tensor:
    height, width = picture.shape[1:]
    factor = _STYLE_SIDE_PX / min(height, width)
    if factor >= 1:
        return picture
    size = (max(round(height * factor), 1), max(round(width * factor), 1))
    return F.interpolate(picture[None], size, mode="bicubic", antialias=True, align_corners=False)[0].clamp(0, 1)


def network_of(states: list[dict[str, Tensor]], where: str) -> StyleNetwork:
    """Build the network of one or two state dicts, which their keys identify.

    Raises:
        ModelError: if they belong to no known network.
    """
    if len(states) == 2:
        encoder, decoder = sorted(states, key=lambda state: "0.weight" not in state)
        state = {f"encoder.{name}": t for name, t in encoder.items()}
        state |= {f"decoder.{name}": t for name, t in decoder.items()}
        net = AdaInNet()
        return _filled(net, {name: state[name] for name in net.state_dict() if name in state}, where)
    state = states[0] if len(states) == 1 else {}
    first = [f"conv{i}.conv2d.weight" for i in (1, 2, 3)]
    if all(name in state and state[name].dim() == 4 for name in first):
        # Checkpoints of old versions of torch have running statistics, which InstanceNorm does not use.
        state = {name: t for name, t in state.items() if "running_" not in name and "num_batches" not in name}
        return _filled(TransformerNet(tuple(state[name].shape[0] for name in first)), state, where)
    return _filled(TinyStyleNet(), state, where)


def _filled(net: StyleNetwork, state: dict[str, Tensor], where: str) -> StyleNetwork:
    try:
        net.load_state_dict({name: t.float() for name, t in state.items()})
    except RuntimeError as e:
        # torch's own message names every tensor: kept as the cause, not shown.
        raise ModelError(
            f"model style: {where}: not the weights of a network that is known here. hint: one TransformerNet of "
            "fast_neural_style, or the two of AdaIN"
        ) from e
    return net.eval()
