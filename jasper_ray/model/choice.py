"""Which way of computing a convolution is fastest: read from a table of measurements, a pure function of the layer.

It depends on nothing that differs between workers: rows and frames of a micro-batch come from the plan, so any number
of workers chooses alike. Outside of training it does not depend on the batch either, so that an utterance is computed
the same way in any company.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

Chosen = Literal["conv1d", "channels_last", "frequency"]


@dataclass(frozen=True)
class LayerCase:
    """All that the choice depends on."""

    channels: int
    """The smaller of inputs and outputs."""
    kernel: int
    frames: int | None
    """Rows times frames of the micro-batch; none outside of training."""
    device: str
    """`cpu`, `cuda`, ..."""
    dtype: torch.dtype
    """In which the layer computes."""
    has_frequency_method: bool


class Bound(NamedTuple):
    """From here on the frequency domain is faster."""

    kernel: int
    channels: int
    frames: int


# Forward and both gradients with the weights' transform, one thread of a 2-vCPU AMD EPYC (Zen 5, avx512_bf16), torch
# 2.13, 2026-11-24; docs/convolutions.md has the grid. Beside a bound stands the smallest gain measured beyond it.
FREQUENCY_ON_CPU: dict[torch.dtype, tuple[Bound, ...]] = {
    torch.bfloat16: (Bound(11, 128, 1024), Bound(17, 64, 2048)),  # 1.2; 1.7
    torch.float32: (Bound(11, 64, 2048),),  # 1.2
}


# The same on an H200, as CUDA graphs, torch 2.11, 2026-11-26; float32 with products rounded to TF32, float16 not
# measured by itself. Bounds lie between sizes that were measured (3,360, 13,440 and 53,760 frames; float32: 26,880
# only); beside one stands the gain at the next larger size.
FREQUENCY_ON_GPU: dict[torch.dtype, tuple[Bound, ...]] = {
    torch.bfloat16: (Bound(13, 384, 32768), Bound(17, 512, 8192), Bound(29, 768, 2048)),  # 1.4; 1.6; 2.1
    torch.float16: (Bound(13, 384, 32768), Bound(17, 512, 8192), Bound(29, 768, 2048)),  # as bfloat16
    torch.float32: (Bound(13, 384, 16384),),  # 1.6
}

LAST_DIRECT = Bound(17, 512, 0)
"""From here on channels last is the slower layout of the direct sum on a CPU (1.1 to 2 times)."""


def choose(case: LayerCase) -> Chosen:
    """The method for a layer.

    Types without measurements get the direct sum. On a GPU it is `channels_last`, which its libraries want for half
    precision, and our own kernels between convolutions for all.
    """
    bounds = FREQUENCY_ON_CPU if case.device == "cpu" else FREQUENCY_ON_GPU
    if case.has_frequency_method and any(_beyond(case, bound) for bound in bounds.get(case.dtype, ())):
        return "frequency"
    if case.device != "cpu":
        return "channels_last"
    return "conv1d" if case.dtype not in FREQUENCY_ON_CPU or _beyond(case, LAST_DIRECT) else "channels_last"


def _beyond(case: LayerCase, bound: Bound) -> bool:
    long_enough = case.frames is None or case.frames >= bound.frames
    return case.kernel >= bound.kernel and case.channels >= bound.channels and long_enough
