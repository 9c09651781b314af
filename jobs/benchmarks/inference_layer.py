"""Single layers of inference on a CPU: the direct sum, and the frequency domain by tiles of several sizes.

What `jasper_ray.model.choice` and the tiles of `jasper_ray.inference.spectral_layers` are chosen by.
"""

import statistics
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from jasper_ray.errors import ConfigError
from jasper_ray.inference.folded import FoldedConv
from jasper_ray.inference.spectral_layers import Convolve, DirectSum, Factors, HalfFactors, InTiles, Rows, Scratch
from jobs.benchmarks.timing import run_in_turn

DTYPES = {"fp32": torch.float32, "fp16": torch.float32, "bf16": torch.bfloat16}
"""Of activations: `fp16` is half-precision weights and sums in fp32."""
DIRECT = "direct"


class PackedFactors(Factors):
    """As `Factors`, by oneDNN with weights that it has laid out beforehand: a product by itself for each row."""

    def __init__(self, factors: Iterable[Tensor], dtype: torch.dtype) -> None:
        pack = torch.ops.mkldnn._reorder_linear_weight
        self._packed = []
        for some in factors:
            self._packed += [pack(one.T.contiguous().to(dtype)) for one in some]
            self._outputs = some.shape[2]

    def __call__(self, into: Tensor, frames: Tensor, scratch: Scratch) -> Tensor:
        """As `Factors`."""
        (tiles, rows, _), inputs = into.shape, frames.shape[2]
        by_row = scratch.buffer("spectra by row", rows, tiles, inputs)
        by_row.copy_(torch.bmm(into, frames).transpose(0, 1))
        products = scratch.buffer("products", rows, tiles, self._outputs)
        for given, weight, result in zip(by_row.unbind(), self._packed, products.unbind(), strict=True):
            result.copy_(torch.ops.mkldnn._linear_pointwise(given, weight, None, "none", [], ""))
        return products.transpose(0, 1)


def measure_inference_layer(
    channels: int,
    kernel: int,
    rows: int,
    frames: int,
    *,
    precisions: list[str],
    hops: list[int],
    rounds: int,
    threads: int,
) -> dict[str, Any]:
    """A layer as wide as its input, in every way in turn; none that oneDNN has not for this processor.

    Args:
        channels: C.
        kernel: Odd.
        rows: Utterances.
        frames: Encoder frames of each.
        precisions: `fp32`, `fp16`, `bf16`.
        hops: Output frames of a tile, for the frequency domain.
        rounds: After one that warms up.
        threads: Of torch.

    Returns:
        By precision and way: CPU milliseconds, how many times faster than the direct sum of the same activations, both
        medians over the rounds, and the relative error against float64.

    Raises:
        ConfigError: A number that cannot be.
    """
    for name, value in (("C", channels), ("ROWS", rows), ("FRAMES", frames), ("--hops", min(hops))):
        if value <= 0:
            raise ConfigError(f"{name} must be above 0, got {value}")
    if kernel < 3 or kernel % 2 == 0:
        raise ConfigError(f"K must be odd and at least 3, got {kernel}: a model's kernels are")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    weight = torch.randn(channels, channels, kernel) / (channels * kernel) ** 0.5
    x = torch.randn(rows, frames, channels)
    figures: dict[str, Any] = {}
    for precision in precisions:
        dtype = DTYPES[precision]
        direct = _Layer(DirectSum(FoldedConv(weight, torch.zeros(channels)), dtype), x, kernel, dtype, max(hops))
        layers = {DIRECT: direct}
        for hop in hops:
            for name, hold in _holds(precision).items():
                tiles = InTiles(weight, hop, dtype, hold)
                layers[f"hop {hop}, {name}"] = _Layer(tiles, x, kernel, dtype, hop)
        exact = functional.conv1d(x.to(dtype).double().transpose(1, 2), weight.double(), padding=kernel // 2)
        runs = run_in_turn({name: layer.work for name, layer in layers.items()}, rounds)
        for name, of_one in runs.items():
            layer = layers[name]
            layer.work(0)
            pairs = zip(runs[DIRECT], of_one, strict=True)
            figures[f"{precision}, {name}"] = {
                "cpu_ms": 1e3 * statistics.median(run.cpu_s for run in of_one),
                "faster": statistics.median(one.cpu_s / run.cpu_s for one, run in pairs),
                "error": float((layer.output.double() - exact.transpose(1, 2)).norm() / exact.norm()),
            }
    return {"channels": channels, "kernel": kernel, "rows": rows, "frames": frames, "ways": figures}


def _holds(precision: str) -> dict[str, type[Factors] | type[HalfFactors]]:
    if precision == "fp16":
        return {"FBGEMM": HalfFactors}
    packs = torch.backends.mkldnn.is_available() and (
        precision == "fp32" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
    return {"bmm": Factors, "packed": PackedFactors} if packs else {"bmm": Factors}


class _Layer:
    def __init__(self, convolve: Convolve, x: Tensor, kernel: int, dtype: torch.dtype, hop: int) -> None:
        num_rows, frames, channels = x.shape
        self._convolve = convolve
        self._rows = Rows.of(num_rows, frames, reach=kernel // 2, dtype=dtype, hop=hop)
        self._scratch = Scratch(self._rows, dtype)
        self._axis = self._rows.new_axis(channels, dtype).zero_()
        self._rows.by_row(self._rows.inner(self._axis)).copy_(x)
        self._start = torch.zeros(channels, dtype=dtype)
        self._out = torch.empty(self._rows.length, channels, dtype=dtype)

    @property
    def output(self) -> Tensor:
        """`(R, T, C)` of the last run."""
        return self._rows.by_row(self._out)

    def work(self, _: int) -> float:
        with torch.inference_mode():
            self._convolve(self._axis, self._start, self._scratch, self._out)
        return 1.0
