"""N-gram language models from text: modified Kneser-Ney, interpolated, written as ARPA.

Source: Chen and Goodman 1999, "An empirical study of smoothing techniques for language modeling"; Heafield et al. 2013,
"Scalable Modified Kneser-Ney Language Model Estimation". The figures are those of KenLM's `lmplz` with the same order
and pruning. Everything lies in memory, up to 70 bytes per word and order: for billions of words take `lmplz` itself.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
MAX_ORDER = 6


@dataclass(frozen=True)
class Order:
    """The n-grams of one length, sorted by their words.

    `prefix` and `suffix` are rows of the next shorter order: all words but the last, all but the first.
    """

    words: np.ndarray
    """`(N, n)` word numbers."""
    prefix: np.ndarray
    """`(N,)`"""
    suffix: np.ndarray
    """`(N,)`"""
    log10_probs: np.ndarray
    """`(N,)` of the last word after the others."""
    log10_backoffs: np.ndarray
    """`(N,)` weight of the next shorter history where an n-gram with this one as history is missing."""
    kept: np.ndarray
    """`(N,)` whether pruning leaves it."""


@dataclass(frozen=True)
class NgramModel:
    """A back-off model: `orders[n - 1]` holds the n-grams of n words."""

    vocabulary: tuple[str, ...]
    """Words by number; `<unk>`, `<s>` and `</s>` first."""
    orders: tuple[Order, ...]

    @property
    def num_ngrams(self) -> tuple[int, ...]:
        """How many n-grams of each length were kept."""
        return tuple(int(order.kept.sum()) for order in self.orders)

    def arpa_lines(self) -> Iterator[str]:
        """The model in ARPA's format, without line ends."""
        yield "\\data\\"
        for n, count in enumerate(self.num_ngrams, 1):
            yield f"ngram {n}={count}"
        for n, order in enumerate(self.orders, 1):
            yield ""
            yield f"\\{n}-grams:"
            for row in np.flatnonzero(order.kept):
                words = " ".join(self.vocabulary[word] for word in order.words[row])
                line = f"{order.log10_probs[row]:.7g}\t{words}"
                yield line if n == len(self.orders) else f"{line}\t{order.log10_backoffs[row]:.7g}"
        yield ""
        yield "\\end\\"


def estimate_ngrams(sentences: Iterable[Sequence[str]], *, order: int, prune: Sequence[int] = ()) -> NgramModel:
    """Estimate a model.

    Args:
        sentences: Words of each sentence; for a model of characters, its characters.
        order: Longest n-gram, 1 to 6.
        prune: N-grams that occur no more often than this are dropped: a number per length from 1 on, the last one for
            all longer ones. The first is 0 (words stay), and numbers do not fall.

    Raises:
        ValueError: An argument is out of its range, a word is reserved, or there are no words; says which.
    """
    if not 1 <= order <= MAX_ORDER:
        raise ValueError(f"order must be in 1 to {MAX_ORDER}, got {order}: KenLM reads no longer n-grams")
    thresholds = [*prune, *[prune[-1] if prune else 0] * order][:order]
    if thresholds[0] != 0 or any(low > high for low, high in pairwise(thresholds)):
        raise ValueError(f"prune must begin with 0 and not fall, got {list(prune)}")
    vocabulary, words, places = _number_words(sentences)
    counted = _count(words, places, order=order, num_words=len(vocabulary))
    return NgramModel(tuple(vocabulary), tuple(_estimate(counted, thresholds, num_words=len(vocabulary))))


