"""What a sweep's YAML file may say: `SweepConfig`."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from jasper_ray.config.files import load_config
from jasper_ray.config.strict import StrictModel

Value = bool | int | float | str | None
"""What a knob may be set to."""

OVERRIDE_PREFIX = "sweep."
"""Overrides that begin so are meant for the sweep, all others for the run."""


class Dimension(StrictModel):
    """How one key varies: exactly one of the rules; `when` makes it conditional."""

    loguniform: tuple[float, float] | None = None
    """Lowest and highest value, drawn evenly on a logarithmic scale."""
    uniform: tuple[float, float] | None = None
    """Lowest and highest value, drawn evenly."""
    integers: tuple[int, int] | None = None
    """Lowest and highest whole number, both included."""
    choice: tuple[Value, ...] | None = None
    """Values to draw from."""
    grid: tuple[Value, ...] | None = None
    """Values that all get equally many trials, in combination with all other grids."""
    inverse_to: str | None = None
    """Another key: the product of the two stays what it is in the run's config."""
    proportional_to: str | None = None
    """Another key: the ratio of the two stays what it is in the run's config, rounded for a whole number."""
    when: dict[str, Value | tuple[Value, ...]] = Field(default_factory=dict)
    """Other keys and the value, or one of the values, that they must have for this one to vary."""

    @model_validator(mode="after")
    def _is_one_rule(self) -> Self:
        rules = [name for name in RULES if getattr(self, name) is not None]
        if len(rules) != 1:
            raise ValueError(f"needs exactly one of {', '.join(RULES)}, got {' and '.join(rules) or 'none'}")
        for name in ("loguniform", "uniform", "integers"):
            bounds = getattr(self, name)
            if bounds is not None and not bounds[0] < bounds[1]:
                raise ValueError(f"{name}={list(bounds)}: the first bound must be below the second")
        if self.loguniform is not None and self.loguniform[0] <= 0:
            raise ValueError(f"loguniform={list(self.loguniform)}: a logarithmic scale needs bounds above 0")
        for name in ("choice", "grid"):
            values = getattr(self, name)
            if values is not None and (not values or len(set(map(repr, values))) != len(values)):
                raise ValueError(f"{name}={list(values)}: give one or more values, each once")
        return self

    @property
    def is_derived(self) -> bool:
        """Whether the value follows from another key instead of being searched."""
        return self.inverse_to is not None or self.proportional_to is not None

    @property
    def values(self) -> tuple[Value, ...] | None:
        """All values, if they can be listed."""
        if self.integers is not None:
            return tuple(range(self.integers[0], self.integers[1] + 1))
        return self.choice if self.choice is not None else self.grid


RULES = ("loguniform", "uniform", "integers", "choice", "grid", "inverse_to", "proportional_to")


class BudgetConfig(StrictModel):
    """When a sweep has had enough; whatever comes first."""

    trials: int | None = None
    """Trials in all; a grid without a budget runs each point once."""
    hours: float | None = None
    """Hours in which trials run, over all restarts."""
    gpu_hours: float | None = None
    """Hours times GPUs of all trials, over all restarts."""

    @field_validator("trials", "hours", "gpu_hours")
    @classmethod
    def _lets_a_trial_run(cls, value: float | None) -> float | None:
        if value is not None and not value > 0:
            raise ValueError(f"must be above 0, got {value:g}: no trial would run. Leave it out (null) for no limit")
        return value


class AshaConfig(StrictModel):
    """Asynchronous successive halving: at each rung the worst trials stop."""

    grace_epochs: int = Field(1, ge=1)
    """Epochs that every trial gets: the first rung."""
    reduction_factor: float = Field(3.0, gt=1)
    """One in so many goes on at each rung; the next rung lies so many times later."""


class PbtConfig(StrictModel):
    """Population-based training: the worst trials go on from the best ones' weights with changed settings."""

    interval_epochs: int = Field(4, ge=1)
    """Epochs between two comparisons; trials are evaluated and saved then."""
    quantile: float = Field(0.25, gt=0, le=0.5)
    """Share of the population that is replaced, and by which it is."""
    resample_probability: float = Field(0.25, ge=0, le=1)
    """How often a setting is drawn anew instead of moved by a fifth or to a neighbouring choice."""


class SweepConfig(StrictModel):
    """A whole sweep."""

    name: str = Field("", pattern=r"^[A-Za-z0-9._-]*$")
    """Name of the sweep's folder below the run's `output`; empty takes the file's name."""
    space: dict[str, Dimension] = Field(min_length=1)
    """Dotted keys of the run's config, or `accumulation`, and how they vary."""
    search: Literal["random", "grid", "tpe", "pbt"] = "random"
    """Where settings come from: drawn, every point once, Optuna's TPE, or a population that changes while it trains."""
    scheduler: Literal["asha", "none"] = "asha"
    """Whether trials are stopped early by the word error rate on data.evaluation."""
    asha: AshaConfig = AshaConfig()
    pbt: PbtConfig = PbtConfig()
    budget: BudgetConfig = BudgetConfig()
    max_concurrent: int | None = Field(None, ge=1)
    """Trials at once; null takes as many as the cluster holds, and more than that never run."""
    max_retries: int = Field(2, ge=0)
    """Times that a trial is taken up again from its checkpoint after a lost worker or node."""
    seed: int = Field(0, ge=0)
    """Seed of every draw; the run's own seed is the same in all trials."""

    @model_validator(mode="after")
    def _budget_fits(self) -> Self:
        budget = self.budget
        unbounded = budget.trials is None and budget.hours is None and budget.gpu_hours is None
        if self.search in ("random", "tpe") and unbounded:
            raise ValueError(
                f"search={self.search} never ends by itself: give budget.trials, budget.hours or budget.gpu_hours"
            )
        if self.search == "pbt" and budget.trials is None:
            raise ValueError("search=pbt needs budget.trials: the size of the population")
        if self.search == "pbt" and (budget.trials or 0) < 2:
            raise ValueError(f"search=pbt needs budget.trials of 2 or more, got {budget.trials}: nobody to learn from")
        return self


def load_sweep(
    path: str | Path, overrides: Sequence[str] = (), *, environ: Mapping[str, str] | None = None
) -> SweepConfig:
    """Read a sweep's YAML file.

    Args:
        path: The file.
        overrides: `KEY=VALUE` of the sweep, without the prefix `sweep.`.
        environ: The environment; the process's own by default.

    Raises:
        ConfigError: Names the file or override, the key, the value and what is allowed.
    """
    environ = os.environ if environ is None else environ
    sweep = load_config(SweepConfig, path, overrides, environ=environ, prefix=OVERRIDE_PREFIX)
    return sweep if sweep.name else sweep.model_copy(update={"name": Path(path).stem})
