"""Which words and characters went wrong: the edits that turn references into hypotheses, one by one."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import jiwer
import numpy as np

Kind = Literal["equal", "substitute", "delete", "insert"]


@dataclass(frozen=True)
class Edit:
    """A piece of an alignment: equal words, or words that went wrong."""

    kind: Kind
    reference: tuple[str, ...]
    hypothesis: tuple[str, ...]


@dataclass(frozen=True)
class EditTable:
    """Edits of many utterances; row i of every array is utterance i."""

    hits: np.ndarray
    substitutions: np.ndarray
    deletions: np.ndarray
    insertions: np.ndarray
    substituted: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often a unit of a reference (first) became another (second)."""
    deleted: Counter[str] = field(default_factory=Counter)
    inserted: Counter[str] = field(default_factory=Counter)

    @property
    def edits(self) -> np.ndarray:
        """`(N,)` edits per utterance."""
        total: np.ndarray = self.substitutions + self.deletions + self.insertions
        return total

    @property
    def lengths(self) -> np.ndarray:
        """`(N,)` units of each reference."""
        total: np.ndarray = self.hits + self.substitutions + self.deletions
        return total


def word_edits(reference: str, hypothesis: str) -> list[Edit]:
    """The alignment of two texts word by word; of equally short ones, jiwer's."""
    return _edits(reference.split(), hypothesis.split())


def count_edits(references: Sequence[str], hypotheses: Sequence[str], *, characters: bool = False) -> EditTable:
    """Edits of every utterance and what became of what.

    Words are what spaces separate. As characters count those of the texts with single spaces between words.

    Raises:
        ValueError: There are more of one than of the other.
    """
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references but {len(hypotheses)} hypotheses: each utterance needs both")
    counts = {kind: np.zeros(len(references), dtype=np.int64) for kind in ("equal", "substitute", "delete", "insert")}
    substituted: Counter[tuple[str, str]] = Counter()
    deleted: Counter[str] = Counter()
    inserted: Counter[str] = Counter()
    for row, (reference, hypothesis) in enumerate(zip(references, hypotheses, strict=True)):
        wanted, found = reference.split(), hypothesis.split()
        if wanted == found:
            counts["equal"][row] = len(" ".join(wanted)) if characters else len(wanted)
            continue
        if characters:
            wanted, found = list(" ".join(wanted)), list(" ".join(found))
        for edit in _edits(wanted, found):
            counts[edit.kind][row] += max(len(edit.reference), len(edit.hypothesis))
            if edit.kind == "substitute":
                substituted.update(zip(edit.reference, edit.hypothesis, strict=True))
            elif edit.kind == "delete":
                deleted.update(edit.reference)
            elif edit.kind == "insert":
                inserted.update(edit.hypothesis)
    return EditTable(
        counts["equal"], counts["substitute"], counts["delete"], counts["insert"], substituted, deleted, inserted
    )


def _edits(wanted: list[str], found: list[str]) -> list[Edit]:
    if not wanted or not found:
        kind: Kind = "delete" if wanted else "insert"
        return [Edit(kind, tuple(wanted), tuple(found))] if wanted or found else []
    # As numbers in one character each: jiwer compares units, and a space must be one.
    numbers = {unit: number for number, unit in enumerate(dict.fromkeys([*wanted, *found]))}
    output = jiwer.process_words(
        [" ".join(str(numbers[unit]) for unit in wanted)], [" ".join(str(numbers[unit]) for unit in found)]
    )
    return [
        Edit(
            chunk.type,
            tuple(wanted[chunk.ref_start_idx : chunk.ref_end_idx]),
            tuple(found[chunk.hyp_start_idx : chunk.hyp_end_idx]),
        )
        for chunk in output.alignments[0]
    ]
