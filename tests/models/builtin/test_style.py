"""Style transfer: the network that ships, what holds for all three kinds, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_checkpoints import johnson_state
from torch import Tensor, nn
from torch.nn import functional as F
from views import as_view, assert_cell_is_centred, noise, stylizing

from lift3d_cli import FeatureGrid, FeatureMap
from lift3d_cli.errors import ModelError
from lift3d_cli.models.builtin.style_nets import TinyStyleNet
from lift3d_cli.models.conformance import CHECKS, sample_images
from lift3d_cli.models.registry import find_model

PHOTOS = Path(__file__).parents[4] / "shared" / "photos" / "val"


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
        split = shipped.decoder(stylizing([]))(shipped.encode(image), as_view(image))
        torch.testing.assert_close(split, whole[:, :height, :width], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_how_a_place_is_painted_does_not_depend_on_the_rest_of_the_frame(shipped):
    image = noise(64, 200)
    other = image.clone()
    other[:, :, 120:] = 1
    one, two = (shipped.decode(shipped.encode(x), as_view(x), "stylize") for x in (image, other))
    torch.testing.assert_close(one[:, :, :70], two[:, :, :70], atol=1e-5, rtol=0)
    assert (one[:, :, 120:] - two[:, :, 120:]).abs().mean() > 0.05


@torch.inference_mode()
def test_receptive_field_of_the_shipped_network_is_centred_on_its_cell():
    """With equal weights everywhere, a spot over a cell's centre must reach left and right, up and down, alike."""
    net = TinyStyleNet().eval()
    for parameter in net.parameters():
        if parameter.dim() == 4:
            parameter.fill_(1 / parameter[0].numel())
    assert_cell_is_centred(net.encode, 164, slice(80, 84), 20)


@torch.inference_mode()
def test_flat_surfaces_get_no_chequered_pattern(shipped):
    for level in (0.2, 0.5, 0.8):
        flat = torch.full((3, 128, 128), level)
        out = shipped.decode(shipped.encode(flat), as_view(flat), "stylize")[:, 48:80, 48:80]
        assert out.std((1, 2)).max() < 0.03


@torch.inference_mode()
def test_photos_are_painted_and_still_recognisable(shipped):
    from lift3d_cli.training.photo_set import read_image

    paths = sorted(PHOTOS.glob("*.jpg"))[::20]
    if not paths:
        pytest.skip(f"no photos in {PHOTOS}")
    for path in paths:
        photo = torch.from_numpy(read_image(path).transpose(2, 0, 1).copy()).float() / 255
        painted = shipped.decode(shipped.encode(photo), as_view(photo), "stylize")
        assert (painted - photo).abs().mean() > 0.08
        # Where a photo has structure, so has the painting.
        structure = [_slopes(x).flatten() for x in (photo, painted)]
        assert torch.corrcoef(torch.stack(structure))[0, 1] > 0.3


def _slopes(image: Tensor) -> Tensor:
    """How steep grey is, over areas of 8 x 8 pixels."""
    gray = image.mean(0, keepdim=True)
    steep = gray.diff(dim=1)[..., :-1].abs() + gray.diff(dim=2)[:, :-1].abs()
    return F.avg_pool2d(steep, 8)


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
    whole = model.decode(features, as_view(image), "stylize")
    cut = model.decode(FeatureMap(features.data, moved), as_view(image[:, :, 16:]), "stylize")
    torch.testing.assert_close(cut, whole[:, :, 16:], atol=1e-4, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["shipped", "candy", "any_style"])
@pytest.mark.parametrize("size", [(1, 1), (3, 40), (13, 2)], ids=str)
def test_photos_smaller_than_a_cell_work(kind, size, request):
    model, image = request.getfixturevalue(kind), noise(*size)
    features = model.checked_encode(image)
    style = noise(16, 16) if kind == "any_style" else None
    out = model.decoder(stylizing([features], style))(features, as_view(image))
    assert out.shape == image.shape
    assert out.isfinite().all()


@pytest.mark.parametrize("kind", ["shipped", "candy"])
def test_a_style_is_refused_by_networks_that_have_one(kind, request):
    with pytest.raises(ModelError, match=r"hint: --model style:vgg_normalised\.pth,decoder\.pth"):
        request.getfixturevalue(kind).decoder(stylizing([], noise(8, 8)))


def test_adain_without_a_style_is_refused(any_style):
    with pytest.raises(ModelError, match=r"hint: --style PICTURE"):
        any_style.decoder(stylizing([]))
    features = FeatureMap(torch.zeros(512, 1, 1), any_style.grid(8, 8))
    with pytest.raises(ModelError, match=r"hint: --style PICTURE"):
        any_style.decode(features, as_view(noise(8, 8)), "stylize")


def test_adain_without_a_frame_is_refused(any_style):
    with pytest.raises(ModelError, match="no frame"):
        any_style.decoder(stylizing([], noise(16, 16)))


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
