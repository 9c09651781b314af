"""Things run in turn, round after round: rates, and ratios that survive a busy machine."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Work = Callable[[int], float]
"""Does one round's work, told its number, and returns how much that was (utterances, seconds of audio)."""


@dataclass(frozen=True)
class Run:
    """One run of one contender."""

    amount: float
    wall_s: float
    cpu_s: float
    """Of all threads of the process."""

    @property
    def per_cpu_s(self) -> float:
        """Amount per second of processor time: the rate of one core, whatever else the machine does."""
        return self.amount / self.cpu_s

    @property
    def per_wall_s(self) -> float:
        """Amount per second of the clock."""
        return self.amount / self.wall_s


def run_in_turn(contenders: Mapping[str, Work], rounds: int) -> dict[str, list[Run]]:
    """Each contender once per round, in an order that turns; a round before these warms up and is not counted."""
    runs: dict[str, list[Run]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds + 1):
        turn = number % len(names) if names else 0
        for name in names[turn:] + names[:turn]:
            run = timed(contenders[name], number)
            if number:
                runs[name].append(run)
    return runs


def timed(work: Work, number: int) -> Run:
    """Run it once."""
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    amount = work(number)
    return Run(amount, time.perf_counter() - wall_s, time.process_time() - cpu_s)


def rates(runs: Mapping[str, Sequence[Run]]) -> dict[str, dict[str, Any]]:
    """Medians over the rounds, and the rounds themselves."""
    return {
        name: {
            "per_cpu_s": statistics.median(run.per_cpu_s for run in of_one),
            "per_wall_s": statistics.median(run.per_wall_s for run in of_one),
            "rounds_per_cpu_s": [round(run.per_cpu_s, 2) for run in of_one],
        }
        for name, of_one in runs.items()
    }


def ratio(runs: Mapping[str, Sequence[Run]], name: str, over: str) -> float | None:
    """Median over the rounds of one contender's rate per CPU-second over another's; None if one did not run."""
    if name not in runs or over not in runs:
        return None
    pairs = zip(runs[name], runs[over], strict=True)
    return statistics.median(a.per_cpu_s / b.per_cpu_s for a, b in pairs)
