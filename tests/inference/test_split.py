import math
import subprocess
from collections.abc import Callable

import pytest
import torch
from relatives import NUM_LABELS, NUM_MELS, randomised
from torch import Tensor
from torch.nn import functional

from jasper_ray.config.model import BlockConfig, ModelConfig
from jasper_ray.inference.epilogue import epilogue_
from jasper_ray.inference.folded import fold
from jasper_ray.inference.fused import FusedRunner, Way
from jasper_ray.inference.split import MAX_PARTS, TILES, Split, SplitShape, can_split, split_conv, splits

CPU = torch.device("cpu")
NO_TRITON = "triton is not installed, as without a CUDA build of torch: pip install triton"
RELU = (0.0, math.inf)
PROCESSORS = 132
DEEP = SplitShape(768, 768, 25, 1)
WIDE_MODEL = ModelConfig(
    preset=None,
    blocks=(
        BlockConfig(filters=64, kernel=5, stride=2),
        BlockConfig(filters=128, kernel=5, repeat=2, residual="dense"),
        BlockConfig(filters=64, kernel=7, repeat=2, residual="dense"),
        BlockConfig(filters=128, kernel=9, dilation=2),
        BlockConfig(filters=64, kernel=1),
    ),
)

# The interpreter is numpy, which warns of infinities.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def expected_conv(rows: Tensor, weight: Tensor, num_utterances: int, dilation: int) -> Tensor:
    x = rows.double().view(num_utterances, -1, rows.shape[1]).transpose(1, 2)
    taps = weight.double().transpose(1, 2)
    y = functional.conv1d(x, taps, padding=weight.shape[1] // 2 * dilation, dilation=dilation)
    return y.transpose(1, 2).flatten(0, 1)


@pytest.mark.parametrize("tile", TILES, ids=str)
@pytest.mark.parametrize(("num_parts", "kernel", "dilation"), [(1, 3, 1), (2, 5, 2), (4, 3, 1), (16, 3, 2)])
def test_the_parts_of_a_convolution_add_up_to_it_and_no_utterance_hears_another(
    num_parts: int, kernel: int, dilation: int, tile: object, triton_interpreter: None
) -> None:
    torch.manual_seed(0)
    rows, weight = torch.randn(3 * 23, 128).half(), 0.1 * torch.randn(256, kernel, 128).half()
    parts = split_conv(rows, weight, Split(tile, num_parts), num_utterances=3, dilation=dilation)  # type: ignore[arg-type]
    assert parts.dtype == torch.float32 and parts.shape == (num_parts, 69, 256)
    # 16 parts of 6 steps: some have nothing to do, and say zero.
    torch.testing.assert_close(parts.double().sum(0), expected_conv(rows, weight, 3, dilation), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("adds", [True, False], ids=["adds", "alone"])
@pytest.mark.parametrize("num_parts", [1, 2, 3, 7, 16])
def test_an_epilogue_adds_parts_up_before_it_rounds(num_parts: int, adds: bool, triton_interpreter: None) -> None:
    torch.manual_seed(0)
    rows, parts, bias = torch.randn(2 * 9, 72).half(), torch.randn(num_parts, 18, 72), torch.randn(72)
    valid = (torch.arange(9) < torch.tensor([[9], [4]])).reshape(-1, 1)
    total = parts.sum(0) + bias + (rows.float() if adds else 0.0)
    expected = torch.where(valid, total.relu(), 0.0).half()
    given = rows if adds else torch.full_like(rows, torch.nan)
    got = epilogue_(given, bias, torch.tensor([9, 4]), frame_step=1, bounds=RELU, parts=parts, adds=adds)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)


@torch.inference_mode()
@pytest.mark.parametrize("way", ["cudnn", Split(TILES[0], 1), Split(TILES[0], 3), "frequency"], ids=str)
def test_a_model_computes_the_same_in_every_way(way: Way, triton_interpreter: None) -> None:
    torch.manual_seed(0)
    model = randomised(WIDE_MODEL)
    runner = FusedRunner(fold(model), device=CPU, dtype=torch.float16)
    features, lengths = torch.randn(2, NUM_MELS, 60), torch.tensor([60, 33])
    runner.use(2, 60, lambda shape: way)
    got = runner.log_probs(features, lengths)
    expected, valid = model.double()(features.double(), lengths)
    assert got.shape == (2, 30, NUM_LABELS)
    for row, length in enumerate(valid.tolist()):
        error = got[row, :length].exp().double() - expected[row, :length].exp()
        assert error.norm() < 5e-3 * expected[row, :length].exp().norm()


def test_a_shape_has_ways_that_fill_all_processors_where_its_sum_is_long_enough() -> None:
    for num_rows in (100, 352, 840):
        ways = list(splits(DEEP, num_rows, PROCESSORS))
        assert len(ways) >= 6 and len(set(ways)) == len(ways)
        for tile, num_parts in ways:
            programs = -(-num_rows // tile.rows) * (DEEP.outputs // tile.outputs) * num_parts
            rounds = -(-programs // PROCESSORS)
            assert rounds <= 2 and (programs >= 0.7 * rounds * PROCESSORS or num_parts in (1, MAX_PARTS))
    assert {num_parts for _, num_parts in splits(SplitShape(64, 64, 3, 1), 100, PROCESSORS)} == {1}
    assert {num_parts for _, num_parts in splits(DEEP, 4096, PROCESSORS)} == {1, 2}
    assert not [tile for tile, _ in splits(DEEP, 60, PROCESSORS) if tile.rows > 64]


def test_channels_that_tiles_do_not_divide_are_not_split() -> None:
    assert can_split(DEEP) and can_split(SplitShape(768, 896, 29, 2))
    assert not can_split(SplitShape(80, 64, 11, 1)) and not can_split(SplitShape(64, 96, 11, 1))


@pytest.mark.gpu
@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("num_rows", [100, 352])
def test_on_a_gpu_every_way_is_the_convolution(num_rows: int, dtype: torch.dtype) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    pytest.importorskip("triton", reason=NO_TRITON)
    torch.manual_seed(0)
    for inputs, outputs, kernel, dilation in ((256, 256, 11, 1), (640, 640, 21, 1), (768, 896, 29, 2)):
        rows = torch.randn(2 * num_rows, inputs, device="cuda").to(dtype)
        weight = 0.02 * torch.randn(outputs, kernel, inputs, device="cuda").to(dtype)
        expected = expected_conv(rows, weight, 2, dilation)
        tried = list(splits(SplitShape(inputs, outputs, kernel, dilation), 2 * num_rows, PROCESSORS))
        for split in tried:
            got = split_conv(rows, weight, split, num_utterances=2, dilation=dilation).sum(0)
            assert (got - expected).norm() < 1e-4 * expected.norm(), split
            again = split_conv(rows, weight, split, num_utterances=2, dilation=dilation).sum(0)
            assert torch.equal(got, again)
        assert len(tried) >= 3


@pytest.mark.gpu
@torch.inference_mode()
def test_on_a_gpu_the_ways_that_are_chosen_compute_the_model() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    pytest.importorskip("triton", reason=NO_TRITON)
    torch.manual_seed(0)
    model = randomised(WIDE_MODEL)
    runner = FusedRunner(fold(model), device=torch.device("cuda"), dtype=torch.float16)
    for num_rows, num_frames in ((16, 1680), (1, 200)):
        with torch.cuda.stream(torch.cuda.Stream()):  # type: ignore[no-untyped-call]
            runner.choose_ways(num_rows, num_frames)
        torch.cuda.synchronize()
        assert len(runner.ways[num_rows, num_frames]) == 5
        features, lengths = torch.randn(num_rows, NUM_MELS, num_frames), torch.full((num_rows,), num_frames)
        got = runner.log_probs(features.cuda(), lengths.cuda()).cpu().exp()
        expected = model(features, lengths)[0].exp()
        assert (got - expected).norm() < 1e-2 * expected.norm()


COMPILE = """
from jasper_ray.inference.split import INPUTS_PER_STEP, TILES
from jasper_ray.inference.split_kernels import split_kernel as kernel
types = {"rows": "*fp16", "weight": "*fp16", "parts": "*fp32"}
for rows, outputs, num_warps, num_stages in TILES:
    constants = {"ROWS": rows, "OUTPUTS": outputs, "INPUTS": INPUTS_PER_STEP}
    options = {"num_warps": num_warps, "num_stages": num_stages}
    made = compiled(kernel, constants, types, aligned=(*types, "inputs", "outputs"), **options)
    ptx = made.asm["ptx"]
    print(len(made.asm["cubin"]) > 0, "wgmma" in ptx, "mma.sync" in ptx, ptx.count("cp.async.c"), made.metadata.shared)
"""


@pytest.mark.parametrize("capability", ["80", "90"])
def test_the_kernel_compiles_for_nvidias_gpus_uses_their_matrix_units_and_loads_ahead(
    capability: str, compile_kernels: Callable[[str, str], "subprocess.CompletedProcess[str]"]
) -> None:
    done = compile_kernels(COMPILE, capability)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == ["True"] * len(TILES), done.stderr
    matrix_unit = 1 if capability == "90" else 2
    for line in lines:
        assert line[matrix_unit] == "True" and int(line[3]) > 0
        assert int(line[4]) <= (227 if capability == "90" else 163) * 1024
