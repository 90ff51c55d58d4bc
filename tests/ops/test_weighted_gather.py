"""The fused gather and the reference say the same, and both say what the formula says."""

from __future__ import annotations

import sys
import warnings

import pytest
import torch

from lift3d_cli.ops.weighted_gather import WeightedGather, _taps, load_kernel, weighted_gather, weighted_gather_ref

MANY, FEW = 24, 3  # channels


def problem(views: int, channels: int, height: int, width: int, rays: int = 11, samples: int = 3, seed: int = 0):
    """Maps, pixels of which some are off the map, and weights that sum to 1 per ray."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(views, channels, height, width, generator=generator)
    spread = torch.tensor([width + 4.0, height + 4.0])
    uv = torch.rand(views, rays, samples, 2, generator=generator) * spread - 2
    omega = torch.rand(views, rays, samples, generator=generator)
    return maps, uv, omega / omega.sum((0, 2), keepdim=True)


def by_formula(maps: torch.Tensor, uv: torch.Tensor, omega: torch.Tensor) -> torch.Tensor:
    """The sum, tap by tap, in float64."""
    _, channels, height, width = maps.shape
    out = torch.zeros(uv.shape[1], channels, dtype=torch.float64)
    for i, r, k in torch.cartesian_prod(*(torch.arange(n) for n in omega.shape)).tolist():
        if omega[i, r, k] == 0:
            continue
        u = min(max(float(uv[i, r, k, 0]) - 0.5, 0), width - 1)
        v = min(max(float(uv[i, r, k, 1]) - 0.5, 0), height - 1)
        for y, x in ((int(v), int(u)), (int(v), int(u) + 1), (int(v) + 1, int(u)), (int(v) + 1, int(u) + 1)):
            share = max(0, 1 - abs(u - x)) * max(0, 1 - abs(v - y))
            if share > 0:
                out[r] += float(omega[i, r, k]) * share * maps[i, :, y, x].double()
    return out


SHAPES = [(1, 5, 7), (4, 6, 9), (3, 1, 1), (2, 1, 13), (2, 11, 1), (5, 2, 2)]


@pytest.mark.parametrize("gather", [weighted_gather, weighted_gather_ref])
@pytest.mark.parametrize("channels", [1, FEW, 15, 16, MANY])
@pytest.mark.parametrize("shape", SHAPES)
def test_gather_is_the_sum_of_the_formula(gather, channels, shape):
    views, height, width = shape
    maps, uv, omega = problem(views, channels, height, width)
    got = gather(maps, uv, omega)
    assert got.shape == (11, channels)
    torch.testing.assert_close(got.double(), by_formula(maps, uv, omega), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_fused_gather_equals_the_reference(shape):
    views, height, width = shape
    inputs = problem(views, MANY, height, width, rays=100)
    torch.testing.assert_close(weighted_gather(*inputs), weighted_gather_ref(*inputs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_maps_of_any_layout_give_the_same(shape):
    views, height, width = shape
    maps, uv, omega = problem(views, MANY, height, width)
    want = weighted_gather(maps, uv, omega)
    for layout in (maps.to(memory_format=torch.channels_last), maps.transpose(2, 3).contiguous().transpose(2, 3)):
        gather = WeightedGather(layout)
        assert torch.equal(gather(uv, omega), want)
        assert torch.equal(gather.maps, maps)


def test_maps_that_are_a_table_already_are_not_copied():
    maps = torch.randn(3, MANY, 5, 7).to(memory_format=torch.channels_last)
    assert WeightedGather(maps).maps.data_ptr() == maps.data_ptr()


def test_moved_values_are_between_themselves_and_the_cells():
    maps = torch.randn(2, MANY, 5, 7)
    rows = torch.tensor([[[4, 0]], [[35 + 34, 35]]])  # [V, R, T]: cells (4, 0) and (0, 0); (6, 4) and (0, 0)
    weights = torch.tensor([[[0.25, 0.0]], [[-0.5, 1.0]]])
    value = torch.randn(1, MANY)
    cells = 0.25 * maps[0, :, 0, 4] - 0.5 * maps[1, :, 4, 6] + maps[1, :, 0, 0]
    want = (1 - 0.75) * value + cells
    torch.testing.assert_close(WeightedGather(maps).moved(value, rows, weights), want, atol=1e-5, rtol=1e-5)


def test_rows_of_more_cells_than_fit_32_bits_are_counted_in_64():
    height, width = 40_000, 30_000
    uv = torch.tensor([[3.5, 2.5], [29_999.5, 39_999.5]]).view(2, 1, 1, 2)
    rows, weights = _taps(uv, torch.ones(2, 1, 1), height, width)
    assert rows[weights == 1].sort().values.tolist() == [2 * width + 3, 2 * height * width - 1]


@pytest.mark.parametrize("is_installed", [True, False])
def test_where_triton_does_not_run_a_warning_says_so_once(monkeypatch, is_installed):
    if not is_installed:
        monkeypatch.setitem(sys.modules, "triton", None)
        monkeypatch.delitem(sys.modules, "lift3d_cli.ops.weighted_gather_triton", raising=False)
    load_kernel.cache_clear()
    nowhere = torch.device("cuda:99")
    with pytest.warns(RuntimeWarning, match="does not run on cuda:99.*hint: ") as caught:
        assert load_kernel(nowhere) is None
    assert "\n" not in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_kernel(nowhere) is None
        assert load_kernel(torch.device("cpu")) is None
    load_kernel.cache_clear()


@pytest.mark.parametrize("channels", [FEW, MANY])
def test_view_that_sees_nothing_adds_nothing(channels):
    maps, uv, omega = problem(3, channels, 5, 7)
    want = weighted_gather(maps[:2], uv[:2], omega[:2])
    uv[2], omega[2], maps[2] = torch.nan, 0, 1e6
    torch.testing.assert_close(weighted_gather(maps, uv, omega), want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("channels", [FEW, MANY])
def test_ray_that_no_view_sees_is_zero(channels):
    maps, uv, _ = problem(2, channels, 5, 7)
    uv[:] = torch.nan
    assert not weighted_gather(maps, uv, torch.zeros(2, 11, 3)).any()


@pytest.mark.parametrize("channels", [FEW, MANY])
def test_constant_map_comes_out_times_the_weights_sum(channels):
    maps, uv, omega = problem(3, channels, 5, 7)
    omega[:, 4] *= 0.25
    omega[:, 5] = 0
    constant = torch.arange(channels).float()
    got = weighted_gather(constant.view(1, -1, 1, 1).expand_as(maps), uv, omega)
    torch.testing.assert_close(got, omega.sum((0, 2))[:, None] * constant, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("channels", [FEW, MANY])
def test_one_whole_weight_on_a_cells_center_gives_the_cell(channels):
    maps, uv, omega = problem(2, channels, 5, 7)
    omega[:], omega[1, :, 2] = 0, 1
    uv[1, :, 2] = torch.tensor([3.5, 4.5])
    torch.testing.assert_close(weighted_gather(maps, uv, omega), maps[1, :, 4, 3].expand(11, -1), atol=1e-5, rtol=1e-5)


def test_gradients_of_the_fused_path_equal_those_of_the_reference():
    grads = []
    for gather in (weighted_gather, weighted_gather_ref):
        inputs = [x.clone().requires_grad_() for x in problem(3, MANY, 5, 7)]
        out = gather(*inputs)
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        grads.append([x.grad for x in inputs])
    for name, fused, reference in zip(("maps", "uv", "omega"), *grads, strict=True):
        torch.testing.assert_close(fused, reference, atol=1e-4, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}")
        assert fused.abs().max() > 0


def test_reference_gradients_are_those_of_finite_differences():
    maps, uv, omega = (x.double().requires_grad_() for x in problem(2, FEW, 4, 5, rays=3, samples=2))
    assert torch.autograd.gradcheck(weighted_gather_ref, (maps, uv, omega))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels", [FEW, MANY])
def test_half_precision_maps_are_summed_in_float32(channels, dtype):
    maps, uv, omega = problem(4, channels, 6, 9)
    maps = maps.to(dtype)
    got = weighted_gather(maps, uv, omega)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), by_formula(maps, uv, omega), atol=1e-5, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("has_kernel", [True, False])
@pytest.mark.parametrize("channels", [FEW, MANY])
def test_gather_on_the_gpu_equals_that_on_the_cpu(channels, has_kernel, monkeypatch):
    if not has_kernel:
        monkeypatch.setattr("lift3d_cli.ops.weighted_gather.load_kernel", lambda device: None)
    inputs = problem(4, channels, 6, 9, rays=1000)
    got = weighted_gather(*(x.cuda() for x in inputs))
    torch.testing.assert_close(got.cpu(), weighted_gather(*inputs), atol=1e-4, rtol=1e-4)
