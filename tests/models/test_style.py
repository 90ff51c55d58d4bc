"""Style transfer: three kinds of networks, each split exactly, each on its true grid, none chequered or flickering."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_checkpoints import adain_parts, johnson_state, save_adain, save_johnson
from torch import Tensor, nn
from torch.nn import functional as F

from lift3d_cli import FeatureGrid, FeatureMap, RenderedView
from lift3d_cli.errors import ModelError
from lift3d_cli.models import style_nets
from lift3d_cli.models.base import DecodeContext, DecodeOptions
from lift3d_cli.models.conformance import CHECKS, sample_images
from lift3d_cli.models.style import Style, moments
from lift3d_cli.models.style_nets import AdaInNet, TinyStyleNet, TransformerNet
from lift3d_cli.registry import find_model

PHOTOS = Path(__file__).parents[3] / "shared" / "photos" / "val"


def _view(image: Tensor) -> RenderedView:
    return RenderedView(image, torch.ones(image.shape[1:]))


def _context(frames: list[FeatureMap], style: Tensor | None = None) -> DecodeContext:
    return DecodeContext("stylize", DecodeOptions(style=style), frames, photo=lambda name: None)


def _picture(height: int, width: int, seed: int = 5) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


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
def shipped() -> Style:
    return find_model("style").load()


@pytest.fixture(scope="module")
def candy(tmp_path_factory) -> Style:
    return find_model(f"style:{save_johnson(tmp_path_factory.mktemp('style'))}").load()


@pytest.fixture(scope="module")
def parts() -> tuple[nn.Sequential, nn.Sequential]:
    return adain_parts()


@pytest.fixture(scope="module")
def any_style(tmp_path_factory) -> Style:
    return find_model(f"style:{save_adain(tmp_path_factory.mktemp('adain'))}").load()


# ---- the network that ships ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", CHECKS)
def test_the_shipped_network_conforms(shipped, check):
    check(shipped)


@torch.inference_mode()
def test_decode_of_encode_is_the_shipped_network_unsplit(shipped):
    for image in sample_images():
        height, width = image.shape[1:]
        padded = F.pad(image[None], (0, -width % 4, 0, -height % 4), mode="replicate")
        whole = nn.Sequential(shipped.net.encoder, shipped.net.decoder)(2 * padded - 1)[0]
        split = shipped.decoder(_context([]))(shipped.encode(image), _view(image))
        torch.testing.assert_close(split, whole[:, :height, :width], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_how_a_place_is_painted_does_not_depend_on_the_rest_of_the_frame(shipped):
    image = _picture(64, 200)
    other = image.clone()
    other[:, :, 120:] = 1
    one, two = (shipped.decode(shipped.encode(x), _view(x), "stylize") for x in (image, other))
    torch.testing.assert_close(one[:, :, :70], two[:, :, :70], atol=1e-5, rtol=0)
    assert (one[:, :, 120:] - two[:, :, 120:]).abs().mean() > 0.05


@torch.inference_mode()
def test_receptive_field_of_the_shipped_network_is_centred_on_its_cell():
    """With equal weights everywhere, a spot over a cell's centre must reach left and right, up and down, alike."""
    net = TinyStyleNet().eval()
    for parameter in net.parameters():
        if parameter.dim() == 4:
            parameter.fill_(1 / parameter[0].numel())
    flat = torch.full((1, 3, 164, 164), 0.6)
    spot = flat.clone()
    spot[..., 80:84, 80:84] = 1
    change = (net.encode(spot) - net.encode(flat)).abs().sum(1)[0]
    change = change / change.max()
    torch.testing.assert_close(change, change.flip(0), atol=1e-4, rtol=0)
    torch.testing.assert_close(change, change.flip(1), atol=1e-4, rtol=0)
    assert divmod(change.argmax().item(), 41) == (20, 20)


@torch.inference_mode()
def test_flat_surfaces_get_no_chequered_pattern(shipped):
    for level in (0.2, 0.5, 0.8):
        flat = torch.full((3, 128, 128), level)
        out = shipped.decode(shipped.encode(flat), _view(flat), "stylize")[:, 48:80, 48:80]
        assert out.std((1, 2)).max() < 0.03


