"""Which words of a transcript that is still growing will stay.

Every look at an utterance that goes on gives a new transcript of all of it. Its last words change with what follows;
those that two looks in a row agree on, and that lie some way back, hardly ever do.
"""

from collections.abc import Sequence
from itertools import takewhile

from jasper_ray.decoding.alignment import WordSpan

SETTLED_S = 0.8
"""A word that ended so long before the end of what was heard may become stable."""


class StableWords:
    """The words of one utterance that stay, and those that may change; what is stable never changes or disappears."""

    def __init__(self) -> None:
        self.stable: tuple[WordSpan, ...] = ()
        self.tail: tuple[WordSpan, ...] = ()

    def look(self, words: Sequence[WordSpan], heard_s: float) -> tuple[WordSpan, ...]:
        """Take the transcript of all that has been heard.

        Args:
            words: Of the utterance from its beginning.
            heard_s: Length of what was transcribed.

        Returns:
            The words that became stable by it.
        """
        tail = self._behind_stable(words)
        agreed = takewhile(lambda pair: pair[0].word == pair[1].word, zip(tail, self.tail, strict=False))
        new = tuple(takewhile(lambda word: word.end_s <= heard_s - SETTLED_S, (pair[0] for pair in agreed)))
        self.stable += new
        self.tail = tail[len(new) :]
        return new

    def rest(self, words: Sequence[WordSpan]) -> tuple[WordSpan, ...] | None:
        """What the last transcript adds to the stable words; None if it contradicts them."""
        own = len(self.stable)
        if [word.word for word in words[:own]] != [word.word for word in self.stable]:
            return None
        return tuple(words[own:])

    def _behind_stable(self, words: Sequence[WordSpan]) -> tuple[WordSpan, ...]:
        rest = self.rest(words)
        if rest is not None:
            return rest
        end_s = self.stable[-1].end_s  # it reads differently now: what was said after the last stable word
        return tuple(word for word in words if (word.start_s + word.end_s) / 2 > end_s)
