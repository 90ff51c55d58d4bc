"""Style transfer by networks of others: each split exactly, each on its true grid."""

from __future__ import annotations

import pytest
import torch
from tiny_checkpoints import adain_parts, johnson_state, save_adain
from torch import Tensor, nn
from torch.nn import functional as F
from views import as_view, assert_cell_is_centred, noise, stylizing

from lift3d_cli.models.builtin import style_nets
from lift3d_cli.models.builtin.style import moments
from lift3d_cli.models.builtin.style_nets import AdaInNet, TransformerNet
from lift3d_cli.models.conformance import sample_images
from lift3d_cli.models.registry import find_model

# ---- the networks as their authors have them, unsplit ----------------------------------------------------------------


def johnson(image: Tensor, state: dict[str, Tensor]) -> Tensor:
    """TransformerNet of fast_neural_style on an image [3, H, W] in [0, 1]: the same, or a little larger."""

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.conv2d.weight"]
        x = F.pad(x, (weight.shape[2] // 2,) * 4, mode="reflect")
        return F.conv2d(x, weight, state[f"{name}.conv2d.bias"], stride)

    def norm(x: Tensor, name: str) -> Tensor:
        return F.instance_norm(x, weight=state[f"{name}.weight"], bias=state[f"{name}.bias"])

    x = image[None] * 255
    for i, stride in ((1, 1), (2, 2), (3, 2)):
        x = F.relu(norm(conv(x, f"conv{i}", stride), f"in{i}"))
    for i in range(1, 6):
        y = F.relu(norm(conv(x, f"res{i}.conv1"), f"res{i}.in1"))
        x = x + norm(conv(y, f"res{i}.conv2"), f"res{i}.in2")
    for i in (1, 2):
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        x = F.relu(norm(conv(x, f"deconv{i}"), f"in{i + 3}"))
    return conv(x, "deconv3")[0] / 255


def adain(parts: tuple[nn.Sequential, nn.Sequential], image: Tensor, style: Tensor) -> Tensor:
    """The unsplit model on one image [3, H, W]; the result is clamped and may be a little larger."""
    content, wanted = (parts[0][:31](x[None]) for x in (image, style))

    def mean_std(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean((2, 3), keepdim=True), (x.flatten(2).var(2) + 1e-5).sqrt()[..., None, None]

    (mean, std), (style_mean, style_std) = mean_std(content), mean_std(wanted)
    return parts[1]((content - mean) / std * style_std + style_mean)[0].clamp(0, 1)


@pytest.fixture(scope="module")
def parts() -> tuple[nn.Sequential, nn.Sequential]:
    return adain_parts()


# ---- TransformerNet --------------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_decode_of_encode_is_the_transformer_net_unsplit(candy):
    assert (candy.spec.channels, candy.spec.stride, candy.spec.license) == (8, 4, "unknown")
    for image in (*sample_images(), noise(21, 18), noise(9, 9)):
        height, width = image.shape[1:]
        split = candy.decode(candy.checked_encode(image), as_view(image), "stylize")
        whole = johnson(image, johnson_state())[:, :height, :width].clamp(0, 1)
        torch.testing.assert_close(split, whole, atol=2e-4, rtol=0)


@torch.inference_mode()
def test_cells_of_the_transformer_net_lie_where_its_grid_says(candy, monkeypatch):
    """With equal weights and no normalisation, the change around a spot is centred on it, averaged over a cell."""
    monkeypatch.setattr(style_nets, "_normed", lambda norm, x: x)
    net = TransformerNet((2, 2, 2)).eval()
    for parameter in net.parameters():
        parameter.fill_(1 / parameter[0].numel() if parameter.dim() == 4 else 0)
    flat = torch.full((1, 3, 121, 122), 0.5)
    offsets = []
    for place in range(60, 64):
        spot = flat.clone()
        spot[..., place, place] = 1
        change = (net.encode(spot) - net.encode(flat)).abs().sum(1)[0]
        centers = candy.grid(122, 121).cell_centers()
        assert change.numel() == len(centers)
        offsets.append((centers * change.flatten()[:, None]).sum(0) / change.sum() - (place + 0.5))
    torch.testing.assert_close(torch.stack(offsets).mean(0), torch.zeros(2), atol=0.02, rtol=0)


# ---- AdaIN -----------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_adain_of_one_frame_is_the_unsplit_model(any_style, parts):
    assert (any_style.spec.channels, any_style.spec.stride) == (512, 8)
    style = noise(40, 33)
    for image in (noise(48, 40, 6), noise(37, 51, 7)):
        height, width = image.shape[1:]
        features = any_style.checked_encode(image)
        split = any_style.decoder(stylizing([features], style))(features, as_view(image))
        whole = adain(parts, image, style)[:, :height, :width]
        assert whole.std() > 0.02
        torch.testing.assert_close(split, whole, atol=1e-3, rtol=0)


@torch.inference_mode()
def test_receptive_field_of_adain_is_centred_on_its_cell():
    net = AdaInNet().eval()
    for parameter in net.encoder.parameters():
        parameter.fill_(1 / parameter[0].numel() if parameter.dim() == 4 else 0)
    assert_cell_is_centred(net.encode, 120, slice(56, 64), 7)


@torch.inference_mode()
def test_adain_takes_the_statistics_of_all_frames(any_style):
    frames = [any_style.encode(noise(32, 32, seed) * level) for seed, level in ((1, 1.0), (2, 0.3))]
    mean, std = moments(frame.data for frame in frames)
    cells = torch.cat([frame.data.flatten(1) for frame in frames], 1)
    torch.testing.assert_close(mean[:, 0, 0], cells.mean(1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(std[:, 0, 0], (cells.var(1) + 1e-5).sqrt(), atol=1e-4, rtol=1e-4)
    view, style = as_view(torch.zeros(3, 32, 32)), noise(32, 32, 3)
    alone = any_style.decoder(stylizing(frames[:1], style))(frames[0], view)
    together = any_style.decoder(stylizing(frames, style))(frames[0], view)
    assert (alone - together).abs().mean() > 1e-3


@torch.inference_mode()
def test_adain_files_may_come_in_either_order_and_the_style_in_any_size(any_style, tmp_path):
    save_adain(tmp_path, ("b.pth", "a.pth"))
    other = find_model(f"style:{tmp_path / 'a.pth'},{tmp_path / 'b.pth'}").load()
    features = any_style.encode(noise(24, 24))
    torch.testing.assert_close(other.encode(noise(24, 24)).data, features.data)
    small = F.interpolate(noise(6, 9)[None], (18, 27))[0]
    out = any_style.decoder(stylizing([features], small))(features, as_view(torch.zeros(3, 24, 24)))
    assert out.shape == (3, 24, 24)


def test_published_files_are_matched_by_their_own_names():
    """The places in the published `nn.Sequential`s are where the network looks for its convolutions."""
    names = [set(part.state_dict()) for part in adain_parts()]
    own = {name.removeprefix("encoder.") for name in AdaInNet().state_dict() if name.startswith("encoder.")}
    assert own == {name for name in names[0] if int(name.split(".")[0]) < 31}
    own = {name.removeprefix("decoder.") for name in AdaInNet().state_dict() if name.startswith("decoder.")}
    assert own == names[1]
