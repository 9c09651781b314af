import subprocess
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from jasper_ray.config.model import BlockConfig, ModelConfig
from jasper_ray.config.speech import FeatureConfig, TextConfig
from jasper_ray.model.batch_norm import BatchNorm
from jasper_ray.model.bundle import build_model
from jasper_ray.model.convolution import set_convolution_method
from jasper_ray.model.jasper import Jasper, set_normalization, set_residuals
from jasper_ray.model.norm_triton import NormInput, is_frame_by_frame, norm_relu_dropout

EPS = 1e-3
SEED = torch.tensor([2**40 + 7])
NO_TRITON = "triton is not installed, as without a CUDA build of torch: pip install triton"

# The interpreter is numpy, which warns of overflows and log(0).
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
CompileKernels = Callable[[str, str], "subprocess.CompletedProcess[str]"]


def frame_by_frame(rows: int, channels: int, frames: int, *, seed: int) -> Tensor:
    x = torch.randn(rows, frames, channels, generator=torch.Generator().manual_seed(seed)) * 2 + seed
    return x.transpose(1, 2).requires_grad_()


def random_inputs(rows: int, channels: int, frames: int, *, num: int) -> list[NormInput]:
    return [
        NormInput(
            frame_by_frame(rows, channels, frames, seed=i),
            (torch.rand(channels) + 0.5).requires_grad_(),
            torch.randn(channels).requires_grad_(),
            (torch.zeros(channels), torch.zeros(channels)),
        )
        for i in range(num)
    ]


