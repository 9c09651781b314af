"""Whether a text gives away what a recogniser is to be judged by."""

from collections.abc import Iterable

NUM_WORDS = 6


class HeldOut:
    """Transcripts that a language model must not have read.

    Args:
        transcripts: Normalised as the text that is to be looked at.
        num_words: So many words in a row are no accident; shorter transcripts count as a whole line only.
    """

    def __init__(self, transcripts: Iterable[str], *, num_words: int = NUM_WORDS) -> None:
        self._num_words = num_words
        self._short: set[tuple[str, ...]] = set()
        self._runs: set[tuple[str, ...]] = set()
        for transcript in transcripts:
            words = tuple(transcript.split())
            if len(words) < num_words:
                self._short.add(words)
            self._runs.update(_runs(words, num_words))

    def is_in(self, line: str) -> bool:
        """Whether a line shares a run of words with one of the transcripts, or is one."""
        words = tuple(line.split())
        return words in self._short or any(run in self._runs for run in _runs(words, self._num_words))


def _runs(words: tuple[str, ...], length: int) -> Iterable[tuple[str, ...]]:
    return (words[start : start + length] for start in range(len(words) - length + 1))
