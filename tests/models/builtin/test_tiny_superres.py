"""The shipped super-resolution: split exactly, detail where the features lie, view's colour, better than bicubic."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lift3d_cli import FeatureGrid, FeatureMap, RenderedView
from lift3d_cli.errors import ModelError
from lift3d_cli.models.builtin.tiny_superres import SuperresNet, TinySuperres, enlarged
from lift3d_cli.models.conformance import CHECKS, sample_images
from lift3d_cli.models.registry import find_model

PHOTOS = Path(__file__).parents[4] / "shared" / "photos" / "val"


@pytest.fixture(scope="module")
def model() -> TinySuperres:
    return find_model("tiny-superres").load()


def _view(image: torch.Tensor) -> RenderedView:
    return RenderedView(image, torch.ones(image.shape[1:]))


@torch.inference_mode()
def test_decode_of_encode_is_the_unsplit_model(model):
    for image in sample_images():
        split = model.decode(model.checked_encode(image), _view(image), "superres")
        torch.testing.assert_close(split, model.net(image[None])[0].clamp(0, 1), atol=1e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(1, 1), (2, 40), (33, 7)], ids=str)
def test_result_is_twice_as_large_also_of_tiny_photos(model, size):
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    out = model.decode(model.checked_encode(image), _view(image), "superres")
    assert out.shape == (3, 2 * size[0], 2 * size[1])
    assert out.min() >= 0
    assert out.max() <= 1


@pytest.mark.parametrize("check", CHECKS)
def test_it_conforms(model, check):
    check(model)


@torch.inference_mode()
def test_features_on_a_shifted_grid_sharpen_the_pixels_that_they_lie_on(model):
    """Rendered features may come on a grid of their own; here, that of a view cut 16 pixels from the left."""
    image = next(sample_images())
    features = model.encode(image)
    grid = FeatureGrid(features.grid.width, features.grid.height, features.grid.scale, (16.0, 0.0))
    whole = model.decode(features, _view(image), "superres")
    cut = model.decode(FeatureMap(features.data, grid), _view(image[:, :, 16:]), "superres")
    # Bicubic interpolation looks two pixels beyond the cut.
    torch.testing.assert_close(cut[:, :, 4:], whole[:, :, 36:], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_coarser_features_spread_over_the_whole_view(model):
    """A view that is larger than the encoded photos has fewer cells than pixels."""
    image = next(sample_images())
    features = model.encode(image)
    large = enlarged(image[None])[0].clamp(0, 1)
    out = model.decode(FeatureMap(features.data, features.grid.rescaled(2, 2)), _view(large), "superres")
    detail = model.net.decode(features.data[None])[0]
    added = torch.nn.functional.avg_pool2d((out - enlarged(large[None])[0].clamp(0, 1))[None], 2)[0]
    inner = (slice(None), slice(8, -8), slice(8, -8))
    assert torch.corrcoef(torch.stack([added[inner].flatten(), detail[inner].flatten()]))[0, 1] > 0.8


@torch.inference_mode()
def test_colour_is_the_views_and_detail_the_features(model):
    image = next(sample_images())
    features = model.encode(image)
    dark, light = (torch.full_like(image, level) for level in (0.48, 0.52))
    one, other = (model.decode(features, _view(view), "superres") for view in (dark, light))
    free = (one > 0.05) & (other < 0.95)  # not clipped
    torch.testing.assert_close((other - one)[free], torch.full_like(one, 0.04)[free], atol=1e-4, rtol=0)
    assert one.std() > 0.01


@torch.inference_mode()
def test_a_cell_changes_its_own_neighbourhood_only(model):
    image = next(sample_images())
    features = model.encode(image)
    changed = features.data.clone()
    changed[:, 40, 50] += 1
    before = model.decode(features, _view(image), "superres")
    after = model.decode(FeatureMap(changed, features.grid), _view(image), "superres")
    rows, columns = torch.nonzero(((after - before).abs() > 1e-6).any(0), as_tuple=True)
    assert 80 - 4 <= rows.min() <= rows.max() < 82 + 4
    assert 100 - 4 <= columns.min() <= columns.max() < 102 + 4


@torch.inference_mode()
def test_receptive_field_is_centred_on_its_cell():
    """With equal weights everywhere, a spot must reach left and right, up and down, alike."""
    net = SuperresNet().eval()
    for parameter in net.parameters():
        parameter.fill_(1 / parameter[0].numel() if parameter.dim() == 4 else 0)
    flat = torch.full((1, 3, 65, 65), 0.6)
    spot = flat.clone()
    spot[:, :, 32, 32] = 1
    change = (net.encode(spot) - net.encode(flat)).sum(1)[0]
    change = change / change.max()
    torch.testing.assert_close(change, change.flip(0), atol=1e-4, rtol=0)
    torch.testing.assert_close(change, change.flip(1), atol=1e-4, rtol=0)
    assert change.argmax() == 32 * 65 + 32


@torch.inference_mode()
def test_shipped_weights_beat_bicubic_on_held_out_photos(model):
    from lift3d_cli.training.photo_set import read_image
    from lift3d_cli.training.superres import held_out_scores

    paths = sorted(PHOTOS.glob("*.jpg"))[::20]
    if not paths:
        pytest.skip(f"no photos in {PHOTOS}")
    scores = held_out_scores(model.net, [read_image(path) for path in paths])
    assert scores["psnr"] > scores["psnr_bicubic"] + 0.8
    assert scores["psnr_moved"] > scores["psnr_bicubic"] + 0.4


def test_weights_of_another_network_are_one_line(tmp_path):
    from safetensors.torch import save_file

    save_file({"somewhere.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="do not fit the network") as error:
        find_model(f"tiny-superres:{tmp_path / 'other.safetensors'}").load()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300
