"""Connectionist temporal classification: loss, greedy decoding and what makes a target impossible."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from torch import Tensor
from torch.nn import functional


def ctc_losses(log_probs: Tensor, lengths: Tensor, labels: Tensor, label_lengths: Tensor, *, blank: int) -> Tensor:
    """Negative log-likelihood of each utterance's transcript, in nats, not divided by its length.

    Args:
        log_probs: `(B, T, V)` fp32.
        lengths: `(B,)` valid encoder frames.
        labels: `(B, U)` label ids, padded with anything.
        label_lengths: `(B,)` valid labels.
        blank: Index of the CTC blank in `V`.

    Returns:
        `(B,)` losses; infinite where the transcript needs more frames than there are (see `required_frames`).

    Source: Graves et al. 2006.
    """
    return functional.ctc_loss(
        log_probs.float().transpose(0, 1), labels, lengths, label_lengths, blank=blank, reduction="none"
    )


def greedy_decode(log_probs: Tensor, lengths: Tensor, *, blank: int) -> list[list[int]]:
    """Best-path CTC decoding: argmax per frame, merge repeats, drop blanks.

    Args:
        log_probs: `(B, T, V)` log-probabilities per encoder frame.
        lengths: `(B,)` valid encoder frames per utterance (20 ms each at stride 2).
        blank: Index of the CTC blank in `V`.

    Returns:
        `B` lists of label ids; an utterance of blanks only gives an empty list.

    Raises:
        ValueError: A length is larger than `T`.

    Source: Graves et al. 2006, "best path decoding".
    """
    num_frames = log_probs.shape[1]
    if lengths.numel() and int(lengths.max()) > num_frames:
        raise ValueError(f"length {int(lengths.max())} is larger than the {num_frames} frames of log_probs")
    return collapse_paths(log_probs.argmax(dim=2).cpu().numpy(), lengths.cpu().numpy(), blank=blank)


def collapse_paths(best: np.ndarray, lengths: np.ndarray, *, blank: int) -> list[list[int]]:
    """Merge repeats and drop blanks of `(B, T)` best labels within `(B,)` lengths.

    In numpy, whose calls cost a tenth of torch's: the arrays are small; and in bytes, where labels fit.
    """
    num_rows, num_frames = best.shape
    in_bytes = int(best.max(initial=0)) < 256
    best = best.astype(np.uint8) if in_bytes else best
    keep = best != blank
    keep[:, 1:] &= best[:, 1:] != best[:, :-1]
    keep &= np.arange(num_frames) < lengths[:, None]
    positions = np.flatnonzero(keep)
    kept = best.ravel()[positions]
    ids = list(kept.tobytes()) if in_bytes else kept.tolist()
    ends = np.searchsorted(positions, np.arange(1, num_rows + 1) * num_frames).tolist()
    return [ids[start:end] for start, end in pairwise([0, *ends])]


def required_frames(labels: Sequence[int]) -> int:
    """Encoder frames that a transcript needs: one per label and a blank between two equal neighbours."""
    return len(labels) + sum(left == right for left, right in pairwise(labels))
