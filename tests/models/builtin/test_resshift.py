"""ResShift: the official networks' numbers, split exactly, from noise that all photos share, in tiles."""

from __future__ import annotations

import itertools
import json
import urllib.parse
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import autoencoder_shapes, resshift_state, save_resshift, unet_shapes
from torch import nn
from torch.nn import functional as F

from lift3d_cli import FeatureGrid, FeatureMap, RenderedView
from lift3d_cli.cache.location import user_cache
from lift3d_cli.errors import ModelError
from lift3d_cli.models import conformance
from lift3d_cli.models.builtin.resshift import UNUSED, ResShift, sample, sqrt_etas
from lift3d_cli.models.builtin.swin_unet import SwinUNet
from lift3d_cli.models.builtin.vq_autoencoder import VQAutoencoder
from lift3d_cli.models.fingerprint import fingerprint
from lift3d_cli.models.registry import find_model

PARITY = Path(__file__).parents[4] / "shared" / "parity" / "resshift"
WHOLE = 8  # two levels and windows of 4
NAME = "resshift_realsrx4_s4_v3.pth"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return Path(save_resshift(tmp_path_factory.mktemp("resshift")))


@pytest.fixture(scope="module")
def model(folder) -> ResShift:
    return find_model(f"resshift:{folder}").load()


def _view(image: torch.Tensor) -> RenderedView:
    return RenderedView(image, torch.ones(image.shape[1:]))


def _photo(height: int, width: int) -> torch.Tensor:
    coarse = torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(1))
    return F.interpolate(coarse, (height, width), mode="bilinear")[0]


def _latent(model: ResShift, image: torch.Tensor) -> torch.Tensor:
    """The steps of the paper on a photo of whole windows, written out and without tiles."""
    small = 2 * image[None] - 1
    start = model.vq.encode(F.interpolate(small, scale_factor=4, mode="bicubic"))
    noise = list(itertools.islice(model.noises(image.shape[2], image.shape[1]), model.steps))
    eta = torch.tensor(sqrt_etas(model.steps)).square().tolist()
    z = start + 2 * eta[-1] ** 0.5 * noise[0]
    for t in range(model.steps - 1, 0, -1):
        x = model.unet(z / (4 * eta[t] + 1) ** 0.5, t, small)
        alpha = eta[t] - eta[t - 1]
        mean = eta[t - 1] / eta[t] * z + alpha / eta[t] * x
        z = mean + (4 * eta[t - 1] / eta[t] * alpha) ** 0.5 * noise[model.steps - t]
    return model.unet(z / (4 * eta[0] + 1) ** 0.5, 0, small)


# ---- The official networks -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def official() -> dict[str, torch.Tensor]:
    if not PARITY.is_dir():
        pytest.skip(f"no numbers of the official networks in {PARITY}")
    return load_file(PARITY / "io.safetensors")


def _official_network(kind: type[nn.Module], shapes: dict[str, list[int]], part: str) -> nn.Module:
    assert shapes == json.loads((PARITY / "state_dict_shapes.json").read_text())[part]
    state = resshift_state(shapes)
    with torch.device("meta"):
        net = kind(state)
    net.load_state_dict({key: value for key, value in state.items() if not UNUSED.search(key)}, assign=True)
    return net.eval()


def _assert_alike(name: str, got: torch.Tensor, want: torch.Tensor) -> None:
    error = ((got - want).abs().max() / want.abs().max()).item()
    print(f"{name}: {error:.1e} of the largest value")  # noqa: T201 - figures for a report, with `pytest -s`
    assert error < 1e-4, name


@torch.inference_mode()
@pytest.mark.slow
def test_autoencoder_agrees_with_the_official_one_in_names_shapes_and_numbers(official):
    shapes = autoencoder_shapes(width=128, multipliers=(1, 2, 4), blocks=2, codes=8192)
    net = _official_network(VQAutoencoder, shapes, "autoencoder")
    latent = net.encode(official["vq.input"])
    decoded = {"continuous": net.decode(latent), "quantized": net.decode(net.quantised(latent))}
    _assert_alike("vq.latent", latent, official["vq.latent"])
    for name, picture in decoded.items():
        _assert_alike(f"vq.{name}", picture[..., ::2, ::2], official[f"vq.decoded_{name}_sample"])


