"""CTC's recursions for NVIDIA GPUs in Triton; `ctc_triton.py` launches them, and imports this only then.

An utterance of L labels has L + 1 blanks around them, so a lane holds a blank and the label after it: lane u of 0 to L
is blank u and label u (lane L has no label). One program goes through all frames of an utterance; a frame needs one
exchange between neighbouring lanes. Every sum has a fixed order and nothing is added atomically: equal inputs give
equal bits. Scores are natural logarithms in fp32, minus infinity for what is impossible.
"""

import triton
import triton.language as tl

IMPOSSIBLE = tl.constexpr(float("-inf"))


@triton.jit
def _log_add(left, right):
    """log(exp(left) + exp(right)), minus infinity where both are."""
    larger = tl.maximum(left, right)
    # Minus infinity minus itself would be NaN; a true NaN stays one.
    base = tl.where(larger == IMPOSSIBLE, 0.0, larger)
    return base + tl.log(tl.exp(left - base) + tl.exp(right - base))


@triton.jit
def _from_left(scores, lanes):
    """Each lane's left neighbour; nothing is left of lane 0."""
    return tl.where(lanes > 0, tl.gather(scores, tl.maximum(lanes - 1, 0), 0), IMPOSSIBLE)


@triton.jit
def _from_right(scores, lanes, LANES: tl.constexpr):
    """Each lane's right neighbour; nothing is right of the last lane."""
    return tl.where(lanes < LANES - 1, tl.gather(scores, tl.minimum(lanes + 1, LANES - 1), 0), IMPOSSIBLE)


@triton.jit
def _clamped(pointer, row, highest):
    """A length, kept inside the memory there is."""
    return tl.minimum(tl.maximum(tl.load(pointer + row).to(tl.int32), 0), highest)


@triton.jit
def _utterance(lengths, labels, label_lengths, num_frames, max_labels, vocabulary, LANES: tl.constexpr):
    """A program's row, lanes, frames and labels; each lane's label, whether it can be read, and whether it may follow
    the one before without a blank.
    """
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, LANES)
    num_labels = _clamped(label_lengths, row, max_labels)
    there = lanes < num_labels
    start = labels + row * max_labels
    ids = tl.load(start + lanes, mask=there, other=-1).to(tl.int32)
    before = tl.load(start + lanes - 1, mask=there & (lanes > 0), other=-1).to(tl.int32)
    # An id outside the vocabulary is never read: no frame can have it, so its utterance's loss is infinite.
    readable = there & (ids >= 0) & (ids < vocabulary)
    follows = there & (lanes > 0) & (ids != before)
    return row, lanes, _clamped(lengths, row, num_frames), num_labels, ids, readable, follows


@triton.jit
def forward_kernel(
    log_probs,
    lengths,
    labels,
    label_lengths,
    losses,
    scores,
    num_frames,
    max_labels,
    vocabulary,
    blank,
    KEEP: tl.constexpr,
    LANES: tl.constexpr,
):
    """Losses `(B,)`; with KEEP also scores `(B, T, 2, U + 1)`: of all paths to a blank or label, at a frame."""
    row, lanes, length, num_labels, ids, readable, follows = _utterance(
        lengths, labels, label_lengths, num_frames, max_labels, vocabulary, LANES
    )
    frame = log_probs + row * num_frames * vocabulary
    kept = scores + row * num_frames * 2 * (max_labels + 1) + lanes
    # Before the first frame only the first blank has been reached: then every frame is like any other.
    at_blank = tl.where(lanes == 0, 0.0, IMPOSSIBLE)
    at_label = tl.full([LANES], IMPOSSIBLE, tl.float32)
    for _ in range(0, length):
        blank_score = tl.load(frame + blank)
        label_scores = tl.load(frame + ids, mask=readable, other=IMPOSSIBLE)
        left = _from_left(at_label, lanes)
        entered = _log_add(at_blank, tl.where(follows, left, IMPOSSIBLE))
        at_blank = _log_add(at_blank, left) + blank_score
        at_label = _log_add(at_label, entered) + label_scores
        if KEEP:
            tl.store(kept, at_blank, mask=lanes <= num_labels)
            tl.store(kept + max_labels + 1, at_label, mask=lanes < num_labels)
            kept += 2 * (max_labels + 1)
        frame += vocabulary
    total = _log_add(at_blank, _from_left(at_label, lanes))
    tl.store(losses + row + lanes * 0, 0.0 - total, mask=lanes == num_labels)


