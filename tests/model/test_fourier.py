import copy
import pickle
import subprocess
from collections.abc import Callable
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from jasper_ray.model import fourier, fourier_triton
from jasper_ray.model.convolution import Convolution, forget_spectra, gpu_tile
from jasper_ray.model.fourier import Tiling, WeightSpectrum, fourier_conv, transforms, weight_factors


def gradients_of_direct_sum(x: Tensor, weight: Tensor, grad: Tensor, dilation: int) -> tuple[Tensor, ...]:
    """Output, input's and weight's gradient of the plain sum."""
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    padding = weight.shape[2] // 2 * dilation
    y = functional.conv1d(x.transpose(1, 2), weight, padding=padding, dilation=dilation).transpose(1, 2)
    return (y.detach(), *torch.autograd.grad(y, [x, weight], grad))


def gradients_of_spectra(
    x: Tensor, weight: Tensor, grad: Tensor, tiling: Tiling, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    y = fourier_conv(x, weight, WeightSpectrum()(weight, tiling, dtype), tiling)
    return (y.detach(), *torch.autograd.grad(y, [x, weight], grad.to(dtype)))


def relative_error(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected.double()).norm() / expected.double().norm())


def frequency_layer(channels: int = 8, kernel: int = 11) -> Convolution:
    torch.manual_seed(1)
    layer = Convolution(channels, channels, kernel, padding=kernel // 2, bias=False)
    layer.method = "frequency"
    return layer


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 3),
    frames=st.integers(1, 130),
    inputs=st.integers(1, 6),
    outputs=st.integers(1, 6),
    kernel=st.integers(1, 14).map(lambda half: 2 * half + 1),
    dilation=st.integers(1, 3),
    hop=st.integers(1, 70),
    on_tensor_cores=st.booleans(),
    by_amx=st.booleans(),
    seed=st.integers(0, 99),
)
def test_values_and_gradients_are_those_of_the_direct_sum(
    rows: int,
    frames: int,
    inputs: int,
    outputs: int,
    kernel: int,
    dilation: int,
    hop: int,
    on_tensor_cores: bool,
    by_amx: bool,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, weight, grad = (
        torch.randn(shape, generator=generator, dtype=torch.double)
        for shape in ((rows, frames, inputs), (outputs, inputs, kernel), (rows, frames, outputs))
    )
    expected = gradients_of_direct_sum(x, weight, grad, dilation)
    if on_tensor_cores:
        tile = -(-(2 * kernel + hop) // 8) * 8 + 8
        tiling = Tiling.for_tensor_cores(frames, kernel=kernel, dilation=dilation, tile=tile)
    else:
        tiling = Tiling.of(frames, kernel=kernel, dilation=dilation, hop=hop)
    with mock.patch.object(fourier, "_has_amx", lambda _: by_amx):  # factors laid out as AMX likes them
        got = gradients_of_spectra(x, weight, grad, tiling, torch.double)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 8e-3)])
def test_rounding_stays_within_a_small_multiple_of_the_direct_sums(dtype: torch.dtype, bound: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 300, 96).to(dtype).double()
    weight = (torch.randn(96, 96, 17) / 40).to(dtype).double()
    grad = torch.randn(2, 300, 96).to(dtype).double()
    expected = gradients_of_direct_sum(x, weight, grad, 1)
    direct = gradients_of_direct_sum(x.to(dtype), weight.to(dtype), grad.to(dtype), 1)
    tiling = Tiling.of(300, kernel=17, dilation=1, hop=34)
    got = gradients_of_spectra(x.to(dtype), weight.to(dtype), grad.to(dtype), tiling, dtype)
    for ours, theirs, exact in zip(got, direct, expected, strict=True):
        assert relative_error(ours, exact) < bound
        assert relative_error(ours, exact) < 4 * relative_error(theirs, exact)


def test_a_row_does_not_hear_its_neighbour() -> None:
    layer = frequency_layer().double()
    x = torch.randn(3, 8, 70, dtype=torch.double)
    alone = torch.cat([layer(row[None]) for row in x])
    torch.testing.assert_close(layer(x), alone)


