"""Novograd for NVIDIA GPUs in Triton; `novograd_triton.py` launches it, and imports this only then.

A launch takes all tensors of a group (`chunk_kernels.py`): of each, parameter, gradient, momentum and second moment.
Every sum has a fixed order and nothing is added atomically: equal inputs give equal bits.
"""

import triton
import triton.language as tl

from jasper_ray.training.chunk_kernels import chunk_of, is_aligned, pointer_of

PARAMETER, GRADIENT, MOMENTUM, SECOND_MOMENT, COLUMNS = (tl.constexpr(value) for value in range(5))


@triton.jit
def _add(left, right):
    return left + right


@triton.jit
def squares_kernel(pointers, owners, first, sizes, partials, CHUNK: tl.constexpr, BLOCK: tl.constexpr):
    """Sum of squares of each chunk of the gradients."""
    tensor, start, count = chunk_of(owners, first, sizes, CHUNK)
    gradient = pointer_of(pointers, tensor, GRADIENT, COLUMNS) + start
    lanes = tl.arange(0, BLOCK)
    total = tl.full([BLOCK], 0.0, tl.float32)
    if (count == CHUNK) & is_aligned(gradient):
        aligned = tl.multiple_of(gradient, 16)
        for offset in range(0, CHUNK, BLOCK):
            values = tl.load(aligned + offset + lanes)
            total += values * values
    else:
        for offset in range(0, count, BLOCK):
            values = tl.load(gradient + offset + lanes, mask=offset + lanes < count, other=0.0)
            total += values * values
    tl.store(partials + tl.program_id(0), tl.reduce(total, 0, _add))


@triton.jit
def scales_kernel(pointers, first, partials, scales, found_inf, beta2, rest_of_beta2, eps, BLOCK: tl.constexpr):
    """Second moment of each tensor, in place, and what its gradient is multiplied by."""
    tensor = tl.program_id(0)
    lanes = tl.arange(0, BLOCK)
    end = tl.load(first + tensor + 1)
    total = tl.full([BLOCK], 0.0, tl.float32)
    for chunk in range(tl.load(first + tensor), end, BLOCK):
        total += tl.load(partials + chunk + lanes, mask=chunk + lanes < end, other=0.0)
    squares = tl.reduce(total, 0, _add)
    second_moment = pointer_of(pointers, tensor, SECOND_MOMENT, COLUMNS)
    old = tl.load(second_moment)
    new = tl.where(old == 0, squares, beta2 * old + rest_of_beta2 * squares)
    if found_inf is not None:
        new = tl.where(tl.load(found_inf) > 0, old, new)
    tl.store(second_moment, new)
    tl.store(scales + tensor, tl.div_rn(1.0, tl.sqrt_rn(new) + eps))


@triton.jit
def _update(parameter, gradient, momentum, mask, scale, lr, beta1, weight_decay):
    """A block of a parameter and of its momentum, in place."""
    p = tl.load(parameter, mask=mask)
    m = tl.load(momentum, mask=mask)
    m = beta1 * m + (tl.load(gradient, mask=mask) * scale + weight_decay * p)
    tl.store(momentum, m, mask=mask)
    tl.store(parameter, p - lr * m, mask=mask)


@triton.jit
def update_kernel(
    pointers,
    owners,
    first,
    sizes,
    scales,
    found_inf,
    lr,
    beta1,
    weight_decay,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Momenta and parameters, in place; neither is read or written where `found_inf` is 1."""
    tensor, start, count = chunk_of(owners, first, sizes, CHUNK)
    if found_inf is not None:
        count = tl.where(tl.load(found_inf) > 0, 0, count)
    parameter = pointer_of(pointers, tensor, PARAMETER, COLUMNS) + start
    gradient = pointer_of(pointers, tensor, GRADIENT, COLUMNS) + start
    momentum = pointer_of(pointers, tensor, MOMENTUM, COLUMNS) + start
    scale = tl.load(scales + tensor)
    lanes = tl.arange(0, BLOCK)
    if (count == CHUNK) & is_aligned(parameter) & is_aligned(gradient) & is_aligned(momentum):
        p, g, m = tl.multiple_of(parameter, 16), tl.multiple_of(gradient, 16), tl.multiple_of(momentum, 16)
        for offset in range(0, CHUNK, BLOCK):
            at = offset + lanes
            _update(p + at, g + at, m + at, None, scale, lr, beta1, weight_decay)
    else:
        for offset in range(0, count, BLOCK):
            at = offset + lanes
            _update(parameter + at, gradient + at, momentum + at, at < count, scale, lr, beta1, weight_decay)
