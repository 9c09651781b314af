"""Novograd for NVIDIA GPUs in Triton; `novograd_triton.py` launches it, and imports this only then.

A launch takes all tensors of a group. Row t of the table `pointers` has the addresses of tensor t: parameter, gradient,
momentum, second moment. A program works on one chunk of one tensor: `owners` says whose chunk it is, `first` (one
longer than there are tensors) which program has a tensor's first. Every sum has a fixed order and nothing is added
atomically: equal inputs give equal bits.
"""

import triton
import triton.language as tl

PARAMETER, GRADIENT, MOMENTUM, SECOND_MOMENT = (tl.constexpr(column) for column in range(4))


@triton.jit
def _add(left, right):
    return left + right


@triton.jit
def _pointer(pointers, tensor, COLUMN: tl.constexpr):
    """The first number of one of a tensor's four arrays."""
    return tl.load(pointers + 4 * tensor + COLUMN).to(tl.pointer_type(tl.float32))


@triton.jit
def _chunk(owners, first, sizes, CHUNK: tl.constexpr):
    """A program's tensor, where in it the chunk starts, and how many numbers the chunk has."""
    program = tl.program_id(0)
    tensor = tl.load(owners + program)
    start = (program - tl.load(first + tensor)).to(tl.int64) * CHUNK
    return tensor, start, tl.minimum(tl.load(sizes + tensor) - start, CHUNK).to(tl.int32)


@triton.jit
def _is_aligned(pointer):
    """Whether four numbers at a time can be read and written there."""
    return (pointer.to(tl.int64) & 15) == 0


@triton.jit
def squares_kernel(pointers, owners, first, sizes, partials, CHUNK: tl.constexpr, BLOCK: tl.constexpr):
    """Sum of squares of each chunk of the gradients."""
    tensor, start, count = _chunk(owners, first, sizes, CHUNK)
    gradient = _pointer(pointers, tensor, GRADIENT) + start
    lanes = tl.arange(0, BLOCK)
    total = tl.full([BLOCK], 0.0, tl.float32)
    if (count == CHUNK) & _is_aligned(gradient):
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
    second_moment = _pointer(pointers, tensor, SECOND_MOMENT)
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
    tensor, start, count = _chunk(owners, first, sizes, CHUNK)
    if found_inf is not None:
        count = tl.where(tl.load(found_inf) > 0, 0, count)
    parameter = _pointer(pointers, tensor, PARAMETER) + start
    gradient = _pointer(pointers, tensor, GRADIENT) + start
    momentum = _pointer(pointers, tensor, MOMENTUM) + start
    scale = tl.load(scales + tensor)
    lanes = tl.arange(0, BLOCK)
    if (count == CHUNK) & _is_aligned(parameter) & _is_aligned(gradient) & _is_aligned(momentum):
        p, g, m = tl.multiple_of(parameter, 16), tl.multiple_of(gradient, 16), tl.multiple_of(momentum, 16)
        for offset in range(0, CHUNK, BLOCK):
            at = offset + lanes
            _update(p + at, g + at, m + at, None, scale, lr, beta1, weight_decay)
    else:
        for offset in range(0, count, BLOCK):
            at = offset + lanes
            _update(parameter + at, gradient + at, momentum + at, at < count, scale, lr, beta1, weight_decay)