def test_under_autocast_the_layer_computes_in_half_and_gives_gradients_in_the_weights_own_type() -> None:
    layer = frequency_layer()
    x = torch.randn(2, 8, 70, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert layer.weight.grad is not None and x.grad is not None
    assert layer.weight.grad.dtype == x.grad.dtype == torch.float32
    assert layer.weight.grad.shape == layer.weight.shape


def test_one_transform_of_the_weights_serves_every_micro_batch_until_they_change() -> None:
    layer = frequency_layer()
    x = torch.randn(1, 8, 64)
    tiling = Tiling.of(64, kernel=11, dilation=1, hop=22)
    for _ in range(2):
        layer(x).sum().backward()
    first = layer.spectrum(layer.weight, tiling, torch.float32)
    assert layer.spectrum(layer.weight, tiling, torch.float32) is first
    assert layer.weight.grad is not None
    accumulated = layer.weight.grad.clone()
    layer.weight.grad = None
    layer(x).sum().backward()
    torch.testing.assert_close(accumulated, 2 * layer.weight.grad)
    with torch.no_grad():
        layer.weight.mul_(2)
    second = layer.spectrum(layer.weight, tiling, torch.float32)
    torch.testing.assert_close(second, 2 * first)


def test_micro_batches_of_any_length_share_the_transform_of_the_weights() -> None:
    layer = frequency_layer()
    layer(torch.randn(1, 8, 64))
    first = layer.spectrum._factors
    for frames in (3, 65, 400):
        layer(torch.randn(2, 8, frames))
        assert layer.spectrum._factors is first


def test_what_is_not_finite_in_a_row_stays_in_that_row() -> None:
    layer, x = frequency_layer(), torch.randn(2, 8, 61)
    x[0, 3, 60] = float("inf")
    y = layer(x)
    assert not y[0].isfinite().all()
    torch.testing.assert_close(y[1:], layer(x[1:]))


def test_other_weights_for_evaluation_are_noticed_and_the_own_ones_again_after_it() -> None:
    layer, x = frequency_layer(), torch.randn(1, 8, 64)
    own = layer(x).detach()
    averaged = {"weight": 3 * layer.weight.detach()}
    with torch.inference_mode():
        torch.testing.assert_close(functional_call(layer, averaged, (x,)), 3 * own)
        averaged["weight"].mul_(2)
        torch.testing.assert_close(functional_call(layer, averaged, (x,)), 6 * own)
        torch.testing.assert_close(functional_call(layer, {"weight": layer.weight * 5}, (x,)), 5 * own)
        torch.testing.assert_close(layer(x), own)
    layer(x).sum().backward()  # a spectrum made in inference mode could not be kept for this
    assert layer.weight.grad is not None
    layer.load_state_dict(averaged)
    torch.testing.assert_close(layer(x), 6 * own)


@pytest.mark.parametrize("kind", ["foreach", "fused"])
def test_an_optimizers_update_is_noticed_or_told(kind: str) -> None:
    layer, x = frequency_layer(), torch.randn(1, 8, 64)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, **{kind: True})
    if kind == "fused":  # torch does not count its changes; `TrainStep` tells of every update
        optimizer.register_step_post_hook(lambda *_: forget_spectra(layer))
    layer(x).sum().backward()
    optimizer.step()
    expected = functional.conv1d(x, layer.weight, padding=5)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
    layer.weight.data = layer.weight.data * 2  # what `Module.to` does
    torch.testing.assert_close(layer(x), 2 * expected, rtol=1e-4, atol=1e-5)


def test_a_layer_that_has_been_used_can_be_copied_and_stored() -> None:
    layer, x = frequency_layer(), torch.randn(1, 8, 64)
    own = layer(x)
    copied = copy.deepcopy(layer)
    with torch.no_grad():
        layer.weight.mul_(2)
    torch.testing.assert_close(copied(x), own)
    torch.testing.assert_close(pickle.loads(pickle.dumps(layer))(x), 2 * own)