@triton.jit
def backward_kernel(
    log_probs,
    lengths,
    labels,
    label_lengths,
    scores,
    num_frames,
    max_labels,
    vocabulary,
    blank,
    LANES: tl.constexpr,
):
    """Adds to `forward_kernel`'s scores those of all ways on from there: of all paths through it."""
    row, lanes, length, num_labels, ids, readable, follows = _utterance(
        lengths, labels, label_lengths, num_frames, max_labels, vocabulary, LANES
    )
    frame = log_probs + (row * num_frames + length) * vocabulary
    kept = scores + (row * num_frames + length) * 2 * (max_labels + 1) + lanes
    from_blank = tl.where(lanes == num_labels, 0.0, IMPOSSIBLE)
    from_label = tl.where(lanes == num_labels - 1, 0.0, IMPOSSIBLE)
    for _ in range(0, length):
        frame -= vocabulary
        kept -= 2 * (max_labels + 1)
        to_blank = tl.load(kept, mask=lanes <= num_labels, other=IMPOSSIBLE)
        to_label = tl.load(kept + max_labels + 1, mask=lanes < num_labels, other=IMPOSSIBLE)
        tl.store(kept, to_blank + from_blank, mask=lanes <= num_labels)
        tl.store(kept + max_labels + 1, to_label + from_label, mask=lanes < num_labels)
        at_blank = from_blank + tl.load(frame + blank)
        at_label = from_label + tl.load(frame + ids, mask=readable, other=IMPOSSIBLE)
        entered = _log_add(at_blank, tl.where(follows, at_label, IMPOSSIBLE))
        from_blank = _log_add(at_blank, at_label)
        from_label = _log_add(at_label, _from_right(entered, lanes, LANES))


@triton.jit
def gradient_kernel(
    lengths,
    labels,
    label_lengths,
    scores,
    gradient,
    num_frames,
    max_labels,
    vocabulary,
    blank,
    FRAMES: tl.constexpr,
    IDS: tl.constexpr,
):
    """Gradient `(B, T, V)` of each loss: minus the share of the paths that have label v at frame t.

    A program per utterance, FRAMES frames and IDS label ids. Where no path is possible it is NaN; beyond the length 0.
    """
    row = tl.program_id(0).to(tl.int64)
    frames = tl.program_id(1) * FRAMES + tl.arange(0, FRAMES)
    ids = tl.program_id(2) * IDS + tl.arange(0, IDS)
    num_labels = _clamped(label_lengths, row, max_labels)
    valid = frames < _clamped(lengths, row, num_frames)
    at_blank = scores + (row * num_frames + frames) * 2 * (max_labels + 1)
    at_label = at_blank + max_labels + 1
    # Shares are of the frame's own sum, not of the loss: what rounding added up to over the frames cancels.
    best = tl.load(at_blank + num_labels, mask=valid, other=IMPOSSIBLE)
    for lane in range(0, num_labels):
        best = tl.maximum(best, tl.load(at_blank + lane, mask=valid, other=IMPOSSIBLE))
        best = tl.maximum(best, tl.load(at_label + lane, mask=valid, other=IMPOSSIBLE))
    best = tl.where(best == IMPOSSIBLE, 0.0, best)
    blanks = tl.exp(tl.load(at_blank + num_labels, mask=valid, other=IMPOSSIBLE) - best)
    total = blanks
    shares = tl.full([FRAMES, IDS], 0.0, tl.float32)
    for lane in range(0, num_labels):
        of_blank = tl.exp(tl.load(at_blank + lane, mask=valid, other=IMPOSSIBLE) - best)
        of_label = tl.exp(tl.load(at_label + lane, mask=valid, other=IMPOSSIBLE) - best)
        blanks += of_blank
        total += of_blank + of_label
        label = tl.load(labels + row * max_labels + lane).to(tl.int32)
        shares += tl.where(ids[None, :] == label, of_label[:, None], 0.0)
    shares += tl.where(ids[None, :] == blank, blanks[:, None], 0.0)
    result = tl.where(valid[:, None], 0.0 - shares / total[:, None], 0.0)
    inside = (frames < num_frames)[:, None] & (ids < vocabulary)[None, :]
    tl.store(gradient + (row * num_frames + frames)[:, None] * vocabulary + ids[None, :], result, mask=inside)
