"""The Triton kernels do what the reference does: on a CPU, through Triton's interpreter, and on a GPU."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch
from test_weighted_gather import SHAPES, problem

from lift3d_cli.ops import weighted_gather as module
from lift3d_cli.ops.weighted_gather import WeightedGather, load_kernel, weighted_gather_ref

triton = pytest.importorskip("triton", reason="Triton is not installed")

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# What summing in another order, and rounding the maps' gradients to their dtype, may change.
TOLERANCE = {torch.float32: 2e-5, torch.float16: 1e-3, torch.bfloat16: 1e-2}


@pytest.fixture(scope="module")
def interpreter():
    """A process in which Triton has been told to interpret, which must happen before anything imports it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_INTERPRET", "1")
            pool.submit(use_kernel).result()
        yield lambda run, *args: pool.submit(run, *args).result()


def use_kernel() -> None:
    """In the interpreter's process, make the kernel the one for CPUs, of tables in the midst of what is not theirs."""
    from lift3d_cli.ops.weighted_gather_triton import gather

    def kernel(table: torch.Tensor, *args) -> torch.Tensor:
        beyond = torch.full((50, table.shape[1]), torch.nan, dtype=table.dtype)
        return gather(torch.cat([beyond, table, beyond])[50:-50], *args)

    assert os.environ["TRITON_INTERPRET"] == "1"
    module.load_kernel = lambda device: kernel


def gathered(arrays: list[np.ndarray], dtype: torch.dtype, device: str = "cpu") -> list[np.ndarray]:
    """The sums of maps, uv and omega; and the gradients of these three that an upstream gradient causes."""
    maps, uv, omega, upstream = (torch.from_numpy(x).to(device) for x in arrays)
    inputs = [x.requires_grad_() for x in (maps.to(dtype), uv, omega)]
    out = WeightedGather(inputs[0])(*inputs[1:])
    assert out.dtype == torch.float32
    out.backward(upstream)
    return [x.detach().float().cpu().numpy() for x in (out, *(x.grad for x in inputs))]


