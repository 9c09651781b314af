"""What a folded model computes around its products, for NVIDIA GPUs in Triton; `epilogue.py` launches it.

Activations are rows `(R * T, C)`: frame t of utterance r is row r * T + t. Channels are next to each other in memory,
so neighbouring threads read and write neighbouring ones, 16 bytes each where C is a multiple of 16. Arithmetic is in
fp32. Padding is what lies behind an utterance's length; nothing is read there, and zeros are written.
"""

import triton
import triton.language as tl


# Triton's own `sum`, `max` and `cdiv` cannot be interpreted where Triton was imported to compile.
@triton.jit
def _larger(left, right):
    return tl.maximum(left, right)


@triton.jit
def _plus(left, right):
    return left + right


@triton.jit
def rows_kernel(features, lengths, rows, num_mels, num_frames, FRAMES: tl.constexpr, MELS: tl.constexpr):
    """Features `(R, F, T)` to rows `(R * T, F)`: a program per utterance, FRAMES frames and MELS mel bins."""
    utterance = tl.program_id(0).to(tl.int64)
    frames = tl.program_id(1) * FRAMES + tl.arange(0, FRAMES)
    mels = tl.program_id(2) * MELS + tl.arange(0, MELS)
    valid = (frames < tl.load(lengths + utterance)) & (frames < num_frames)
    there = (mels < num_mels)[:, None]
    start = utterance * num_mels * num_frames
    source = features + start + mels[:, None] * num_frames + frames[None, :]
    values = tl.load(source, mask=there & valid[None, :], other=0)
    target = rows + start + frames[None, :] * num_mels + mels[:, None]
    tl.store(target, values.to(rows.dtype.element_ty), mask=there & (frames < num_frames)[None, :])


@triton.jit(do_not_specialize=["num_parts", "num_rows", "num_frames"])
def epilogue_kernel(
    rows,
    bias,
    lengths,
    copy,
    parts,
    num_parts,
    num_rows,
    num_frames,
    channels,
    copy_pitch,
    frame_step,
    lower,
    upper,
    COPIES: tl.constexpr,
    PARTS: tl.constexpr,
    ADDS: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Rows `(R * T, C)` in place: the bias is added, the non-linearity's bounds hold, padding is zero.

    With PARTS the values are the sum of up to so many parts `(num_parts, R * T, C)` in float32, and with ADDS that of
    the rows too. With COPIES the same goes into `copy`, whose rows begin `copy_pitch` apart. A program has ROWS rows
    and CHANNELS channels; the programs of the same rows are neighbours.
    """
    blocks = (channels + CHANNELS - 1) // CHANNELS
    numbers = tl.program_id(0) // blocks * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(0) % blocks * CHANNELS + tl.arange(0, CHANNELS)
    utterances = numbers // num_frames
    length = tl.load(lengths + utterances, mask=numbers < num_rows, other=0)
    valid = ((numbers - utterances * num_frames) * frame_step < length)[:, None]
    inside = (numbers < num_rows)[:, None] & (columns < channels)[None, :]
    numbers = numbers.to(tl.int64)[:, None]
    at = rows + numbers * channels + columns[None, :]
    read = inside & valid
    values = tl.full([ROWS, CHANNELS], 0.0, tl.float32)
    if ADDS:
        values += tl.load(at, mask=read, other=0).to(tl.float32)
    for part in tl.static_range(PARTS):
        part_rows = part * num_rows.to(tl.int64) + numbers
        there = read & (part < num_parts)
        values += tl.load(parts + part_rows * channels + columns[None, :], mask=there, other=0)
    values += tl.load(bias + columns, mask=columns < channels, other=0)[None, :]
    values = tl.maximum(values, lower, propagate_nan=tl.PropagateNan.ALL)
    values = tl.minimum(values, upper, propagate_nan=tl.PropagateNan.ALL)
    result = tl.where(valid, values, 0.0).to(rows.dtype.element_ty)
    tl.store(at, result, mask=inside)
    if COPIES:
        tl.store(copy + numbers * copy_pitch + columns[None, :], result, mask=inside)


@triton.jit(do_not_specialize=["num_rows"])
def log_softmax_kernel(scores, bias, log_probs, num_rows, num_labels, pitch, ROWS: tl.constexpr, LABELS: tl.constexpr):
    """Scores whose rows begin `pitch` apart, and a bias, to log-probabilities `(R * T, V)` in fp32."""
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    labels = tl.arange(0, LABELS)
    inside = (rows < num_rows) & (labels < num_labels)[None, :]
    values = tl.load(scores + rows * pitch + labels[None, :], mask=inside, other=0).to(tl.float32)
    values += tl.load(bias + labels, mask=labels < num_labels, other=0)[None, :]
    values = tl.where((labels < num_labels)[None, :], values, float("-inf"))
    values -= tl.reduce(values, 1, _larger)[:, None]
    values -= tl.log(tl.reduce(tl.exp(values), 1, _plus))[:, None]
    tl.store(log_probs + rows * num_labels + labels[None, :], values, mask=inside)
