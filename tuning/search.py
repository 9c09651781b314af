"""Where the settings of the next trial come from: draws, a grid, or Optuna's TPE. Knows nothing of Ray."""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import optuna

from jasper_ray.errors import ConfigError
from tuning.population import Population
from tuning.records import TrialRecord
from tuning.settings import SweepConfig, Value
from tuning.spaces import Params, RandomDraws, Space

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Search(Protocol):
    """Gives settings by a trial's number, and hears how trials ended."""

    @property
    def num_points(self) -> int | None:
        """How many different trials there are; None without bound."""

    def next_trial(self, number: int) -> TrialRecord | None:
        """A trial that has not been given settings; None while others must end first."""

    def adopt(self, record: TrialRecord) -> None:
        """A trial has settings from before a restart."""

    def ended(self, record: TrialRecord) -> None:
        """A trial has ended; also called for those that ended before a restart."""


def open_search(sweep: SweepConfig, space: Space, *, epochs: int) -> Search:
    """The search that a sweep asks for.

    Args:
        sweep: The sweep.
        space: Its space.
        epochs: Length of a run.
    """
    if sweep.search == "grid":
        return PointSearch(space.all_points())
    if sweep.search == "tpe":
        return TpeSearch(space, seed=sweep.seed)
    if sweep.search == "pbt":
        return Population(space, sweep.pbt, size=sweep.budget.trials or 0, epochs=epochs, seed=sweep.seed)
    return RandomSearch(space, seed=sweep.seed)


class RandomSearch:
    """Independent draws, a function of (seed, number); every point of the space's grids equally often.

    Where all values can be listed, no combination comes twice.
    """

    def __init__(self, space: Space, *, seed: int) -> None:
        self._space = space
        self._seed = seed
        self._grid = space.grid_points()
        self._listed = _shuffled(space, seed) if all(rule.values for rule in space.searched.values()) else None

    @property
    def num_points(self) -> int | None:
        """No bound, unless all values can be listed."""
        return len(self._listed) if self._listed else None

    def next_trial(self, number: int) -> TrialRecord:
        """The draws of a number; the trials of one round over the grids share theirs, so that the grids compare."""
        return TrialRecord(number, self._listed[number] if self._listed else self._drawn(number))

    def _drawn(self, number: int) -> Params:
        turn, point = divmod(number, len(self._grid))
        draws = RandomDraws(np.random.default_rng((self._seed, turn)))
        return self._space.draw(draws, self._grid[point])

    def adopt(self, record: TrialRecord) -> None:
        """Nothing to learn."""

    def ended(self, record: TrialRecord) -> None:
        """Nothing to learn."""


def _shuffled(space: Space, seed: int) -> list[Params]:
    """All combinations; those that differ in grids only come one after another, the rest in drawn order."""
    rounds: dict[str, list[Params]] = {}
    for point in space.all_points():
        drawn = {key: value for key, value in point.items() if space.searched[key].grid is None}
        rounds.setdefault(repr(drawn), []).append(point)
    turns = list(rounds.values())
    order = np.random.default_rng(seed).permutation(len(turns))
    return [point for turn in order for point in turns[turn]]


class PointSearch:
    """A list of settings, one after another."""

    def __init__(self, points: Sequence[Params]) -> None:
        self._points = points

    @property
    def num_points(self) -> int | None:
        """Length of the list."""
        return len(self._points)

    def next_trial(self, number: int) -> TrialRecord:
        """The point of a number."""
        return TrialRecord(number, self._points[number])

    def adopt(self, record: TrialRecord) -> None:
        """Nothing to learn."""

    def ended(self, record: TrialRecord) -> None:
        """Nothing to learn."""


class TpeSearch:
    """Optuna's tree-structured Parzen estimator; trials that were stopped early count as pruned.

    Source: Bergstra et al. 2011, as in `optuna.samplers.TPESampler`.
    """

    def __init__(self, space: Space, *, seed: int) -> None:
        self._space = space
        self._seed = seed
        if space.grid_points() != [{}]:
            raise ConfigError("search=tpe chooses every value itself: write choice in place of grid")
        # Constant liar: trials that run at the same time are not to try the same thing.
        self._study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True))
        self._trials: dict[int, optuna.Trial] = {}

    @property
    def num_points(self) -> int | None:
        """No bound."""
        return None

    def next_trial(self, number: int) -> TrialRecord:
        """Where the ended trials let expect the most; the first ten are drawn."""
        # By number, so that a sweep that is taken up again draws what it would have drawn.
        self._study.sampler = optuna.samplers.TPESampler(seed=self._seed + number, constant_liar=True)
        trial = self._study.ask()
        self._trials[number] = trial
        return TrialRecord(number, self._space.draw(_OptunaDraws(trial)))

    def adopt(self, record: TrialRecord) -> None:
        """Ask for the settings that the trial has."""
        self._study.enqueue_trial(dict(record.params))
        trial = self._study.ask()
        self._trials[record.number] = trial
        self._space.draw(_OptunaDraws(trial))

    def ended(self, record: TrialRecord) -> None:
        """Learn from a trial: one that failed says nothing, one that diverged at once is as bad as can be."""
        trial = self._trials.pop(record.number)
        for evaluation in record.evaluations:
            trial.report(evaluation.wer, evaluation.epoch)
        if record.status == "failed":
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        elif record.status == "stopped":
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            self._study.tell(trial, record.best_wer if math.isfinite(record.best_wer) else 1.0)


class _OptunaDraws:
    """Draws of an Optuna trial."""

    def __init__(self, trial: optuna.Trial) -> None:
        self._trial = trial

    def number(self, key: str, low: float, high: float, *, log: bool) -> float:
        """A real number."""
        drawn: float = self._trial.suggest_float(key, low, high, log=log)
        return drawn

    def integer(self, key: str, low: int, high: int) -> int:
        """A whole number."""
        drawn: int = self._trial.suggest_int(key, low, high)
        return drawn

    def choice(self, key: str, values: tuple[Value, ...]) -> Value:
        """One of these."""
        chosen: Value = self._trial.suggest_categorical(key, values)
        return chosen
