import math
import subprocess
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from jasper_ray.inference import epilogue
from jasper_ray.inference.epilogue import epilogue_, log_softmax, rows_of_features
from jasper_ray.model.triton_trial import triton_runs

NO_TRITON = "triton is not installed, as without a CUDA build of torch: pip install triton"
RELU, HARDTANH = (0.0, math.inf), (-1.0, 1.0)
TOLERANCES = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}

# The interpreter is numpy, which warns of infinities.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
CompileKernels = Callable[[str, str], "subprocess.CompletedProcess[str]"]


def valid_rows(lengths: Tensor, num_frames: int, frame_step: int = 1) -> Tensor:
    """`(R * T, 1)`."""
    return (torch.arange(num_frames) * frame_step < lengths[:, None]).reshape(-1, 1)


def expected_rows(rows: Tensor, bias: Tensor, lengths: Tensor, frame_step: int, bounds: tuple[float, float]) -> Tensor:
    valid = valid_rows(lengths, len(rows) // len(lengths), frame_step)
    return torch.where(valid, (rows.float() + bias).clamp(*bounds), 0.0).to(rows.dtype)


@pytest.mark.parametrize("num_programs", [1, epilogue.NUM_PROGRAMS], ids=["many rows each", "few rows each"])
@pytest.mark.parametrize("channels", [1, 8, 29, 128, 640, 896])
def test_an_epilogue_is_torchs_for_any_channels(
    channels: int, num_programs: int, triton_interpreter: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epilogue, "NUM_PROGRAMS", num_programs)
    torch.manual_seed(channels)
    rows, bias, lengths = torch.randn(3 * 37, channels), torch.randn(channels), torch.tensor([37, 0, 20])
    expected = expected_rows(rows, bias, lengths, 1, RELU)
    got = epilogue_(rows, bias, lengths, frame_step=1, bounds=RELU)
    assert got is rows
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("bounds", [RELU, HARDTANH], ids=["relu", "hardtanh"])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_an_epilogue_rounds_once_and_its_copy_is_a_slice_of_columns(
    dtype: torch.dtype, bounds: tuple[float, float], triton_interpreter: None
) -> None:
    torch.manual_seed(0)
    rows, bias, lengths = torch.randn(2 * 40, 72).to(dtype), torch.randn(72), torch.tensor([79, 31])
    wide = torch.full((80, 64 + 72 + 24), 7.0, dtype=dtype)
    expected = expected_rows(rows, bias, lengths, 2, bounds)
    got = epilogue_(rows, bias, lengths, frame_step=2, bounds=bounds, copy=wide[:, 64:136])
    torch.testing.assert_close(got, expected, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])
    assert torch.equal(wide[:, 64:136], got)
    assert wide[:, :64].eq(7).all() and wide[:, 136:].eq(7).all()


def test_padding_is_zero_whatever_was_there_and_an_undefined_frame_stays_undefined(triton_interpreter: None) -> None:
    rows = torch.full((10, 16), torch.nan)
    got = epilogue_(rows, torch.zeros(16), torch.tensor([5, 1]), frame_step=2, bounds=RELU)
    valid = valid_rows(torch.tensor([5, 1]), 5, 2)
    assert valid.flatten().tolist() == [True] * 3 + [False] * 2 + [True] + [False] * 4
    assert torch.equal(got.isnan(), valid.expand(-1, 16)) and got[~valid.flatten()].eq(0).all()


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(("num_mels", "num_frames"), [(16, 1), (64, 97), (80, 32)])
def test_features_become_rows_and_their_padding_zero(
    num_mels: int, num_frames: int, dtype: torch.dtype, triton_interpreter: None
) -> None:
    torch.manual_seed(0)
    features, lengths = torch.randn(3, num_mels, num_frames), torch.tensor([num_frames, 0, 999])
    features[1] = torch.nan
    got = rows_of_features(features, lengths, dtype=dtype)
    expected = features.permute(0, 2, 1).reshape(-1, num_mels).where(valid_rows(lengths, num_frames), 0).to(dtype)
    torch.testing.assert_close(got, expected, rtol=TOLERANCES[dtype], atol=0)