# The interpreter is numpy, which warns of infinities.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(("num_frames", "channels", "dilation"), [(70, 96, 1), (33, 29, 2), (5, 200, 3)])
def test_in_triton_rows_are_laid_out_and_taken_back_as_by_torch(
    num_frames: int, channels: int, dilation: int, dtype: torch.dtype, triton_interpreter: None
) -> None:
    torch.manual_seed(0)
    tiling = Tiling.for_tensor_cores(num_frames, kernel=11, dilation=dilation, tile=48)
    sizes = {"dilation": dilation, "row": tiling.row}
    x = torch.randn(3, num_frames + 7, 2 * channels)[:, 3 : num_frames + 3, channels:]  # rows do not follow each other
    for lead, trail in ((5, 9), (0, 0)):
        expected = tiling.lay_out(x, dtype, lead=lead, trail=trail)
        got = fourier_triton.lay_out(x, dtype, **sizes, lead=lead, trail=trail)
        assert got.dtype == dtype and torch.equal(got, expected)
    count = 3 * dilation * tiling.per_row
    own, behind = torch.randn(count, tiling.hop, channels).to(dtype), torch.randn(count, 16, channels).to(dtype)
    back = {"num_rows": 3, "num_frames": num_frames, "dtype": torch.float32}
    for added, lead in ((None, 0), (behind, 5)):
        got = fourier_triton.take_back(own, added, **sizes, **back, lead=lead, overlap=10)
        expected = tiling.take_back(own.clone(), added, **back, lead=lead)
        assert got.shape == (3, num_frames, channels)
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=2e-3)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(("outputs", "inputs", "kernel"), [(8, 16, 11), (9, 17, 3), (24, 16, 29)])
def test_in_triton_weights_and_their_gradients_are_transformed_as_by_torch(
    outputs: int, inputs: int, kernel: int, dtype: torch.dtype, triton_interpreter: None
) -> None:
    torch.manual_seed(0)
    tiling = Tiling.for_tensor_cores(100, kernel=kernel, dilation=1, tile=gpu_tile(kernel))
    taps = transforms(kernel, tiling.hop, dtype, torch.device("cpu"), tile=tiling.tile, align=tiling.align).taps
    weight = torch.randn(outputs, inputs, kernel)
    factors = fourier_triton.to_factors(weight, taps)
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-3, "atol": 4e-3}
    torch.testing.assert_close(factors, weight_factors(weight, tiling, dtype), **close)
    by_row = torch.randn(len(taps), outputs, inputs).to(dtype)
    grad = fourier_triton.from_factors(by_row, taps, kernel=kernel, dtype=torch.float32)
    expected = torch.einsum("roi,rk->oik", by_row.double(), taps.double())[..., :kernel]
    assert grad.shape == weight.shape and grad.dtype == torch.float32
    torch.testing.assert_close(grad.double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 8e-3), (torch.float16, 2e-3)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_values_and_gradients_on_a_gpu_are_those_of_the_direct_sum_in_float64(
    dtype: torch.dtype, bound: float, dilation: int
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    torch.manual_seed(0)
    given = torch.randn(3, 301, 96), torch.randn(64, 96, 17) / 40, torch.randn(3, 301, 64)
    expected = gradients_of_direct_sum(*(tensor.to(dtype).double() for tensor in given), dilation)
    tiling = Tiling.for_tensor_cores(301, kernel=17, dilation=dilation, tile=gpu_tile(17))
    x, weight, grad = (tensor.to("cuda", dtype) for tensor in given)
    got = gradients_of_spectra(x, weight, grad, tiling, dtype)
    for ours, exact in zip(got, expected, strict=True):
        assert relative_error(ours.cpu(), exact) < bound


COMPILE = """
from jasper_ray.model import fourier_kernels as kernels
pointers = dict.fromkeys(("x", "axis", "behind", "y"), "*bf16")
blocks = {"DILATION": 1, "FRAMES": 32, "CHANNELS": 128}
for kernel, constants in (
    (kernels.lay_out_kernel, blocks),
    (kernels.take_back_kernel, {"ADDS": False, **blocks}),
    (kernels.take_back_kernel, {"ADDS": True, **blocks}),
):
    asm = compiled(kernel, constants, pointers, aligned=(*pointers, "channels", "row_pitch", "frame_pitch")).asm
    ptx = asm["ptx"]
    print(len(asm["cubin"]) > 0, ptx.count("ld.global.v4"), ptx.count("st.global.v4"))
pointers = {"weight": "*fp32", "grad": "*fp32", "taps": "*bf16", "factors": "*bf16", "by_row": "*bf16"}
shape = {"ROWS": 80, "KERNEL": 11, "PITCH": 16, "BLOCK": 32, "TAPS": 16, "PAIRS": 128, "PRECISION": "tf32"}
for kernel in (kernels.to_factors_kernel, kernels.from_factors_kernel):
    asm = compiled(kernel, shape, pointers, aligned=(*pointers, "num_pairs")).asm
    print(len(asm["cubin"]) > 0, "mma" in asm["ptx"])
"""


@pytest.mark.parametrize("capability", ["80", "90"])
def test_the_kernels_compile_for_nvidias_gpus_and_layouts_move_16_bytes_at_once(
    capability: str, compile_kernels: Callable[[str, str], "subprocess.CompletedProcess[str]"]
) -> None:
    done = compile_kernels(COMPILE, capability)
    *lines, to_factors, from_factors = [line.split() for line in done.stdout.splitlines()]
    assert to_factors == from_factors == ["True", "True"], done.stderr  # by tensor cores
    # 32 x 128 halves by 128 threads are 4 accesses each.
    assert lines == [["True", "4", "4"], ["True", "4", "4"], ["True", "8", "4"]], done.stderr