@torch.inference_mode()
def test_photos_are_painted_and_still_recognisable(shipped):
    from lift3d_cli.training.photos import read_photo

    paths = sorted(PHOTOS.glob("*.jpg"))[::20]
    if not paths:
        pytest.skip(f"no photos in {PHOTOS}")
    for path in paths:
        photo = torch.from_numpy(read_photo(path).transpose(2, 0, 1).copy()).float() / 255
        painted = shipped.decode(shipped.encode(photo), _view(photo), "stylize")
        assert (painted - photo).abs().mean() > 0.08
        # Where a photo has structure, so has the painting.
        structure = [_slopes(x).flatten() for x in (photo, painted)]
        assert torch.corrcoef(torch.stack(structure))[0, 1] > 0.3


def _slopes(image: Tensor) -> Tensor:
    """How steep grey is, over areas of 8 x 8 pixels."""
    gray = image.mean(0, keepdim=True)
    steep = gray.diff(dim=1)[..., :-1].abs() + gray.diff(dim=2)[:, :-1].abs()
    return F.avg_pool2d(steep, 8)


# ---- TransformerNet --------------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_decode_of_encode_is_the_transformer_net_unsplit(candy):
    assert (candy.spec.channels, candy.spec.stride, candy.spec.license) == (8, 4, "unknown")
    for image in (*sample_images(), _picture(21, 18), _picture(9, 9)):
        height, width = image.shape[1:]
        split = candy.decode(candy.checked_encode(image), _view(image), "stylize")
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
    style = _picture(40, 33)
    for image in (_picture(48, 40, 6), _picture(37, 51, 7)):
        height, width = image.shape[1:]
        features = any_style.checked_encode(image)
        split = any_style.decoder(_context([features], style))(features, _view(image))
        whole = adain(parts, image, style)[:, :height, :width]
        assert whole.std() > 0.02
        torch.testing.assert_close(split, whole, atol=1e-3, rtol=0)


@torch.inference_mode()
def test_receptive_field_of_adain_is_centred_on_its_cell():
    net = AdaInNet().eval()
    for parameter in net.encoder.parameters():
        parameter.fill_(1 / parameter[0].numel() if parameter.dim() == 4 else 0)
    flat = torch.full((1, 3, 120, 120), 0.6)
    spot = flat.clone()
    spot[..., 56:64, 56:64] = 1
    change = (net.encode(spot) - net.encode(flat)).sum(1)[0]
    change = change / change.max()
    torch.testing.assert_close(change, change.flip(0), atol=1e-4, rtol=0)
    torch.testing.assert_close(change, change.flip(1), atol=1e-4, rtol=0)
    assert divmod(change.argmax().item(), 15) == (7, 7)


