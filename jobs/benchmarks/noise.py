"""Which figures of a benchmark changed by more than noise: Student's t over the passes of two runs.

A run is several passes, each in processes of its own, minutes apart; a pass gives one ratio per figure. Their spread is
what chance does to a figure: other addresses in memory, other work on the machine. The limit follows from it, from the
number of passes, and from how often two equal runs may be called different; nothing else is chosen.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

FALSE_ALARMS = 0.01
"""How often two equal runs may be said to differ in any of their figures."""


@dataclass(frozen=True)
class Change:
    """A figure in two runs."""

    name: str
    before: float
    after: float
    limit: float
    """Relative; a change within it is noise."""

    @property
    def relative(self) -> float:
        """0.1: a tenth more than before."""
        return self.after / self.before - 1

    @property
    def is_noise(self) -> bool:
        """Whether chance alone explains it."""
        return abs(math.log(self.after / self.before)) <= math.log1p(self.limit)


def centre(passes: Sequence[float]) -> float:
    """The figure of a run: geometric mean over its passes, since figures are ratios."""
    return math.exp(statistics.fmean(math.log(value) for value in passes))


def changes(before: Mapping[str, Sequence[float]], after: Mapping[str, Sequence[float]]) -> list[Change]:
    """What became of the figures that both runs have.

    Args:
        before: Ratios of the passes by figure, two or more of each.
        after: The same of the later run.
    """
    names = [name for name in after if name in before]
    return [
        Change(name, centre(before[name]), centre(after[name]), noise_limit(before[name], after[name], len(names)))
        for name in names
    ]


def noise_limit(before: Sequence[float], after: Sequence[float], num_figures: int) -> float:
    """How far two runs of the same program may be apart, as a relative change.

    Args:
        before: Ratios of the passes of a run.
        after: Of the other one.
        num_figures: That are judged at once: `FALSE_ALARMS` is shared out among them.
    """
    logs = [[math.log(value) for value in passes] for passes in (before, after)]
    degrees = sum(len(passes) - 1 for passes in logs)
    variance = sum((len(passes) - 1) * statistics.variance(passes) for passes in logs) / degrees
    error = math.sqrt(variance * sum(1 / len(passes) for passes in logs))
    return math.expm1(student_quantile(degrees, FALSE_ALARMS / num_figures) * error)


@lru_cache
def student_quantile(degrees: int, chance: float) -> float:
    """What Student's t exceeds, on either side, with this chance.

    Args:
        degrees: Of freedom, 2 or more; an odd number counts as one less, which is the larger limit.
        chance: Above 0 and below 1.
    """
    degrees -= degrees % 2
    low, high = 0.0, 1.0
    while _outside(high, degrees) > chance:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _outside(middle, degrees) > chance else (low, middle)
    return high


def _outside(t: float, degrees: int) -> float:
    """Chance of |T| > t for an even number of degrees. Source: Abramowitz and Stegun 26.7.4."""
    cosine_squared = degrees / (degrees + t * t)
    term = total = 1.0
    for number in range(1, degrees // 2):
        term *= cosine_squared * (2 * number - 1) / (2 * number)
        total += term
    return 1 - total * math.sqrt(1 - cosine_squared)
