"""Batch norm, residual sum, ReLU, dropout and mask for NVIDIA GPUs in Triton; `norm_triton.py` launches them, and
imports this only then.

Activations are `(M, C)`: frames of all rows one below the other, the channels of a frame together. A program takes a
block of frames and CHANNELS channels. Every sum has a fixed order and nothing is added atomically: equal inputs give
equal bits. Arithmetic is fp32, whatever the activations are stored in.
"""

import triton
import triton.language as tl

DRAW_GROUPS = tl.constexpr(8)
"""Frames that share a draw of random bits: four words of 32 bits, 16 bits for each frame."""


@triton.jit
def _plus(left, right):
    return left + right


@triton.jit
def _sum(values):
    """Over the first axis. Triton's own `sum` cannot be interpreted where Triton was imported to compile."""
    return tl.reduce(values, 0, _plus)


@triton.jit
def statistics_kernel(
    x,
    is_padding,
    counts,
    means,
    squares,
    num_frames,
    frames_each,
    NUM_CHANNELS: tl.constexpr,
    EXCLUDES: tl.constexpr,
    FRAMES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Counts `(P,)`, means `(P, C)` and sums of squares around them `(P, C)` of the frames of each of P programs."""
    part = tl.program_id(0)
    channels = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    there = channels < NUM_CHANNELS
    count = 0.0
    mean = tl.full([CHANNELS], 0.0, tl.float32)
    square = tl.full([CHANNELS], 0.0, tl.float32)
    first = part * frames_each
    for start in range(0, frames_each, FRAMES):
        frames = first + start + tl.arange(0, FRAMES)
        valid = (frames < num_frames) & (frames < first + frames_each)
        if EXCLUDES:
            valid = valid & (tl.load(is_padding + frames, mask=valid, other=1) == 0)
        inside = valid[:, None] & there[None, :]
        offsets = frames.to(tl.int64)[:, None] * NUM_CHANNELS + channels[None, :]
        values = tl.load(x + offsets, mask=inside, other=0.0).to(tl.float32)
        # Each block around its own mean, then merged (Chan et al. 1979): no difference of large sums.
        here = _sum(valid.to(tl.float32))
        here_mean = _sum(values) / tl.maximum(here, 1.0)
        apart = tl.where(inside, values - here_mean[None, :], 0.0)
        here_square = _sum(apart * apart)
        both = count + here
        share = here / tl.maximum(both, 1.0)
        step = here_mean - mean
        square += here_square + step * step * count * share
        mean += step * share
        count = both
    tl.store(counts + part + channels * 0, tl.full([CHANNELS], 0.0, tl.float32) + count, mask=channels == 0)
    tl.store(means + part * NUM_CHANNELS + channels, mean, mask=there)
    tl.store(squares + part * NUM_CHANNELS + channels, square, mask=there)


@triton.jit
def combine_kernel(
    counts,
    means,
    squares,
    weight,
    bias,
    mean_sum,
    var_sum,
    num_valid,
    norms,
    num_parts,
    eps,
    NUM_CHANNELS: tl.constexpr,
    COLLECTS: tl.constexpr,
    PARTS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """The parts as one: `norms` `(4, C)` mean, 1 / standard deviation, scale and shift; the number of frames; with
    COLLECTS, mean and unbiased variance are added to `mean_sum` and `var_sum`.
    """
    channels = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    there = channels < NUM_CHANNELS
    parts = tl.arange(0, PARTS)
    inside = (parts < num_parts)[:, None] & there[None, :]
    count = tl.load(counts + parts, mask=parts < num_parts, other=0.0)
    offsets = parts[:, None] * NUM_CHANNELS + channels[None, :]
    part_means = tl.load(means + offsets, mask=inside, other=0.0)
    total = _sum(count)
    known = tl.maximum(total, 1.0)
    mean = _sum(part_means * count[:, None]) / known
    apart = part_means - mean[None, :]
    squared = tl.load(squares + offsets, mask=inside, other=0.0) + apart * apart * count[:, None]
    square = _sum(tl.where(inside, squared, 0.0))
    deviation = 1.0 / tl.sqrt(square / known + eps)
    scale = tl.load(weight + channels, mask=there, other=0.0) * deviation
    shift = tl.load(bias + channels, mask=there, other=0.0) - mean * scale
    tl.store(norms + channels, mean, mask=there)
    tl.store(norms + NUM_CHANNELS + channels, deviation, mask=there)
    tl.store(norms + 2 * NUM_CHANNELS + channels, scale, mask=there)
    tl.store(norms + 3 * NUM_CHANNELS + channels, shift, mask=there)
    tl.store(num_valid + channels * 0, tl.full([CHANNELS], 0.0, tl.float32) + total, mask=channels == 0)
    if COLLECTS:
        old_mean = tl.load(mean_sum + channels, mask=there, other=0.0)
        tl.store(mean_sum + channels, old_mean + mean, mask=there)
        old_var = tl.load(var_sum + channels, mask=there, other=0.0)
        tl.store(var_sum + channels, old_var + square / tl.maximum(total - 1.0, 1.0), mask=there)


@triton.jit
def _random_words(seed, stream, counter):
    """Four words of 32 random bits for each counter of a stream: Philox 4x32 of 7 rounds (Salmon et al. 2011)."""
    key_0 = (seed & 0xFFFFFFFF).to(tl.uint32)
    key_1 = (seed >> 32).to(tl.uint32)
    word_0 = counter.to(tl.uint32)
    word_1 = tl.full(counter.shape, 0, tl.uint32) + stream.to(tl.uint32)
    word_2 = tl.full(counter.shape, 0, tl.uint32)
    word_3 = word_2
    for _ in tl.static_range(7):
        product_0 = word_0.to(tl.uint64) * 0xD2511F53
        product_2 = word_2.to(tl.uint64) * 0xCD9E8D57
        word_0 = (product_2 >> 32).to(tl.uint32) ^ word_1 ^ key_0
        word_2 = (product_0 >> 32).to(tl.uint32) ^ word_3 ^ key_1
        word_1 = product_2.to(tl.uint32)
        word_3 = product_0.to(tl.uint32)
        key_0 = (key_0.to(tl.uint64) + 0x9E3779B9).to(tl.uint32)
        key_1 = (key_1.to(tl.uint64) + 0xBB67AE85).to(tl.uint32)
    return word_0, word_1, word_2, word_3


@triton.jit
def _activated(xs, norms, frames, channels, inside, NUM: tl.constexpr, NUM_CHANNELS: tl.constexpr):
    """ReLU of the sum of NUM normalised inputs."""
    there = channels < NUM_CHANNELS
    offsets = frames.to(tl.int64)[:, None] * NUM_CHANNELS + channels[None, :]
    total = tl.full(offsets.shape, 0.0, tl.float32)
    for i in tl.static_range(NUM):
        scale = tl.load(norms + (4 * i + 2) * NUM_CHANNELS + channels, mask=there, other=0.0)
        shift = tl.load(norms + (4 * i + 3) * NUM_CHANNELS + channels, mask=there, other=0.0)
        x = tl.load(xs[i] + offsets, mask=inside, other=0.0).to(tl.float32)
        total += x * scale[None, :] + shift[None, :]
    # A NaN stays one, as in torch's: who looks at the loss must see it.
    return tl.where(total < 0.0, 0.0, total), offsets


@triton.jit
def _stored(y, value, offsets, frames, inside, is_padding, num_frames, MASKS: tl.constexpr):
    if MASKS:
        padding = tl.load(is_padding + frames, mask=frames < num_frames, other=1) != 0
        value = tl.where(padding[:, None], 0.0, value)
    tl.store(y + offsets, value.to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["stream", "num_frames"])
def forward_kernel(
    xs,
    norms,
    is_padding,
    y,
    num_frames,
    seed,
    stream,
    scale,
    NUM: tl.constexpr,
    NUM_CHANNELS: tl.constexpr,
    MASKS: tl.constexpr,
    DROPPED: tl.constexpr,
    FRAMES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """`y` `(M, C)`: the inputs' normalised sum through ReLU, dropout and mask. A share DROPPED / 2**16 is dropped and
    the rest multiplied by `scale`; a program takes 8 times FRAMES frames, and one draw serves a frame of each. The seed
    lies on the device, so that a graph that is replayed draws anew.
    """
    channels = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    there = channels < NUM_CHANNELS
    base = tl.program_id(0) * (DRAW_GROUPS * FRAMES) + tl.arange(0, FRAMES)
    if DROPPED > 0:
        draw = (tl.program_id(0) * FRAMES + tl.arange(0, FRAMES))[:, None] * NUM_CHANNELS + channels[None, :]
        word_0, word_1, word_2, word_3 = _random_words(tl.load(seed), stream, draw)
    for group in range(DRAW_GROUPS):
        frames = base + group * FRAMES
        inside = (frames < num_frames)[:, None] & there[None, :]
        value, offsets = _activated(xs, norms, frames, channels, inside, NUM, NUM_CHANNELS)
        if DROPPED > 0:
            word = tl.where(group < 4, tl.where(group < 2, word_0, word_1), tl.where(group < 6, word_2, word_3))
            bits = tl.where(group % 2 == 0, word, word >> 16) & 0xFFFF
            value = tl.where(bits >= DROPPED, value * scale, 0.0)
        _stored(y, value, offsets, frames, inside, is_padding, num_frames, MASKS)


@triton.jit
def _passed_on(y, grad_y, offsets, inside, scale):
    """Gradient of the sum: where `y` is above zero, nothing was cut off, dropped or masked."""
    out = tl.load(y + offsets, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(grad_y + offsets, mask=inside, other=0.0).to(tl.float32)
    return tl.where(out > 0.0, grad * scale, 0.0)


@triton.jit(do_not_specialize=["num_frames"])
def reduce_kernel(
    xs,
    norms,
    y,
    grad_y,
    sums,
    num_frames,
    frames_each,
    scale,
    NUM: tl.constexpr,
    NUM_CHANNELS: tl.constexpr,
    SUMS: tl.constexpr,
    FRAMES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """`sums` `(P, NUM + 1, C)` over the frames of each of P programs: of the gradient times each normalised input, and
    of the gradient itself. SUMS is a power of two above NUM.
    """
    part = tl.program_id(0)
    channels = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    there = channels < NUM_CHANNELS
    which = tl.arange(0, SUMS)[:, None]
    total = tl.full([SUMS, CHANNELS], 0.0, tl.float32)
    first = part * frames_each
    for start in range(0, frames_each, FRAMES):
        frames = first + start + tl.arange(0, FRAMES)
        inside = ((frames < num_frames) & (frames < first + frames_each))[:, None] & there[None, :]
        offsets = frames.to(tl.int64)[:, None] * NUM_CHANNELS + channels[None, :]
        grad = _passed_on(y, grad_y, offsets, inside, scale)
        total += tl.where(which == NUM, _sum(grad)[None, :], 0.0)
        for i in tl.static_range(NUM):
            mean = tl.load(norms + 4 * i * NUM_CHANNELS + channels, mask=there, other=0.0)
            deviation = tl.load(norms + (4 * i + 1) * NUM_CHANNELS + channels, mask=there, other=0.0)
            x = tl.load(xs[i] + offsets, mask=inside, other=0.0).to(tl.float32)
            product = _sum(tl.where(inside, grad * (x - mean[None, :]), 0.0)) * deviation
            total += tl.where(which == i, product[None, :], 0.0)
    offsets = (part * (NUM + 1) + which) * NUM_CHANNELS + channels[None, :]
    tl.store(sums + offsets, total, mask=(which <= NUM) & there[None, :])


@triton.jit
def sum_kernel(
    sums,
    grad_weight,
    grad_bias,
    num_parts,
    NUM: tl.constexpr,
    NUM_CHANNELS: tl.constexpr,
    PARTS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """The parts as one: gradients of weights and biases, `(NUM, C)` both; a program for each input."""
    i = tl.program_id(1)
    channels = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    there = channels < NUM_CHANNELS
    parts = tl.arange(0, PARTS)[:, None]
    inside = (parts < num_parts) & there[None, :]
    base = sums + parts * (NUM + 1) * NUM_CHANNELS + channels[None, :]
    of_product = _sum(tl.load(base + i * NUM_CHANNELS, mask=inside, other=0.0))
    of_gradient = _sum(tl.load(base + NUM * NUM_CHANNELS, mask=inside, other=0.0))
    tl.store(grad_weight + i * NUM_CHANNELS + channels, of_product, mask=there)
    tl.store(grad_bias + i * NUM_CHANNELS + channels, of_gradient, mask=there)


@triton.jit(do_not_specialize=["num_frames"])
def backward_kernel(
    xs,
    grad_xs,
    norms,
    y,
    grad_y,
    grad_weight,
    grad_bias,
    num_valid,
    is_padding,
    num_frames,
    scale,
    NUM: tl.constexpr,
    NUM_CHANNELS: tl.constexpr,
    EXCLUDES: tl.constexpr,
    FRAMES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Gradients of the inputs, through mean and variance too."""
    frames = tl.program_id(0) * FRAMES + tl.arange(0, FRAMES)
    channels = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    there = channels < NUM_CHANNELS
    inside = (frames < num_frames)[:, None] & there[None, :]
    offsets = frames.to(tl.int64)[:, None] * NUM_CHANNELS + channels[None, :]
    count = tl.maximum(tl.load(num_valid), 1.0)
    grad = _passed_on(y, grad_y, offsets, inside, scale)
    if EXCLUDES:
        padding = tl.load(is_padding + frames, mask=frames < num_frames, other=1) != 0
    for i in tl.static_range(NUM):
        mean = tl.load(norms + 4 * i * NUM_CHANNELS + channels, mask=there, other=0.0)
        deviation = tl.load(norms + (4 * i + 1) * NUM_CHANNELS + channels, mask=there, other=0.0)
        factor = tl.load(norms + (4 * i + 2) * NUM_CHANNELS + channels, mask=there, other=0.0)
        along = tl.load(grad_weight + i * NUM_CHANNELS + channels, mask=there, other=0.0) / count
        level = tl.load(grad_bias + i * NUM_CHANNELS + channels, mask=there, other=0.0) / count
        x = tl.load(xs[i] + offsets, mask=inside, other=0.0).to(tl.float32)
        normalised = (x - mean[None, :]) * deviation[None, :]
        grad_x = factor[None, :] * (grad - level[None, :] - normalised * along[None, :])
        if EXCLUDES:
            grad_x = tl.where(padding[:, None], 0.0, grad_x)
        tl.store(grad_xs[i] + offsets, grad_x.to(grad_xs[i].dtype.element_ty), mask=inside)