@torch.inference_mode()
@pytest.mark.slow
def test_unet_and_sampling_agree_with_the_official_ones_in_names_shapes_and_numbers(official):
    sizes = dict(width=160, multipliers=(1, 2, 2, 4), blocks=2, swin_width=192, heads=6, window=8, size=64)
    net = _official_network(SwinUNet, unet_shapes(**sizes), "unet")
    assert net.multiple == 64
    small = official["unet.lq"]
    for step in (0, 3):
        _assert_alike(f"unet.out_t{step}", net(official["unet.x"], step, small), official[f"unet.out_t{step}"])
    noises = official["sample.noises"].split(1)
    latents = sample(lambda z, step: net(z, step, small), official["sample.z_y"], sqrt_etas(4), noises)
    for step, latent in zip((3, 2, 1, 0), latents, strict=True):
        _assert_alike(f"sample.z_after_t{step}", latent, official[f"sample.z_after_t{step}"])


def test_schedules_are_the_official_ones(official):
    for steps in (4, 15):
        got = torch.tensor(sqrt_etas(steps), dtype=torch.float64)
        _assert_alike(f"schedule{steps}.sqrt_etas", got, official[f"schedule{steps}.sqrt_etas"])


@torch.inference_mode()
def test_masks_of_a_map_of_another_size_are_those_of_its_last_windows(model):
    block = next(module for name, module in model.unet.named_modules() if name.endswith("input_blocks.1.1.blocks.1"))
    block.attn_mask, mask = torch.arange(4.0).expand(16, 16, 4).permute(2, 0, 1), block.attn_mask
    got = block._mask(torch.zeros(1, 32, 12, 16))[:, 0, 0, 0]
    block.attn_mask = mask
    assert got.reshape(3, 4).tolist() == [[0, 0, 0, 1], [0, 0, 0, 1], [2, 2, 2, 3]]


# ---- The split -------------------------------------------------------------------------------------------------------


@torch.inference_mode()
@pytest.mark.parametrize("steps", ["4", "15"])
def test_decode_of_encode_is_the_unsplit_model_at_whole_sizes(model, folder, steps):
    model = model if steps == "4" else find_model(f"resshift:{folder}?steps=15").load()
    image = _photo(16, 24)
    latent = _latent(model, image)
    assert len(model.vq.quantised(latent)[0].flatten(1).unique(dim=1)[0]) > 3  # there are codes to get wrong
    whole = (model.vq.decode(model.vq.quantised(latent))[0] / 2 + 0.5).clamp(0, 1)
    features = model.checked_encode(image)
    torch.testing.assert_close(features.data, latent[0], atol=1e-4, rtol=0)
    out = model.decode(features, _view(image), "superres")
    assert out.std() > 0.02
    torch.testing.assert_close(out, whole, atol=1e-4, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(21, 27), (3, 5), (1, 1)], ids=str)
def test_features_are_the_unsplit_latents_of_the_photos_own_cells(model, size):
    image = padded = _photo(*size)
    for dim, n in ((1, size[0]), (2, size[1])):
        # Reflected about the last pixel's centre, as often as it takes.
        order = [*range(n), *range(n - 2, 0, -1)] * WHOLE
        padded = padded.index_select(dim, torch.tensor(order[: n + -n % WHOLE]))
    features = model.checked_encode(image)
    torch.testing.assert_close(features.data, _latent(model, padded)[0, :, : size[0], : size[1]], atol=1e-4, rtol=0)
    assert model.decode(features, _view(image), "superres").shape == (3, 4 * size[0], 4 * size[1])


def test_declaration_repeatability_and_decoding_conform(model, monkeypatch):
    monkeypatch.setattr(conformance, "SIZES", ((19, 13),))
    conformance.check_features_match_declaration(model)
    conformance.check_encode_is_repeatable(model)
    conformance.check_decode_gives_images(model)


