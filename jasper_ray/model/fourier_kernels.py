"""Rows of frames to the time axis of tiles and back, and kernels to their spectra and back, for NVIDIA GPUs in Triton;
`fourier_triton.py` launches them.

The axis of a tiling has `dilation` rows of `row` frames for each row of frames: those that a dilated kernel sees
together lie next to each other. A program moves FRAMES frames of CHANNELS channels.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_inner", "num_frames", "row", "lead", "num_axis"])
def lay_out_kernel(
    x,
    axis,
    num_inner,
    num_axis,
    num_frames,
    channels,
    row_pitch,
    frame_pitch,
    row,
    lead,
    DILATION: tl.constexpr,
    FRAMES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """`axis` `(num_axis, C)` from `x` `(R, T, C)`: `lead` frames, `num_inner` of rows and what is between them, and
    more; zero where no frame is.
    """
    numbers = tl.program_id(0) * FRAMES + tl.arange(0, FRAMES)
    columns = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inner = numbers - lead
    axis_row = inner // row
    frames = (inner - axis_row * row) * DILATION + axis_row % DILATION
    is_frame = (inner >= 0) & (inner < num_inner) & (frames < num_frames)
    there = (columns < channels)[None, :]
    source = (axis_row // DILATION).to(tl.int64) * row_pitch + frames.to(tl.int64) * frame_pitch
    values = tl.load(x + source[:, None] + columns[None, :], mask=is_frame[:, None] & there, other=0.0)
    target = axis + numbers.to(tl.int64)[:, None] * channels + columns[None, :]
    tl.store(target, values.to(axis.dtype.element_ty), mask=(numbers < num_axis)[:, None] & there)


@triton.jit(do_not_specialize=["num_outputs", "num_frames", "row", "lead", "hop", "overlap", "pitch"])
def take_back_kernel(
    axis,
    behind,
    y,
    num_outputs,
    num_frames,
    channels,
    row,
    lead,
    hop,
    overlap,
    pitch,
    DILATION: tl.constexpr,
    ADDS: tl.constexpr,
    FRAMES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """`y` `(R * T, C)` from an axis `(tiles * hop, C)` whose rows begin at `lead`.

    With ADDS, a tile's first `overlap` frames are added to by those of the tile before, `behind` `(tiles, pitch, C)`.
    """
    numbers = tl.program_id(0) * FRAMES + tl.arange(0, FRAMES)
    columns = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    rows = numbers // num_frames
    frames = numbers - rows * num_frames
    places = lead + (rows * DILATION + frames % DILATION) * row + frames // DILATION
    inside = (numbers < num_outputs)[:, None] & (columns < channels)[None, :]
    values = tl.load(axis + places.to(tl.int64)[:, None] * channels + columns[None, :], mask=inside, other=0.0)
    if ADDS:
        tiles = places // hop
        within = places - tiles * hop
        reached = ((tiles > 0) & (within < overlap))[:, None]
        others = ((tiles - 1) * pitch + within).to(tl.int64)[:, None] * channels + columns[None, :]
        added = tl.load(behind + others, mask=inside & reached, other=0.0)
        values = values.to(tl.float32) + added.to(tl.float32)
    target = y + numbers.to(tl.int64)[:, None] * channels + columns[None, :]
    tl.store(target, values.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _of_taps(taps, rows, numbers, ROWS: tl.constexpr, KERNEL: tl.constexpr, PITCH: tl.constexpr):
    """Some rows of the matrix of taps `(ROWS, PITCH)`, zeros beyond it."""
    there = (rows < ROWS)[:, None] & (numbers < KERNEL)[None, :]
    return tl.load(taps + rows[:, None] * PITCH + numbers[None, :], mask=there, other=0.0)


@triton.jit
def to_factors_kernel(
    weight,
    taps,
    factors,
    num_pairs,
    ROWS: tl.constexpr,
    KERNEL: tl.constexpr,
    PITCH: tl.constexpr,
    BLOCK: tl.constexpr,
    TAPS: tl.constexpr,
    PAIRS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """`factors` `(ROWS, num_pairs)` from `weight` `(num_pairs, KERNEL)`, a kernel for each pair of channels."""
    pairs = tl.program_id(0) * PAIRS + tl.arange(0, PAIRS)
    numbers = tl.arange(0, TAPS)
    there = pairs < num_pairs
    inside = there[:, None] & (numbers < KERNEL)[None, :]
    given = tl.load(weight + pairs.to(tl.int64)[:, None] * KERNEL + numbers[None, :], mask=inside, other=0.0)
    given = tl.trans(given.to(factors.dtype.element_ty))
    for first in range(0, ROWS, BLOCK):
        rows = first + tl.arange(0, BLOCK)
        matrix = _of_taps(taps, rows, numbers, ROWS, KERNEL, PITCH)
        values = tl.dot(matrix, given, input_precision=PRECISION)
        target = factors + rows.to(tl.int64)[:, None] * num_pairs + pairs[None, :]
        tl.store(target, values.to(factors.dtype.element_ty), mask=(rows < ROWS)[:, None] & there[None, :])


@triton.jit
def from_factors_kernel(
    by_row,
    taps,
    grad,
    num_pairs,
    ROWS: tl.constexpr,
    KERNEL: tl.constexpr,
    PITCH: tl.constexpr,
    BLOCK: tl.constexpr,
    TAPS: tl.constexpr,
    PAIRS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """`grad` `(num_pairs, KERNEL)` from the gradients of the factors `(ROWS, num_pairs)`."""
    pairs = tl.program_id(0) * PAIRS + tl.arange(0, PAIRS)
    numbers = tl.arange(0, TAPS)
    there = pairs < num_pairs
    total = tl.full([PAIRS, TAPS], 0.0, tl.float32)
    for first in range(0, ROWS, BLOCK):
        rows = first + tl.arange(0, BLOCK)
        source = by_row + rows.to(tl.int64)[:, None] * num_pairs + pairs[None, :]
        values = tl.load(source, mask=(rows < ROWS)[:, None] & there[None, :], other=0.0)
        matrix = _of_taps(taps, rows, numbers, ROWS, KERNEL, PITCH)
        total = tl.dot(tl.trans(values), matrix, total, input_precision=PRECISION)
    target = grad + pairs.to(tl.int64)[:, None] * KERNEL + numbers[None, :]
    tl.store(target, total.to(grad.dtype.element_ty), mask=there[:, None] & (numbers < KERNEL)[None, :])