def _number_words(sentences: Iterable[Sequence[str]]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Vocabulary, word numbers with `<s>` and `</s>` around every sentence, and places in the sentence from 0."""
    numbers = {UNKNOWN: 0, BEGIN: 1, END: 2}
    words: list[int] = []
    places: list[int] = []
    for sentence in sentences:
        reserved = {UNKNOWN, BEGIN, END} & set(sentence)
        if reserved:
            raise ValueError(f"{min(reserved)!r} is reserved and stands in the text: {' '.join(sentence)[:80]!r}")
        if not sentence:
            continue
        words += [1, *(numbers.setdefault(word, len(numbers)) for word in sentence), 2]
        places += range(len(sentence) + 2)
    if not words:
        raise ValueError("the text holds no words")
    return list(numbers), np.array(words, dtype=np.int64), np.array(places, dtype=np.int64)


@dataclass(frozen=True)
class _Counted:
    """N-grams of one length with how often they occur."""

    words: np.ndarray
    prefix: np.ndarray
    suffix: np.ndarray
    counts: np.ndarray


def _count(words: np.ndarray, places: np.ndarray, *, order: int, num_words: int) -> list[_Counted]:
    """N-grams of every length up to `order`; those of one word are all words by their numbers."""
    singles = np.arange(num_words)
    none = np.zeros(num_words, dtype=np.int64)
    counted = [_Counted(singles[:, None], none, none, np.bincount(words, minlength=num_words))]
    rows = words  # row of the n-gram that ends at each position
    for n in range(2, order + 1):
        ends = np.flatnonzero(places >= n - 1)
        keys = rows[ends - 1] * num_words + words[ends]
        _, first, inverse, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
        prefix, suffix = rows[ends[first] - 1], rows[ends[first]]
        members = np.concatenate([counted[-1].words[prefix], words[ends[first]][:, None]], axis=1)
        counted.append(_Counted(members, prefix, suffix, counts))
        longer = np.full(len(words), -1)
        longer[ends] = inverse
        rows = longer
    return counted


def _estimate(counted: list[_Counted], thresholds: list[int], *, num_words: int) -> Iterator[Order]:
    """Probabilities from the shortest n-grams to the longest: each leans on the one before."""
    kept = [level.counts > threshold for level, threshold in zip(counted, thresholds, strict=True)]
    kept[0][:] = True
    lower = np.full(1, 1.0 / (num_words - 1))  # every word and `<unk>` alike; `<s>` is never predicted
    probs_before = lower
    for n, level in enumerate(counted):
        adjusted = _adjusted_counts(counted, n)
        discounts = _discounts(adjusted)
        taken = discounts[np.minimum(adjusted, 3)]
        contexts = len(counted[n - 1].words) if n else 1
        totals = np.bincount(level.prefix, adjusted, minlength=contexts)
        # What is taken off the kept ones and all of the dropped ones goes to the shorter history.
        freed = np.bincount(level.prefix, np.where(kept[n], taken, adjusted), minlength=contexts)
        with np.errstate(invalid="ignore"):
            weights = np.where(totals > 0, freed / np.maximum(totals, 1), 1.0)
        probs = (adjusted - taken) / np.maximum(totals[level.prefix], 1) + weights[level.prefix] * (
            probs_before[level.suffix]
        )
        if n == 0:
            probs[1] = 1.0  # the log of `<s>` is 0 by convention
        else:
            yield _order(counted[n - 1], probs_before, weights, kept[n - 1])
        probs_before = probs
    yield _order(counted[-1], probs_before, np.ones(len(probs_before)), kept[-1])


def _order(level: _Counted, probs: np.ndarray, backoffs: np.ndarray, kept: np.ndarray) -> Order:
    return Order(level.words, level.prefix, level.suffix, np.log10(probs), np.log10(backoffs), kept)


def _adjusted_counts(counted: list[_Counted], n: int) -> np.ndarray:
    """Occurrences of the longest n-grams and of those at a sentence's begin; of others, different words before them."""
    level = counted[n]
    if n == len(counted) - 1:
        adjusted = level.counts.copy()
    else:
        adjusted = np.bincount(counted[n + 1].suffix, minlength=len(level.words))
        begins = level.words[:, 0] == 1
        adjusted[begins] = level.counts[begins]
    if n == 0:
        adjusted[:2] = 0  # `<unk>` and `<s>` get what the discounts of the others free
    return adjusted


def _discounts(adjusted: np.ndarray) -> np.ndarray:
    """What is taken off counts of 0, 1, 2 and 3 or more; fixed figures where the text is too small to tell."""
    ones, twos, threes, fours = (int((adjusted == count).sum()) for count in (1, 2, 3, 4))
    if not (ones and twos and threes):
        return np.array([0.0, *FALLBACK_DISCOUNTS])
    y = ones / (ones + 2 * twos)
    found = [1 - 2 * y * twos / ones, 2 - 3 * y * threes / twos, 3 - 4 * y * fours / threes]
    if any(not 0 <= discount <= count for count, discount in enumerate(found, 1)):
        return np.array([0.0, *FALLBACK_DISCOUNTS])
    return np.array([0.0, *found])
