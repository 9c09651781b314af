"""Which of the waiting utterances are computed together. Pure arithmetic on their lengths."""

from collections.abc import Sequence
from dataclasses import dataclass

LOOK_AHEAD = 4
"""A batch is chosen among the oldest `LOOK_AHEAD * max_count`: the choice must not cost more than it saves."""


@dataclass(frozen=True)
class BatchLimits:
    """How large a batch may be, and how unequal."""

    max_count: int = 32
    """Utterances."""
    max_seconds: float = 160.0
    """Count times longest; a single utterance may be longer."""
    max_padding: float = 0.3
    """Largest share of an utterance's row that is padding."""
    short_s: float = 1.0
    """Shorter utterances count as this long: a step has a cost of its own, so short ones share one at any length."""

    def __post_init__(self) -> None:
        if self.max_count < 1 or self.max_seconds <= 0 or not 0 <= self.max_padding <= 1 or self.short_s < 0:
            raise ValueError(
                f"{self}: max_count must be at least 1, max_seconds above 0, max_padding from 0 to 1, short_s 0 or more"
            )


def choose_batch(durations_s: Sequence[float], limits: BatchLimits) -> list[int]:
    """The next batch: the oldest utterance and those most like it.

    Args:
        durations_s: Of the utterances that wait, oldest first; at least one.
        limits: How large a batch may be.

    Returns:
        Their indices in ascending order; 0 is always among them, so that nothing waits for ever.
    """
    lengths = [max(duration_s, limits.short_s) for duration_s in durations_s[: LOOK_AHEAD * limits.max_count]]
    longest = shortest = oldest = lengths[0]
    chosen = [0]
    for index in sorted(range(1, len(lengths)), key=lambda index: abs(lengths[index] - oldest)):
        if len(chosen) == limits.max_count:
            break
        new_longest, new_shortest = max(longest, lengths[index]), min(shortest, lengths[index])
        fits = (len(chosen) + 1) * new_longest <= limits.max_seconds
        if fits and new_shortest >= (1 - limits.max_padding) * new_longest:
            chosen.append(index)
            longest, shortest = new_longest, new_shortest
    return sorted(chosen)


def padded_seconds(durations_s: Sequence[float]) -> float:
    """Count times longest."""
    return len(durations_s) * max(durations_s, default=0.0)
