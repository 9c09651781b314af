"""Our kernels for AMX compute what a convolution computes, and where they cannot run torch's are taken."""

import logging
import math
import platform
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from jasper_ray.inference import amx, channels_first_layers
from jasper_ray.inference.channels_first_layers import Columns, Ending, convolution
from jasper_ray.inference.folded import FoldedConv
from jasper_ray.inference.scratch import Scratch
from jasper_ray.model import choice

runs = pytest.mark.skipif(amx.library() is None, reason="this processor has no AMX, or there is no compiler")
BF16 = torch.bfloat16


@pytest.fixture(autouse=True)
def always_in_frequencies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "FREQUENCY_ON_CPU", {BF16: (choice.Bound(3, 1, 0),)})


def rounded(*shape: int, scale: float = 1.0) -> Tensor:
    return (scale * torch.randn(*shape)).to(BF16).float()


def layer_of(inputs: int, outputs: int, kernel: int) -> FoldedConv:
    return FoldedConv(rounded(outputs, inputs, kernel, scale=(inputs * kernel) ** -0.5), rounded(outputs))


def filled(columns: Columns, x: Tensor) -> Tensor:
    """Rows `(B, C, T)` as an axis."""
    axis = columns.new_axis(x.shape[1], BF16)
    columns.by_row(axis).copy_(x.transpose(0, 1))
    return axis


def relu_of(columns: Columns) -> Ending:
    keep = torch.zeros(1, columns.length, dtype=torch.int16)
    columns.by_row(keep).fill_(-1)
    return Ending(torch.relu_, (0.0, math.inf), keep[0])


@runs
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "num_rows", "frames"),
    [
        (32, 32, 11, 1, 1),  # 16 tiles: half a block
        (64, 96, 13, 1, 350),  # an odd number of rows of spectra
        (96, 64, 17, 3, 300),  # 39 tiles become 64
        (256, 128, 25, 2, 200),
        (32, 64, 29, 5, 411),
        (32, 32, 41, 1, 100),  # the longest that the tiles take
    ],
)
@torch.inference_mode()
def test_a_layer_is_a_convolution_with_a_bias_and_an_end(
    inputs: int, outputs: int, kernel: int, num_rows: int, frames: int, adds: bool, threads: int
) -> None:
    torch.manual_seed(kernel)
    conv, columns = layer_of(inputs, outputs, kernel), Columns.of(num_rows, frames, reach=kernel // 2)
    layer = convolution(conv, BF16)
    assert isinstance(layer, channels_first_layers._ByAmx)
    x, before = rounded(num_rows, inputs, frames), rounded(num_rows, outputs, frames)
    out = filled(columns, before)
    if not adds:
        out.fill_(torch.nan)
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        layer(filled(columns, x), out, Scratch(columns, BF16), adds=adds, ending=relu_of(columns))
    finally:
        torch.set_num_threads(threads_before)
    expected = functional.conv1d(x.double(), conv.weight.double(), conv.bias.double(), padding=kernel // 2)
    expected = (expected + before if adds else expected).relu()
    got = columns.by_row(out).transpose(0, 1)
    assert float((got - expected).norm() / expected.norm()) < 0.008
    columns.by_row(out).zero_()
    assert not out.any(), "what is between the rows is zero"


@runs
@torch.inference_mode()
def test_it_errs_no_more_than_torchs_products(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, columns = layer_of(128, 128, 17), Columns.of(4, 350, reach=8)
    x = rounded(4, 128, 350)
    exact = functional.conv1d(x.double(), conv.weight.double(), conv.bias.double(), padding=8).relu()
    errors = []
    for library in (amx.library(), None):
        monkeypatch.setattr(amx, "library", lambda library=library: library)
        out = columns.new_axis(128, BF16)
        convolution(conv, BF16)(filled(columns, x), out, Scratch(columns, BF16), adds=False, ending=relu_of(columns))
        errors.append(float((columns.by_row(out).transpose(0, 1) - exact).norm() / exact.norm()))
    assert errors[0] < 1.05 * errors[1] < 0.01


@runs
@torch.inference_mode()
def test_other_non_linearities_and_none_come_after_it() -> None:
    conv, columns = layer_of(32, 32, 11), Columns.of(2, 50, reach=5)
    x = rounded(2, 32, 50)
    exact = functional.conv1d(x.double(), conv.weight.double(), conv.bias.double(), padding=5)
    relu = relu_of(columns)
    for ending, expected in (
        (Ending(torch.selu_, None, relu.keep), functional.selu(exact)),
        (Ending(functional.hardtanh_, (-1.0, 1.0), relu.keep), exact.clamp(-1, 1)),
        (None, exact),
    ):
        out = columns.new_axis(32, BF16)
        convolution(conv, BF16)(filled(columns, x), out, Scratch(columns, BF16), adds=False, ending=ending)
        got = columns.by_row(out).transpose(0, 1)
        assert float((got - expected).norm() / expected.norm()) < 0.008


@runs
@torch.inference_mode()
def test_what_is_no_number_stays_none() -> None:
    conv, columns = layer_of(32, 32, 11), Columns.of(1, 30, reach=5)
    x = rounded(1, 32, 30)
    x[0, 3, 4] = torch.nan
    out = columns.new_axis(32, BF16)
    convolution(conv, BF16)(filled(columns, x), out, Scratch(columns, BF16), adds=False, ending=relu_of(columns))
    assert columns.by_row(out)[:, 0, 4].isnan().all()


@pytest.mark.parametrize(
    ("inputs", "outputs", "tile", "dtype"),
    [(48, 32, 34, BF16), (32, 40, 34, BF16), (32, 32, 32, BF16), (32, 32, 66, BF16), (32, 32, 34, torch.float32)],
)
def test_sizes_that_the_tiles_do_not_take_are_torchs(inputs: int, outputs: int, tile: int, dtype: torch.dtype) -> None:
    assert not amx.suits(inputs=inputs, outputs=outputs, tile=tile, dtype=dtype)


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    return tmp_path


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_without_a_compiler_it_says_so_and_torch_computes(
    compiler: str, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CC", compiler)
    with caplog.at_level(logging.WARNING):
        assert amx.library.__wrapped__() is None
    assert "cannot be compiled" in caplog.text and "apt-get install gcc" in caplog.text
    monkeypatch.setattr(amx, "library", lambda: None)
    assert isinstance(convolution(layer_of(32, 32, 11), BF16), channels_first_layers._InTiles)


@pytest.mark.skipif(
    shutil.which("gcc") is None or (platform.system(), platform.machine()) != ("Linux", "x86_64"),
    reason="needs gcc on Linux on x86-64",
)
def test_it_is_compiled_once(fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    made = amx._compiled()
    assert made.parent == fresh_cache / "jasper_ray" and list(made.parent.iterdir()) == [made]
    written = made.stat().st_mtime_ns
    assert amx._compiled() == made and made.stat().st_mtime_ns == written


@pytest.mark.parametrize(("most", "masked"), [("AVX512_CORE_BF16", True), ("AVX2", True), ("AVX512_CORE_AMX", False)])
def test_who_masks_amx_for_torch_masks_it_for_us(
    most: str, masked: bool, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", most)
    assert amx._is_masked() == masked
    if masked:
        assert amx.library.__wrapped__() is None and not list(fresh_cache.iterdir())
