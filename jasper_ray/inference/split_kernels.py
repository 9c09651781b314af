"""A convolution over few frames, for NVIDIA GPUs in Triton; `split.py` launches it.

Activations are rows `(R * T, C)`, weights `(C', k, C)`. There are fewer tiles of outputs than multiprocessors, so a
tile's sum over taps and channels is cut into parts, a program each; whoever adds the parts up does so in their order,
so that equal inputs give equal bits. Sums are in fp32.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_rows", "num_frames", "kernel", "dilation", "each"])
def split_kernel(
    rows,
    weight,
    parts,
    num_rows,
    num_frames,
    inputs,
    outputs,
    kernel,
    dilation,
    each,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    """Parts `(P, R * T, C')`: a program has ROWS rows, OUTPUTS outputs and `each` steps of INPUTS inputs of a tap."""
    part = tl.program_id(0)
    numbers = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(2) * OUTPUTS + tl.arange(0, OUTPUTS)
    channels = tl.arange(0, INPUTS)
    frames = numbers % num_frames
    there = numbers < num_rows
    reach = kernel // 2 * dilation
    blocks = inputs // INPUTS
    source = rows + numbers[:, None] * inputs + channels[None, :]
    factors = weight + columns[:, None] * (kernel * inputs) + channels[None, :]
    total = tl.full([ROWS, OUTPUTS], 0.0, tl.float32)
    end = kernel * blocks
    for number in range(0, each):
        step = tl.minimum(part * each + number, end - 1)
        is_one = part * each + number < end  # the last part may be shorter
        tap = step // blocks
        block = (step - tap * blocks) * INPUTS
        shift = tap * dilation - reach
        heard = there & is_one & (frames + shift >= 0) & (frames + shift < num_frames)
        given = tl.load(source + (shift * inputs + block), mask=heard[:, None], other=0.0)
        taken = tl.load(factors + (tap * inputs + block))
        total = tl.dot(given, tl.trans(taken), total)
    target = parts + (part * num_rows + numbers).to(tl.int64)[:, None] * outputs + columns[None, :]
    tl.store(target, total, mask=there[:, None])
