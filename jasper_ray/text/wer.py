"""Word and character errors: counts that add up, so that many workers can measure one rate."""

from collections.abc import Sequence
from dataclasses import dataclass

import jiwer


@dataclass(frozen=True)
class ErrorCounts:
    """Edits (substitutions, deletions, insertions) and reference lengths; counts of disjoint parts may be added."""

    word_edits: int = 0
    words: int = 0
    character_edits: int = 0
    characters: int = 0

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        return ErrorCounts(
            self.word_edits + other.word_edits,
            self.words + other.words,
            self.character_edits + other.character_edits,
            self.characters + other.characters,
        )

    @property
    def wer(self) -> float:
        """Word error rate as a fraction; infinite if there are edits but no reference words, 0 without either."""
        return _rate(self.word_edits, self.words)

    @property
    def cer(self) -> float:
        """Character error rate as a fraction, spaces between words counted as characters."""
        return _rate(self.character_edits, self.characters)


def count_errors(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorCounts:
    """Fewest edits that turn each reference into its hypothesis, summed over the utterances.

    Words are what spaces separate; several spaces count as one, outer ones as none. Against an empty reference every
    word and character of the hypothesis is an insertion, so that speech heard in silence is never free of charge.

    Args:
        references: Normalised transcripts.
        hypotheses: What was recognised, in the same order.

    Raises:
        ValueError: The two differ in number.
    """
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references but {len(hypotheses)} hypotheses: each utterance needs both")
    pairs = [(" ".join(r.split()), " ".join(h.split())) for r, h in zip(references, hypotheses, strict=True)]
    inserted = [hypothesis for reference, hypothesis in pairs if not reference]
    counts = ErrorCounts(word_edits=sum(len(h.split()) for h in inserted), character_edits=sum(map(len, inserted)))
    spoken = [pair for pair in pairs if pair[0]]
    if not spoken:
        return counts
    spoken_references, spoken_hypotheses = (list(texts) for texts in zip(*spoken, strict=True))
    words = jiwer.process_words(spoken_references, spoken_hypotheses)
    characters = jiwer.process_characters(spoken_references, spoken_hypotheses)
    return counts + ErrorCounts(
        word_edits=words.substitutions + words.deletions + words.insertions,
        words=words.hits + words.substitutions + words.deletions,
        character_edits=characters.substitutions + characters.deletions + characters.insertions,
        characters=characters.hits + characters.substitutions + characters.deletions,
    )


def _rate(edits: int, length: int) -> float:
    if length == 0:
        return float("inf") if edits else 0.0
    return edits / length
