"""An average of weights in one pass, for NVIDIA GPUs in Triton; `ema.py` launches it, and imports it only then."""

import triton
import triton.language as tl

from jasper_ray.training.chunk_kernels import chunk_of, is_aligned, pointer_of

AVERAGE, WEIGHT, COLUMNS = (tl.constexpr(value) for value in (0, 1, 2))


@triton.jit
def _average(average, weight, mask, share):
    """A block of an average, in place."""
    old = tl.load(average, mask=mask)
    tl.store(average, old + share * (tl.load(weight, mask=mask) - old), mask=mask)


@triton.jit
def average_kernel(pointers, owners, first, sizes, unless, share, CHUNK: tl.constexpr, BLOCK: tl.constexpr):
    """Averages take in a share of the weights, in place; none is read or written where `unless` is not 0."""
    tensor, start, count = chunk_of(owners, first, sizes, CHUNK)
    if unless is not None:
        count = tl.where(tl.load(unless) != 0, 0, count)
    average = pointer_of(pointers, tensor, AVERAGE, COLUMNS) + start
    weight = pointer_of(pointers, tensor, WEIGHT, COLUMNS) + start
    lanes = tl.arange(0, BLOCK)
    if (count == CHUNK) & is_aligned(average) & is_aligned(weight):
        a, w = tl.multiple_of(average, 16), tl.multiple_of(weight, 16)
        for offset in range(0, CHUNK, BLOCK):
            _average(a + offset + lanes, w + offset + lanes, None, share)
    else:
        for offset in range(0, count, BLOCK):
            at = offset + lanes
            _average(average + at, weight + at, at < count, share)
