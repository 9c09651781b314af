"""Words with times and confidences of whatever decoder: for reports, calibration and search results."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from jasper_ray.decoding.alignment import WordSpan, align_words
from jasper_ray.decoding.decoder import GreedyDecoder, TextDecoder, split
from jasper_ray.decoding.timing import greedy_words
from jasper_ray.text.alphabet import Alphabet


def words_of(text: str, log_probs: np.ndarray, alphabet: Alphabet, *, frame_s: float) -> list[WordSpan]:
    """When the words of a text were said; none if the text has more labels than there are frames.

    Args:
        text: In the alphabet; several spaces count as one.
        log_probs: `(T, V)` natural log-probabilities.
        alphabet: Of the model.
        frame_s: Seconds per frame.
    """
    text = " ".join(text.split())
    try:
        return align_words(log_probs, text, alphabet.encode(text), blank=alphabet.blank, frame_s=frame_s)
    except ValueError:  # a language model may write more than the frames can hold
        return []


class WordKeeper:
    """A decoder that remembers the words of every transcript it gives, in order.

    Args:
        decoder: Who decodes.
        alphabet: Of the model.
        frame_s: Seconds per encoder frame.
    """

    def __init__(self, decoder: TextDecoder, alphabet: Alphabet, *, frame_s: float) -> None:
        self._decoder = decoder
        self._alphabet = alphabet
        self._frame_s = frame_s
        self.words: list[Sequence[WordSpan]] = []

    def texts(self, log_probs: Tensor, lengths: Tensor) -> list[str]:
        """Transcripts of `(B, T, V)` log-probabilities with `(B,)` valid frames."""
        texts = self._decoder.texts(log_probs, lengths)
        if isinstance(self._decoder, GreedyDecoder):
            self.words += greedy_words(log_probs, lengths, self._alphabet, frame_s=self._frame_s)
        else:
            rows = zip(texts, split(log_probs, lengths), strict=True)
            self.words += [words_of(text, row, self._alphabet, frame_s=self._frame_s) for text, row in rows]
        return texts

    def close(self) -> None:
        """End what the decoder started."""
        self._decoder.close()
