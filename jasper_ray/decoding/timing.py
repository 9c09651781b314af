"""When the words of a greedy transcript were said: read off the best path, without a search.

For a transcript that was not decoded greedily there is `jasper_ray.decoding.alignment`.
"""

import math

import numpy as np
import torch
from torch import Tensor

from jasper_ray.decoding.alignment import WordSpan
from jasper_ray.text.alphabet import Alphabet


def greedy_words(log_probs: Tensor, lengths: Tensor, alphabet: Alphabet, *, frame_s: float) -> list[list[WordSpan]]:
    """Words of each utterance with the frames in which their letters were the best labels.

    Args:
        log_probs: `(B, T, V)` natural log-probabilities.
        lengths: `(B,)` valid frames.
        alphabet: Of the model.
        frame_s: Seconds per frame.

    Returns:
        A list per utterance: its words are those of `greedy_decode`, in order and not overlapping. A word begins with
        the first frame of its first letter and ends with the last frame of its last one.
    """
    log_probs = log_probs.float()
    best, labels = (values.cpu().numpy() for values in torch.max(log_probs, dim=2))
    entropies = entropy_shares(log_probs).cpu().numpy()
    rows = zip(best, labels, entropies, lengths.tolist(), strict=True)
    return [
        path_words(row[:length], path[:length], entropy[:length], alphabet, frame_s)
        for row, path, entropy, length in rows
    ]


def entropy_shares(log_probs: Tensor) -> Tensor:
    """`(…, T)` entropy of each frame of `(…, T, V)` as a share of the largest there is: 0 certain, 1 guessing."""
    sums = -(log_probs.exp() * log_probs.clamp(min=-1e4)).sum(dim=-1)
    return sums / math.log(max(log_probs.shape[-1], 2))


def path_words(
    best: np.ndarray, path: np.ndarray, entropies: np.ndarray, alphabet: Alphabet, frame_s: float
) -> list[WordSpan]:
    """Words of one utterance.

    Args:
        best: `(T,)` log-probabilities of its best labels.
        path: `(T,)` these labels.
        entropies: `(T,)` of its frames.
        alphabet: Of the model.
        frame_s: Seconds per frame.
    """
    edges = np.flatnonzero(np.diff(path)) + 1
    starts = np.concatenate([[0], edges]) if len(path) else edges
    ends = np.append(edges, len(path))
    spoken = [run for run in range(len(starts)) if path[starts[run]] != alphabet.blank]
    text = alphabet.decode(path[starts[run]] for run in spoken)
    words, position = [], 0
    for word in text.split(" "):
        runs = spoken[position : position + len(word)]
        position += len(word) + 1
        if runs:
            # As `align_words`: the geometric mean over letters of a letter's mean probability in its frames.
            means = [float(np.exp(best[starts[run] : ends[run]]).mean()) for run in runs]
            confidence = min(float(np.exp(np.mean(np.log(np.maximum(means, 1e-10))))), 1.0)
            start, end = starts[runs[0]], ends[runs[-1]]
            entropy = float(entropies[start:end].mean())
            words.append(WordSpan(word, float(start * frame_s), float(end * frame_s), confidence, entropy))
    return words