def moved(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """See `WeightedGather.moved`; and the gradients of the maps and the weights."""
    maps, values, rows, weights, upstream = map(torch.from_numpy, arrays)
    inputs = maps.requires_grad_(), weights.requires_grad_()
    out = WeightedGather(maps).moved(values, rows, weights)
    out.backward(upstream)
    return [x.detach().numpy() for x in (out, *(x.grad for x in inputs))]


def referred(maps, uv, omega, upstream, device: str) -> list[torch.Tensor]:
    """What `gathered` should be, in double precision."""
    inputs = [x.to(device).double().requires_grad_() for x in (maps, uv, omega)]
    out = weighted_gather_ref(*inputs)
    out.backward(upstream.to(device).double())
    return [x.detach().float().cpu() for x in (out, *(x.grad for x in inputs))]


def check(run, maps, uv, omega, dtype=torch.float32, device: str = "cpu") -> None:
    """Compare sums and gradients of a gather with those of the reference."""
    upstream = torch.randn(omega.shape[1], maps.shape[1], generator=torch.Generator().manual_seed(1))
    got = map(torch.from_numpy, run([x.numpy() for x in (maps, uv, omega, upstream)], dtype))
    want = referred(maps.to(dtype), uv, omega, upstream, device)
    for name, a, b in zip(("out", "maps", "uv", "omega"), got, want, strict=True):
        tolerance = TOLERANCE[dtype if name == "maps" else torch.float32] * max(1, float(b.abs().max()))
        torch.testing.assert_close(a, b, atol=tolerance, rtol=0, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("channels", [1, 3, 24])
@pytest.mark.parametrize("shape", SHAPES)
def test_interpreted_kernel_equals_the_reference(interpreter, shape, channels):
    views, height, width = shape
    maps, uv, omega = problem(views, channels, height, width)
    omega[:, 3], omega[0, 5, 1] = 0, 0  # of which the gradient is not 0
    check(lambda *args: interpreter(gathered, *args), maps, uv, omega)


@pytest.mark.parametrize("dtype", DTYPES)
def test_interpreted_kernel_sums_maps_of_any_precision_in_float32(interpreter, dtype):
    check(lambda *args: interpreter(gathered, *args), *problem(4, 6, 6, 9), dtype)


def test_interpreted_kernel_splits_rays_and_channels_among_programs(interpreter):
    check(lambda *args: interpreter(gathered, *args), *problem(2, 515, 3, 4, rays=5, samples=1))
    check(lambda *args: interpreter(gathered, *args), *problem(1, 2, 3, 4, rays=300, samples=1))


def test_interpreted_kernel_reads_nothing_without_a_weight(interpreter):
    maps, uv, omega = problem(3, 5, 4, 6, rays=7)
    omega[1], maps[1] = 0, torch.nan  # a view without weight, another that sees nothing
    uv[2], omega[2], maps[2] = torch.nan, 0, torch.nan
    uv[0, :, :, 0], maps[0, :, :, 0] = 8.0, torch.nan  # at the right border, of which the first column is the next row
    arrays = [x.numpy() for x in (maps, uv, omega, torch.ones(7, 5))]
    out, of_maps, of_uv, of_omega = interpreter(gathered, arrays, torch.float32)
    want = weighted_gather_ref(maps[:1].nan_to_num(), uv[:1], omega[:1])
    torch.testing.assert_close(torch.from_numpy(out), want, atol=1e-5, rtol=1e-5)
    assert not of_maps[1:].any()
    assert not of_uv[2].any()
    assert not of_omega[2].any()


def test_interpreted_kernel_of_no_rays_gives_none(interpreter):
    maps, uv, omega = problem(2, 3, 4, 5)
    arrays = [x.numpy() for x in (maps, uv[:, :0], omega[:, :0], torch.zeros(0, 3))]
    out, of_maps, *_ = interpreter(gathered, arrays, torch.float32)
    assert out.shape == (0, 3)
    assert not of_maps.any()


def test_interpreted_kernel_moves_values_as_torch_does(interpreter):
    maps, values, weights = torch.randn(3, 6, 4, 5), torch.randn(7, 6), torch.randn(3, 7, 9) * 0.2
    rows = torch.randint(20, (3, 7, 9)) + torch.arange(0, 60, 20)[:, None, None]
    upstream = torch.randn(7, 6)
    got = interpreter(moved, [x.numpy() for x in (maps, values, rows, weights, upstream)])
    maps.requires_grad_(), weights.requires_grad_()
    want = WeightedGather(maps).moved(values, rows, weights)
    want.backward(upstream)
    for a, b in zip(got, (want.detach(), maps.grad, weights.grad), strict=True):
        torch.testing.assert_close(torch.from_numpy(a), b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(("dtype", "channels", "size"), [("fp16", 64, "i32"), ("fp32", 4, "i32"), ("bf16", 1280, 1)])
def test_kernels_compile_and_read_whole_vectors(monkeypatch, tmp_path, capability, dtype, channels, size):
    """For GPUs that are not here. Sizes of 1 are constants to the compiler, which the interpreter does not know."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from lift3d_cli.ops import weighted_gather_triton as kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    constants = dict(zip(("CHANNELS", "BLOCK_R", "BLOCK_C"), (channels, *kernels._block(channels)), strict=True))
    if size == 1:
        constants |= dict.fromkeys(("num_views", "num_rays", "num_samples", "height", "width"), 1)
    for name in ("_gather_kernel", "_table_gradient_kernel", "_sample_gradient_kernel"):
        kernel = getattr(kernels, name)
        kinds = {
            arg: "i32" if arg.startswith("num_") or arg in ("height", "width") else "*fp32" for arg in kernel.arg_names
        }
        signature = kinds | {"table": f"*{dtype}"} | dict.fromkeys(constants, "constexpr")
        signature = {arg: signature[arg] for arg in kernel.arg_names}
        aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind[0] == "*"}
        source = ASTSource(kernel, signature, constants, aligned)
        code = triton.compile(source, GPUTarget("cuda", capability, 32), kernels._OPTIONS).asm["ptx"]
        assert "ld.global.v4.b32" in code, name


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("channels", "height", "width"), [(3, 378, 504), (64, 95, 126), (1280, 48, 63)])
def test_kernel_on_the_gpu_equals_the_reference(dtype, channels, height, width):
    assert load_kernel(torch.device("cuda", torch.cuda.current_device())) is not None
    maps, uv, omega = problem(10, channels, height, width, rays=2000, samples=8)
    uv = (uv * 8).floor() / 8 + 1 / 16  # nowhere near a cell's centre, where gradients jump
    check(lambda *args: gathered(*args, device="cuda"), maps, uv, omega, dtype, "cuda")


@pytest.mark.gpu
def test_kernel_on_the_gpu_moves_values_as_the_cpu_does():
    maps, values, weights = torch.randn(10, 384, 48, 63), torch.randn(3024, 384), torch.randn(10, 3024, 9) * 0.1
    rows = torch.randint(3024, (10, 3024, 9)) + torch.arange(0, 30240, 3024)[:, None, None]
    got = WeightedGather(maps.cuda()).moved(*(x.cuda() for x in (values, rows, weights)))
    torch.testing.assert_close(got.cpu(), WeightedGather(maps).moved(values, rows, weights), atol=1e-4, rtol=1e-4)