def padding_of_half(rows: int, frames: int) -> Tensor:
    is_padding = torch.zeros(rows, 1, frames, dtype=torch.bool)
    is_padding[0, 0, frames // 2 :] = True
    is_padding[-1, 0, frames - 2 :] = True
    return is_padding


def expected_of(
    inputs: Sequence[NormInput], is_padding: Tensor | None, *, excludes: bool, added: Tensor | None = None
) -> tuple[Tensor, list[Tensor]]:
    """The output in float64, and each input's mean and unbiased variance."""
    rows, _, frames = inputs[0].x.shape
    keep = torch.ones(rows, 1, frames).double() if is_padding is None else (~is_padding).double()
    counted = keep if excludes else torch.ones_like(keep)
    total, statistics = torch.zeros(()).double() if added is None else added.double(), []
    for x, weight, bias, _ in inputs:
        count = counted.sum()
        mean = (x.double() * counted).sum((0, 2)) / count
        apart = x.double() - mean[:, None]
        var = (apart.square() * counted).sum((0, 2)) / count
        total = total + apart / (var + EPS).sqrt()[:, None] * weight.double()[:, None] + bias.double()[:, None]
        statistics += [mean.detach(), (var * count / (count - 1)).detach()]
    return total.relu() * keep, statistics


CASES = {
    "one input, padding left out": (2, 29, 17, 1, False, True, True),
    "padding counted": (2, 16, 9, 1, False, False, True),
    "no padding, two blocks of channels": (1, 130, 5, 1, False, True, False),
    "residuals": (2, 16, 21, 3, False, True, True),
    "residuals of NVIDIA's last block": (1, 16, 6, 11, False, False, True),
    "residuals as one": (2, 29, 21, 1, True, True, True),
    "residuals as one, padding counted": (2, 130, 5, 1, True, False, True),
    "an addend of several inputs": (1, 16, 9, 2, True, False, False),
}


@pytest.mark.parametrize("case", CASES)
def test_values_statistics_and_gradients_are_those_of_float64(case: str, triton_interpreter: None) -> None:
    rows, channels, frames, num, adds, excludes, padded = CASES[case]
    torch.manual_seed(0)
    inputs = random_inputs(rows, channels, frames, num=num)
    added = frame_by_frame(rows, channels, frames, seed=num) if adds else None
    is_padding = padding_of_half(rows, frames) if padded else None
    y = norm_relu_dropout(
        inputs, added=added, is_padding=is_padding, num_dropped=0, eps=EPS, excludes_padding=excludes, seed=SEED
    )
    expected, statistics = expected_of(inputs, is_padding, excludes=excludes and padded, added=added)
    torch.testing.assert_close(y.double(), expected, atol=1e-5, rtol=1e-5)
    assert is_frame_by_frame(y)
    for ours, theirs in zip([total for one in inputs for total in one.sums or ()], statistics, strict=True):
        torch.testing.assert_close(ours.double(), theirs, atol=1e-5, rtol=1e-5)
    wanted = [*(tensor for one in inputs for tensor in one[:3]), *([] if added is None else [added])]
    grad_y = torch.randn_like(y)
    ours = torch.autograd.grad(y, wanted, grad_y.contiguous())
    for got, exact in zip(ours, torch.autograd.grad(expected, wanted, grad_y.double()), strict=True):
        torch.testing.assert_close(got, exact, atol=2e-5, rtol=1e-4, check_dtype=False)


def test_dropout_drops_its_share_scales_the_rest_and_repeats_with_its_stream(triton_interpreter: None) -> None:
    torch.manual_seed(0)
    inputs = random_inputs(1, 64, 70, num=1)

    def run(stream: int, num_dropped: int) -> Tensor:
        return norm_relu_dropout(
            inputs,
            is_padding=None,
            num_dropped=num_dropped,
            eps=EPS,
            excludes_padding=False,
            seed=SEED,
            stream=stream,
        )

    plain, dropped = run(1, 0), run(1, 16384)
    positive = plain > 0
    share = float((dropped == 0)[positive].float().mean())
    assert 0.2 < share < 0.3  # a quarter of some 2,200 draws: five standard deviations
    kept = positive & (dropped > 0)
    torch.testing.assert_close(dropped[kept], plain[kept] * 4 / 3)
    assert torch.equal(run(1, 16384), dropped) and not torch.equal(run(2, 16384), dropped)
    (grad,) = torch.autograd.grad(dropped.sum(), inputs[0].bias)
    torch.testing.assert_close(grad, (dropped > 0).sum((0, 2)) * (4 / 3))


def test_a_number_that_is_none_is_seen_in_the_output(triton_interpreter: None) -> None:
    inputs = random_inputs(1, 16, 8, num=1)
    with torch.no_grad():
        inputs[0].x[0, 3, 2] = float("nan")
    y = norm_relu_dropout(inputs, is_padding=None, num_dropped=0, eps=EPS, excludes_padding=False, seed=SEED)
    assert y[0, 3].isnan().all() and y[0, :3].isfinite().all()


def relative(residual: str, batch_norm_padding: str) -> Jasper:
    blocks = (
        BlockConfig(filters=16, kernel=5, stride=2, dropout=0.0),
        BlockConfig(filters=16, kernel=5, repeat=2, residual=residual, dropout=0.0),
        BlockConfig(filters=32, kernel=3, residual=residual, dropout=0.0),
        BlockConfig(filters=16, kernel=1, dropout=0.0),
    )
    torch.manual_seed(0)
    config = ModelConfig(preset=None, blocks=blocks, batch_norm_padding=batch_norm_padding)
    model = build_model(config, FeatureConfig(), TextConfig())
    set_convolution_method(model, "channels_last")
    return model


def figures_of(model: Jasper, method: str, *, residuals: str = "separate", device: str = "cpu") -> list[Tensor]:
    """Log-probs of utterances, gradients, and what batch norm has collected."""
    set_normalization(model, method)
    set_residuals(model, residuals)
    norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
    for norm in norms:
        norm.mean_sum.zero_()
        norm.var_sum.zero_()
    features = torch.randn(2, 64, 48, generator=torch.Generator().manual_seed(1)).to(device)
    log_probs, _ = model(features, torch.tensor([48, 30], device=device))
    valid = [log_probs[0], log_probs[1, :15]]
    model.zero_grad()
    sum(one.exp().square().sum() for one in valid).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return [
        tensor.detach().clone()
        for tensor in (*valid, *gradients, *(n.mean_sum for n in norms), *(n.var_sum for n in norms))
    ]


@pytest.mark.parametrize("batch_norm_padding", ["include", "exclude"])
@pytest.mark.parametrize(("residual", "residuals"), [("dense", "separate"), ("dense", "folded"), ("plain", "folded")])
def test_a_model_computes_the_same_as_by_torch(
    residual: str, residuals: str, batch_norm_padding: str, triton_interpreter: None
) -> None:
    model = relative(residual, batch_norm_padding)
    expected = figures_of(model, "torch", residuals="separate")
    for recomputes in (False, True):
        model.encoder.recomputes = recomputes
        for ours, theirs in zip(figures_of(model, "triton", residuals=residuals), expected, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_there_is_no_other_method() -> None:
    with pytest.raises(ValueError, match="normalization must be one of auto, torch, triton, got 'apex'"):
        set_normalization(relative("dense", "include"), "apex")


COMPILE = """
import re
from jasper_ray.model import norm_kernels as kernels
halves = dict.fromkeys(("x", "y", "grad_y", "grad_added"), "*bf16")
halves |= dict.fromkeys(("xs", "grad_xs"), ("*bf16", "*bf16"))
numbers = dict.fromkeys(("num_frames", "frames_each", "num_parts", "stream"), "i32")
known = halves | numbers | {"scale": "fp32", "eps": "fp32", "is_padding": "*u8", "seed": "*i64"}
shape = {"NUM_CHANNELS": 640, "CHANNELS": 128, "FRAMES": 8}
for kernel, constants in (
    (kernels.statistics_kernel, {**shape, "EXCLUDES": True, "GROUPS": 4}),
    (kernels.combine_kernel, {"NUM_CHANNELS": 640, "CHANNELS": 16, "COLLECTS": True, "PARTS": 256}),
    (kernels.forward_kernel, {**shape, "NUM": 2, "NUM_NORMS": 1, "MASKS": True, "DROPPED": 13107, "GROUPS": 4}),
    (kernels.reduce_kernel, {**shape, "NUM": 2, "GROUPS": 4}),
    (kernels.sum_kernel, {"NUM": 2, "NUM_CHANNELS": 640, "CHANNELS": 16, "PARTS": 256}),
    (kernels.backward_kernel, {**shape, "NUM": 2, "EXCLUDES": True, "ADDS": True}),
):
    asm = compiled(kernel, constants, known, default="*fp32").asm
    assert not re.search(r"\\b(red|atom)\\.", asm["ptx"])
    print(len(asm["cubin"]) > 0)
"""


@pytest.mark.parametrize("capability", ["80", "90"])
def test_the_kernels_compile_for_nvidias_gpus_without_atomic_sums(
    capability: str, compile_kernels: CompileKernels
) -> None:
    done = compile_kernels(COMPILE, capability)
    assert done.stdout.split() == ["True"] * 6, done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("batch_norm_padding", ["include", "exclude"])
@pytest.mark.parametrize("residuals", ["separate", "folded"])
def test_a_model_on_a_gpu_computes_the_same_as_by_torch_and_equal_bits_every_time(
    residuals: str, batch_norm_padding: str
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    pytest.importorskip("triton", reason=NO_TRITON)
    model = relative("dense", batch_norm_padding).cuda()
    ours, again, theirs = (
        figures_of(model, method, residuals=residuals, device="cuda") for method in ("triton", "triton", "torch")
    )
    for one, same, other in zip(ours, again, theirs, strict=True):
        assert torch.equal(one, same)
        torch.testing.assert_close(one, other, atol=2e-3, rtol=2e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_with_dropout_on_a_gpu_at_the_sizes_of_the_real_model(dtype: torch.dtype) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    pytest.importorskip("triton", reason=NO_TRITON)
    torch.manual_seed(0)
    rows, channels, frames, num = 8, 640, 840, 4
    is_padding = padding_of_half(rows, frames)
    inputs = [
        NormInput(one.x.detach().to(dtype).requires_grad_(), *one[1:])
        for one in random_inputs(rows, channels, frames, num=num)
    ]
    expected, _ = expected_of(inputs, is_padding, excludes=True)
    on_gpu = [NormInput(*(t.detach().cuda().requires_grad_() for t in one[:3]), None) for one in inputs]
    on_gpu = [NormInput(one.x.transpose(1, 2).contiguous().transpose(1, 2), *one[1:]) for one in on_gpu]
    y = norm_relu_dropout(
        on_gpu, is_padding=is_padding.cuda(), num_dropped=13107, eps=EPS, excludes_padding=True, seed=SEED.cuda()
    )
    got, kept = y.double().cpu() * (1 - 13107 / 65536), y.cpu() > 0
    large = expected > 0.1
    assert abs(float(kept[large].float().mean()) - 0.8) < 0.01
    torch.testing.assert_close(got[kept], expected[kept], atol=5e-2, rtol=1e-2)
    grad_y = torch.randn(rows, frames, channels).transpose(1, 2)
    wanted = [tensor for one in inputs for tensor in one[:3]]
    passed = grad_y.double() * kept / (1 - 13107 / 65536)
    exact = torch.autograd.grad(expected, wanted, passed)
    ours = torch.autograd.grad(y, [tensor for one in on_gpu for tensor in one[:3]], grad_y.to("cuda", dtype))
    for one, other in zip(ours, exact, strict=True):
        assert float((one.double().cpu() - other).norm() / other.double().norm()) < 1e-2