@torch.inference_mode()
def test_features_on_a_finer_grid_of_the_view_are_shown_where_they_lie(model):
    """A view of twice the photo's pixels keeps the photo's cells: the same picture, twice as large."""
    image = _photo(16, 24)
    features = model.checked_encode(image)
    small = model.decode(features, _view(image), "superres")
    grid, view = features.grid.rescaled(2, 2), _view(torch.zeros(3, 32, 48))
    large = model.decode(FeatureMap(features.data, grid), view, "superres")
    wanted = F.interpolate(small[None], scale_factor=2, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(large, wanted, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_a_cell_decodes_to_its_own_pixels(folder):
    model = find_model(f"resshift:{folder}").load()
    for name, module in model.vq.named_modules():  # local layers with equal weights, which show where cells lie
        if isinstance(module, nn.GroupNorm):
            module.forward = lambda x: x
        if isinstance(module, nn.Conv2d):
            module.weight.fill_(0 if name.endswith("proj_out") else 1 / module.weight[0].numel())
            module.bias.zero_()
    model.vq.quantised = lambda latent: latent
    flat = torch.zeros(3, 16, 24)
    spot = flat.clone()
    spot[:, 7, 13] = 0.01
    grid, view = FeatureGrid.from_stride(24, 16, 1), _view(flat)
    with_spot, without = (model.decode(FeatureMap(data, grid), view, "superres") for data in (spot, flat))
    weights = (with_spot - without).abs().sum(0) / (with_spot - without).abs().sum()
    center = [(weights.sum(1 - i) * (torch.arange(weights.shape[i]) + 0.5)).sum() for i in (0, 1)]
    torch.testing.assert_close(torch.stack(center), torch.tensor([30.0, 54.0]), atol=0.01, rtol=0)


# ---- Noise, settings, tiles ------------------------------------------------------------------------------------------


def test_a_cell_has_the_same_noise_in_photos_of_all_sizes_and_another_at_each_step(model):
    small, large = (list(itertools.islice(model.noises(*size), 4)) for size in ((6, 4), (9, 7)))
    for a, b in zip(small, large, strict=True):
        assert torch.equal(a, b[:, :, :4, :6])
    assert len(torch.cat(large).unique()) == sum(noise.numel() for noise in large)


@torch.inference_mode()
def test_seed_steps_and_tile_change_the_features_and_the_cache_key(model, folder):
    image = _photo(72, 8)
    features = model.checked_encode(image).data
    keys = [fingerprint(model, find_model(f"resshift:{folder}"))]
    for change in ({"seed": "1"}, {"steps": "15"}, {"tile": "64"}):
        ref = find_model(f"resshift:{folder}?{urllib.parse.urlencode(change)}")
        other = ref.load()
        assert not torch.allclose(other.checked_encode(image).data, features, atol=1e-4), change
        keys.append(fingerprint(other, ref))
    assert len({json.dumps(key, sort_keys=True) for key in keys}) == len(keys)


@torch.inference_mode()
def test_large_photos_and_views_are_computed_in_tiles_without_seams(folder):
    """Of local layers without statistics, tiles are the whole; the sampler never sees more than a tile."""
    model = find_model(f"resshift:{folder}?tile=64").load()
    whole = find_model(f"resshift:{folder}").load()
    for net in (model, whole):
        for name, module in net.named_modules():
            if isinstance(module, nn.GroupNorm):
                module.forward = lambda x: x / 4
            if name.endswith(("attn.proj", "proj_out")):
                module.weight.zero_()
    seen = []
    for part in (model.unet, model.vq.decoder):
        part.register_forward_pre_hook(lambda _, inputs: seen.append(max(inputs[0].shape[2:])))
    image = _photo(80, 8)
    features = model.checked_encode(image)
    want = whole.checked_encode(image).data
    assert (features.data - want).abs().mean() < 0.01 * want.std()
    out = model.decode(FeatureMap(want, features.grid), _view(image), "superres")
    assert (out - whole.decode(FeatureMap(want, features.grid), _view(image), "superres")).abs().mean() < 1e-3
    assert max(seen) == 64


# ---- Files -----------------------------------------------------------------------------------------------------------


def _refused(ref: str) -> str:
    with pytest.raises(ModelError) as error:
        find_model(ref).load()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
    return str(error.value)


def _state(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / NAME, weights_only=True)["state_dict"]


def test_pickles_are_converted_once(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("LIFT3D_CACHE", str(tmp_path))
    first = find_model(f"resshift:{folder}").load()
    assert len(list((user_cache() / "weights").glob("*.safetensors"))) == 2
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", None)
        again = find_model(f"resshift:{folder / NAME}").load()
    for key, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
    for copy in (user_cache() / "weights").iterdir():
        copy.write_bytes(copy.read_bytes()[:-9])
    find_model(f"resshift:{folder}").load()  # a damaged copy is made again


def test_file_that_changed_is_read_again(tmp_path):
    save_resshift(tmp_path)
    before = find_model(f"resshift:{tmp_path}").load()
    state = {key: value + 1 for key, value in _state(tmp_path).items()}
    torch.save({"state_dict": state, "iters": torch.zeros(())}, tmp_path / NAME)
    after = find_model(f"resshift:{tmp_path}").load()
    assert not torch.equal(before.unet.out[-1].weight, after.unet.out[-1].weight)


def test_cache_that_cannot_be_written_does_no_harm(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LIFT3D_CACHE", str(tmp_path / "file"))
    find_model(f"resshift:{folder}").load()


def test_safetensors_in_half_precision_run_in_full(folder, tmp_path):
    autoencoder = torch.load(folder / "autoencoder_vq_f4.pth", weights_only=True)
    save_file({key: value.half() for key, value in autoencoder.items()}, tmp_path / "autoencoder_vq_f4.safetensors")
    unet = {key.removeprefix("module."): value.half() for key, value in _state(folder).items()}
    save_file(unet, tmp_path / "resshift_bicsrx4_s15.safetensors")
    half = find_model(f"resshift:{tmp_path}").load()
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    assert half.steps == 15


def test_what_an_autoencoder_was_trained_with_is_left_out(folder, tmp_path):
    (tmp_path / NAME).write_bytes((folder / NAME).read_bytes())
    state = torch.load(folder / "autoencoder_vq_f4.pth", weights_only=True)
    torch.save(state | {"loss.discriminator.main.0.weight": torch.zeros(3)}, tmp_path / "autoencoder_vq_f4.pth")
    find_model(f"resshift:{tmp_path}").load()


def test_missing_files_are_one_line_with_where_to_get_them(folder, tmp_path):
    assert "it needs its files" in _refused("resshift")
    assert "there is no file" in _refused(f"resshift:{tmp_path / 'nowhere'}")
    assert "no resshift_*.pth" in (line := _refused(f"resshift:{tmp_path}"))
    assert line.endswith(ResShift.spec.url)
    (tmp_path / NAME).write_bytes((folder / NAME).read_bytes())
    assert "no autoencoder_vq_f4.pth beside" in _refused(f"resshift:{tmp_path}")
    (tmp_path / "resshift_bicsrx4_s4.pth").write_bytes(b"")
    assert "2 networks" in _refused(f"resshift:{tmp_path}")


@pytest.mark.parametrize("which", [NAME, "autoencoder_vq_f4.pth"])
@pytest.mark.parametrize("change", ["truncated", "empty", "another", "lacking", "odd", "flat", "more"])
def test_file_that_is_damaged_or_of_another_network_is_one_line(tmp_path, which, change):
    save_resshift(tmp_path)
    path = tmp_path / which
    if change in ("truncated", "empty"):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] if change == "truncated" else b"")
        assert "cannot be read as weights" in _refused(f"resshift:{tmp_path}")
        return
    state = torch.load(path, weights_only=True)
    state = state.get("state_dict", state)
    last = list(state)[-1]
    if change == "another":
        state = {"somewhere.weight": torch.zeros(3)}
    elif change == "lacking":
        del state[last]
    elif change in ("odd", "flat"):
        key = next(key for key in state if key.endswith("conv_out.weight") or "in_layers.2.weight" in key)
        state[key] = state[key][:30, :, :2] if change == "odd" else state[key].flatten()
    else:
        state["attention.weight"] = torch.zeros(3)
    torch.save(state, path)
    assert "does not hold the weights of" in _refused(f"resshift:{tmp_path}")


@pytest.mark.parametrize("query", ["steps=5", "steps=x", "seed=-1", "tile=8", "tile=x"])
def test_setting_out_of_range_is_one_line(folder, query):
    name, value = query.split("=")
    assert f"{name} is {value!r}, needs" in _refused(f"resshift:{folder}?{query}")


def test_file_whose_name_does_not_say_the_steps_needs_them_said(folder, tmp_path):
    save_resshift(tmp_path, "resshift_mine.pth")
    assert "does not say how many steps" in _refused(f"resshift:{tmp_path}")
    assert find_model(f"resshift:{tmp_path}?steps=15").load().steps == 15
