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
def sum_of_frames(values):
    """Over the first axis. Triton's own `sum` cannot be interpreted where Triton was imported to compile."""
    return tl.reduce(values, 0, _plus)


@triton.jit
def _tiles(x, first, num_frames, channels, NUM_CHANNELS: tl.constexpr, GROUPS: tl.constexpr, FRAMES: tl.constexpr):
    """GROUPS tiles of FRAMES frames each, one below the other; zeros where there is nothing.

    Loads that stand together, before their values are used, are under way together: the compiler leaves their order.
    """
    tiles = ()  # type: tuple[tl.tensor, ...]
    frames = tl.arange(0, FRAMES)[:, None]
    for group in tl.static_range(GROUPS):
        inside = (first + group * FRAMES + frames < num_frames) & (channels < NUM_CHANNELS)[None, :]
        # What grows large is one number, in 64 bits.
        start = x + (first + group * FRAMES).to(tl.int64) * NUM_CHANNELS
        tiles += (tl.load(start + (frames * NUM_CHANNELS + channels[None, :]), mask=inside, other=0.0),)
    return tiles


@triton.jit
def _are_valid(is_padding, first, num_frames, EXCLUDES: tl.constexpr, GROUPS: tl.constexpr, FRAMES: tl.constexpr):
    """For each of GROUPS tiles `(FRAMES,)`: whether frames count."""
    tiles = ()  # type: tuple[tl.tensor, ...]
    for group in tl.static_range(GROUPS):
        frames = first + group * FRAMES + tl.arange(0, FRAMES)
        valid = frames < num_frames
        if EXCLUDES:
            valid = tl.load(is_padding + frames, mask=valid, other=1) == 0
        tiles += (valid,)
    return tiles


@triton.jit(do_not_specialize=["num_frames"])
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
    GROUPS: tl.constexpr,
    FRAMES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Counts `(P,)`, means `(P, C)` and sums of squares around them `(P, C)` of the frames of each of P programs."""
    part = tl.program_id(0)
    channels = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    there = channels < NUM_CHANNELS
    first = part * frames_each
    # Around a frame of the data, for a difference of large sums would lose a small variance around a large mean.
    known = first < num_frames
    if EXCLUDES:
        known = known & (tl.load(is_padding + first, mask=known, other=1) == 0)
    shift = tl.load(x + first.to(tl.int64) * NUM_CHANNELS + channels, mask=there & known, other=0.0).to(tl.float32)
    counted = tl.full([FRAMES], 0.0, tl.float32)
    total = tl.full([FRAMES, CHANNELS], 0.0, tl.float32)
    squared = tl.full([FRAMES, CHANNELS], 0.0, tl.float32)
    for start in range(0, frames_each, GROUPS * FRAMES):
        # Padding is loaded too: to load what is none would wait until it is known.
        tiles = _tiles(x, first + start, num_frames, channels, NUM_CHANNELS, GROUPS, FRAMES)
        valid = _are_valid(is_padding, first + start, num_frames, EXCLUDES, GROUPS, FRAMES)
        for group in tl.static_range(GROUPS):
            apart = tl.where(valid[group][:, None], tiles[group].to(tl.float32) - shift[None, :], 0.0)
            counted += valid[group].to(tl.float32)
            total += apart
            squared += apart * apart
    count = sum_of_frames(counted)
    of_apart = sum_of_frames(total)
    step = of_apart / tl.maximum(count, 1.0)
    square = sum_of_frames(squared) - of_apart * step
    tl.store(counts + part + channels * 0, tl.full([CHANNELS], 0.0, tl.float32) + count, mask=channels == 0)
    tl.store(means + part * NUM_CHANNELS + channels, shift + step, mask=there)
    tl.store(squares + part * NUM_CHANNELS + channels, tl.where(square < 0.0, 0.0, square), mask=there)


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
    part_squares = tl.load(squares + offsets, mask=inside, other=0.0)
    weights = tl.load(weight + channels, mask=there, other=0.0)
    biases = tl.load(bias + channels, mask=there, other=0.0)
    total = sum_of_frames(count)
    known = tl.maximum(total, 1.0)
    mean = sum_of_frames(part_means * count[:, None]) / known
    apart = part_means - mean[None, :]
    squared = part_squares + apart * apart * count[:, None]
    square = sum_of_frames(tl.where(inside, squared, 0.0))
    deviation = 1.0 / tl.sqrt(square / known + eps)
    scale = weights * deviation
    shift = biases - mean * scale
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
def _drawn(seed, stream, tile, channels, NUM_CHANNELS: tl.constexpr):
    """Random words for the elements of this program's tiles, of which this is one."""
    frames = tl.program_id(0) * tile.shape[0] + tl.arange(0, tile.shape[0])
    # Zeros that the compiler lays out as the tile, and the draws with them; else it would draw in another layout and
    # exchange every bit through shared memory. They cost nothing: it finds out that they are zeros, but later.
    if tile.dtype.primitive_bitwidth == 16:
        zeros = tile.to(tl.uint16, bitcast=True).to(tl.uint32) >> 16
    else:
        zeros = tile.to(tl.uint32, bitcast=True).to(tl.uint64) >> 32
    return _random_words(tl.load(seed), stream, frames[:, None] * NUM_CHANNELS + channels[None, :] + zeros.to(tl.int32))