@pytest.mark.parametrize(("num_rows", "num_labels", "width"), [(5, 29, 32), (33, 9, 16), (40, 1, 8), (3, 1025, 1032)])
def test_log_softmax_reads_no_further_than_the_labels(
    num_rows: int, num_labels: int, width: int, triton_interpreter: None
) -> None:
    torch.manual_seed(0)
    scores, bias = 5 * torch.randn(num_rows, width), torch.randn(num_labels)
    scores[:, num_labels:] = torch.nan
    got = log_softmax(scores.half(), bias)
    expected = (scores.half()[:, :num_labels].float() + bias).log_softmax(1)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(("num_frames", "channels"), [(100, 256), (840, 640), (840, 1024), (33, 29)])
def test_on_a_gpu_an_epilogue_is_torchs(num_frames: int, channels: int, dtype: torch.dtype) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    pytest.importorskip("triton", reason=NO_TRITON)
    assert triton_runs(torch.device("cuda"))
    torch.manual_seed(0)
    lengths = torch.randint(0, 2 * num_frames, (16,), device="cuda")
    rows = torch.randn(16 * num_frames, channels, device="cuda").to(dtype)
    bias, wide = torch.randn(channels, device="cuda"), rows.new_zeros(len(rows), 3 * channels)
    valid = (torch.arange(num_frames, device="cuda") * 2 < lengths[:, None]).reshape(-1, 1)
    expected = torch.where(valid, (rows.float() + bias).relu(), 0.0).to(dtype)
    copy = wide[:, channels : 2 * channels]
    got = epilogue_(rows, bias, lengths, frame_step=2, bounds=RELU, copy=copy)
    torch.testing.assert_close(got, expected, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])
    assert torch.equal(copy, got)
    assert wide[:, :channels].eq(0).all() and wide[:, 2 * channels :].eq(0).all()


COMPILE = """
from jasper_ray.inference import epilogue_kernels as kernels
pointers = dict.fromkeys(("rows", "copy", "scores"), "*fp16")
pointers |= dict.fromkeys(("features", "bias", "parts", "log_probs"), "*fp32")
others = {"lengths": "*i64", "lower": "fp32", "upper": "fp32"}
blocks, alone = {"ROWS": 32, "CHANNELS": 128}, {"PARTS": 0, "ADDS": True}
for kernel, constants in (
    (kernels.epilogue_kernel, {"COPIES": True, **alone, **blocks}),
    (kernels.epilogue_kernel, {"COPIES": False, **alone, **blocks}),
    (kernels.epilogue_kernel, {"COPIES": False, "PARTS": 8, "ADDS": False, "ROWS": 4, "CHANNELS": 128}),
    (kernels.rows_kernel, {"FRAMES": 32, "MELS": 64}),
    (kernels.log_softmax_kernel, {"ROWS": 16, "LABELS": 32}),
):
    aligned = (*pointers, "lengths", "channels", "copy_pitch")
    asm = compiled(kernel, constants, pointers | others, aligned=aligned).asm
    ptx = asm["ptx"]
    print(len(asm["cubin"]) > 0, ptx.count("ld.global.v4"), ptx.count("st.global.v4"))
"""


@pytest.mark.parametrize("capability", ["80", "90"])
def test_the_kernels_compile_for_nvidias_gpus_and_an_epilogue_moves_16_bytes_at_once(
    capability: str, compile_kernels: CompileKernels
) -> None:
    done = compile_kernels(COMPILE, capability)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == ["True"] * 5, done.stderr
    # 32 x 128 halves by 128 threads are 4 accesses each; the bias comes by others.
    assert lines[0][2] == "8" and lines[1][2] == "4"
    assert int(lines[0][1]) >= 4 and int(lines[2][1]) >= 8