@torch.inference_mode()
def test_adain_takes_the_statistics_of_all_frames(any_style):
    frames = [any_style.encode(_picture(32, 32, seed) * level) for seed, level in ((1, 1.0), (2, 0.3))]
    mean, std = moments(frame.data for frame in frames)
    cells = torch.cat([frame.data.flatten(1) for frame in frames], 1)
    torch.testing.assert_close(mean[:, 0, 0], cells.mean(1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(std[:, 0, 0], (cells.var(1) + 1e-5).sqrt(), atol=1e-4, rtol=1e-4)
    view, style = _view(torch.zeros(3, 32, 32)), _picture(32, 32, 3)
    alone = any_style.decoder(_context(frames[:1], style))(frames[0], view)
    together = any_style.decoder(_context(frames, style))(frames[0], view)
    assert (alone - together).abs().mean() > 1e-3


@torch.inference_mode()
def test_adain_files_may_come_in_either_order_and_the_style_in_any_size(any_style, tmp_path):
    save_adain(tmp_path, ("b.pth", "a.pth"))
    other = find_model(f"style:{tmp_path / 'a.pth'},{tmp_path / 'b.pth'}").load()
    features = any_style.encode(_picture(24, 24))
    torch.testing.assert_close(other.encode(_picture(24, 24)).data, features.data)
    small = F.interpolate(_picture(6, 9)[None], (18, 27))[0]
    out = any_style.decoder(_context([features], small))(features, _view(torch.zeros(3, 24, 24)))
    assert out.shape == (3, 24, 24)


# ---- all of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["candy", "any_style"])
@pytest.mark.parametrize("check", CHECKS[:3])  # random weights are too lopsided for the last one
def test_checkpoints_conform(kind, check, request):
    check(request.getfixturevalue(kind))


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["shipped", "candy"])
def test_features_on_a_shifted_grid_paint_the_pixels_that_they_lie_on(kind, request):
    """Rendered features may come on a grid of their own; here, that of a view cut 16 pixels from the left."""
    model, image = request.getfixturevalue(kind), next(sample_images())
    features = model.encode(image)
    grid = features.grid
    moved = FeatureGrid(grid.width, grid.height, grid.scale, (grid.offset[0] + 4, grid.offset[1]))
    whole = model.decode(features, _view(image), "stylize")
    cut = model.decode(FeatureMap(features.data, moved), _view(image[:, :, 16:]), "stylize")
    torch.testing.assert_close(cut, whole[:, :, 16:], atol=1e-4, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["shipped", "candy", "any_style"])
@pytest.mark.parametrize("size", [(1, 1), (3, 40), (13, 2)], ids=str)
def test_photos_smaller_than_a_cell_work(kind, size, request):
    model, image = request.getfixturevalue(kind), _picture(*size)
    features = model.checked_encode(image)
    style = _picture(16, 16) if kind == "any_style" else None
    out = model.decoder(_context([features], style))(features, _view(image))
    assert out.shape == image.shape
    assert out.isfinite().all()


@pytest.mark.parametrize("kind", ["shipped", "candy"])
def test_a_style_is_refused_by_networks_that_have_one(kind, request):
    with pytest.raises(ModelError, match=r"hint: --model style:vgg_normalised\.pth,decoder\.pth"):
        request.getfixturevalue(kind).decoder(_context([], _picture(8, 8)))


def test_adain_without_a_style_is_refused(any_style):
    with pytest.raises(ModelError, match=r"hint: --style PICTURE"):
        any_style.decoder(_context([]))
    features = FeatureMap(torch.zeros(512, 1, 1), any_style.grid(8, 8))
    with pytest.raises(ModelError, match=r"hint: --style PICTURE"):
        any_style.decode(features, _view(_picture(8, 8)), "stylize")


def test_adain_without_a_frame_is_refused(any_style):
    with pytest.raises(ModelError, match="no frame"):
        any_style.decoder(_context([], _picture(16, 16)))


@pytest.mark.parametrize(
    "states",
    [
        [{"somewhere.weight": torch.zeros(3)}],
        [{name: t for name, t in johnson_state().items() if "res5" not in name}],
        [{**johnson_state(), "res6.conv1.conv2d.weight": torch.zeros(8, 8, 3, 3)}],
        [{"0.weight": torch.zeros(3, 3, 1, 1)}, {"1.weight": torch.zeros(1)}],
        [johnson_state()] * 3,
    ],
    ids=["foreign", "lacks", "more", "two", "three"],
)
def test_weights_of_another_network_are_one_line(states, tmp_path):
    paths = [tmp_path / f"{i}.pth" for i in range(len(states))]
    for path, state in zip(paths, states, strict=True):
        torch.save(state, path)
    with pytest.raises(ModelError, match="not the weights of a network that is known here") as error:
        find_model("style:" + ",".join(map(str, paths))).load()
    assert "\n" not in str(error.value)


def test_missing_file_is_one_line(tmp_path):
    with pytest.raises(ModelError, match=r"there is no file .*decoder\.pth\. hint: "):
        find_model(f"style:{__file__},{tmp_path / 'decoder.pth'}").load()


def test_published_files_are_matched_by_their_own_names():
    """The places in the published `nn.Sequential`s are where the network looks for its convolutions."""
    names = [set(part.state_dict()) for part in adain_parts()]
    own = {name.removeprefix("encoder.") for name in AdaInNet().state_dict() if name.startswith("encoder.")}
    assert own == {name for name in names[0] if int(name.split(".")[0]) < 31}
    own = {name.removeprefix("decoder.") for name in AdaInNet().state_dict() if name.startswith("decoder.")}
    assert own == names[1]