@triton.jit
def _normalised(values, norm, channels, there, NUM_CHANNELS: tl.constexpr):
    """Values by scale and shift of one of the `norms`."""
    factor = tl.load(norm + 2 * NUM_CHANNELS + channels, mask=there, other=0.0)
    shift = tl.load(norm + 3 * NUM_CHANNELS + channels, mask=there, other=0.0)
    return values * factor[None, :] + shift[None, :]


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
    NUM_NORMS: tl.constexpr,
    NUM_CHANNELS: tl.constexpr,
    MASKS: tl.constexpr,
    DROPPED: tl.constexpr,
    GROUPS: tl.constexpr,
    FRAMES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """`y` `(M, C)`: the sum of NUM inputs, the first NUM_NORMS normalised, through ReLU, dropout and mask. A share
    DROPPED / 2**16 is dropped and the rest multiplied by `scale`; a program takes 8 times FRAMES frames, and one draw
    serves a frame of each. The seed lies on the device, so that a graph that is replayed draws anew.
    """
    channels = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    there = channels < NUM_CHANNELS
    base = tl.program_id(0) * (DRAW_GROUPS * FRAMES)
    if DROPPED > 0 and GROUPS < DRAW_GROUPS:
        tile = _tiles(xs[0], base, num_frames, channels, NUM_CHANNELS, 1, FRAMES)[0]
        word_0, word_1, word_2, word_3 = _drawn(seed, stream, tile, channels, NUM_CHANNELS)
    for start in range(0, DRAW_GROUPS, GROUPS):
        first = base + start * FRAMES
        inputs = ()  # type: tuple[tl.tensor, ...]
        for i in tl.static_range(NUM):
            inputs += (_tiles(xs[i], first, num_frames, channels, NUM_CHANNELS, GROUPS, FRAMES),)
        kept = _are_valid(is_padding, first, num_frames, MASKS, GROUPS, FRAMES)
        if DROPPED > 0 and GROUPS == DRAW_GROUPS:  # while the only loads are under way
            word_0, word_1, word_2, word_3 = _drawn(seed, stream, inputs[0][0], channels, NUM_CHANNELS)
        results = ()  # type: tuple[tl.tensor, ...]
        for group in tl.static_range(GROUPS):
            for i in tl.static_range(NUM):
                term = inputs[i][group].to(tl.float32)
                if i < NUM_NORMS:
                    term = _normalised(term, norms + 4 * i * NUM_CHANNELS, channels, there, NUM_CHANNELS)
                if i == 0:
                    value = term
                else:
                    value += term
            # A NaN stays one, as in torch's: who looks at the loss must see it.
            value = tl.where(value < 0.0, 0.0, value)
            if DROPPED > 0:
                draws = start + group
                word = tl.where(draws < 4, tl.where(draws < 2, word_0, word_1), tl.where(draws < 6, word_2, word_3))
                bits = tl.where(draws % 2 == 0, word, word >> 16) & 0xFFFF
                value = tl.where((bits >= DROPPED) & kept[group][:, None], value * scale, 0.0)
            elif MASKS:
                value = tl.where(kept[group][:, None], value, 0.0)
            results += (value.to(y.dtype.element_ty),)
        for group in tl.static_range(GROUPS):
            frames = first + group * FRAMES + tl.arange(0, FRAMES)[:, None]
            offsets = frames.to(tl.int64) * NUM_CHANNELS + channels[None, :]
            tl.store(y + offsets, results[group], mask=(frames < num_frames) & there[None, :])


@triton.jit
def _passed_on(out, grad, scale):
    """Gradient of the sum: where the output is above zero, nothing was cut off, dropped or masked."""
    return tl.where(out.to(tl.float32) > 0.0, grad.to(tl.float32) * scale, 0.0)


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
    GROUPS: tl.constexpr,
    FRAMES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """`sums` `(P, NUM + 1, C)` over the frames of each of P parts: of the gradient times each normalised input, and of
    the gradient itself. A program for each input; those of a part are neighbours and share `y` and `grad_y` in the
    cache.
    """
    i = tl.program_id(0)
    part = tl.program_id(1)
    channels = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    there = channels < NUM_CHANNELS
    x = xs[0]
    for k in tl.static_range(1, NUM):
        x = tl.where(i == k, xs[k], x)
    mean = tl.load(norms + 4 * i * NUM_CHANNELS + channels, mask=there, other=0.0)
    deviation = tl.load(norms + (4 * i + 1) * NUM_CHANNELS + channels, mask=there, other=0.0)
    of_product = tl.full([FRAMES, CHANNELS], 0.0, tl.float32)
    of_gradient = tl.full([FRAMES, CHANNELS], 0.0, tl.float32)
    first = part * frames_each
    for start in range(0, frames_each, GROUPS * FRAMES):
        values = _tiles(x, first + start, num_frames, channels, NUM_CHANNELS, GROUPS, FRAMES)
        outs = _tiles(y, first + start, num_frames, channels, NUM_CHANNELS, GROUPS, FRAMES)
        grads = _tiles(grad_y, first + start, num_frames, channels, NUM_CHANNELS, GROUPS, FRAMES)
        for group in tl.static_range(GROUPS):
            grad = _passed_on(outs[group], grads[group], scale)
            of_product += grad * (values[group].to(tl.float32) - mean[None, :])
            of_gradient += grad
    target = sums + part * (NUM + 1) * NUM_CHANNELS + channels
    tl.store(target + i * NUM_CHANNELS, sum_of_frames(of_product) * deviation, mask=there)
    if i == 0:
        tl.store(target + NUM * NUM_CHANNELS, sum_of_frames(of_gradient), mask=there)


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
    of_product = tl.load(base + i * NUM_CHANNELS, mask=inside, other=0.0)
    of_gradient = tl.load(base + NUM * NUM_CHANNELS, mask=inside, other=0.0)
    tl.store(grad_weight + i * NUM_CHANNELS + channels, sum_of_frames(of_product), mask=there)
    tl.store(grad_bias + i * NUM_CHANNELS + channels, sum_of_frames(of_gradient), mask=there)


@triton.jit(do_not_specialize=["num_frames"])
def backward_kernel(
    xs,
    grad_xs,
    grad_added,
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
    ADDS: tl.constexpr,
    FRAMES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Gradients of the inputs, through mean and variance too; with ADDS also of what was added as it is."""
    frames = tl.program_id(0) * FRAMES + tl.arange(0, FRAMES)
    channels = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    there = channels < NUM_CHANNELS
    inside = (frames < num_frames)[:, None] & there[None, :]
    offsets = frames.to(tl.int64)[:, None] * NUM_CHANNELS + channels[None, :]
    count = tl.maximum(tl.load(num_valid), 1.0)
    out = tl.load(y + offsets, mask=inside, other=0.0)
    grad = _passed_on(out, tl.load(grad_y + offsets, mask=inside, other=0.0), scale)
    if ADDS:
        tl.store(grad_added + offsets, grad.to(grad_added.dtype.element_ty), mask=inside)
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
