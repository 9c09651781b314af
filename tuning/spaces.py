"""Which settings a sweep tries: dimensions by dotted config key, checked against the schema before a trial starts."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from pydantic import ValidationError

from jasper_ray.config.files import get_value, set_value, suggest_key, validate_tree
from jasper_ray.config.knobs import known_keys
from jasper_ray.config.schema import RunConfig
from jasper_ray.errors import ConfigError
from tuning.settings import Dimension, Value

Params = dict[str, Value]
"""What a trial was given: the searched keys that apply to it."""

ACCUMULATION = "accumulation"
"""Not a key of the config: micro-batches per worker and step."""
MICROBATCHES = "batching.microbatches_per_step"
SETTLED_KEYS = ("name", "output", "resume", "training.stop_after_steps", "training.stop_after_epochs")
SETTLED_SECTIONS = ("cluster.", "data.evaluation.")
NUM_PROBES = 100


class Draws(Protocol):
    """Where values come from."""

    def number(self, key: str, low: float, high: float, *, log: bool) -> float:
        """A real number."""

    def integer(self, key: str, low: int, high: int) -> int:
        """A whole number, both bounds included."""

    def choice(self, key: str, values: tuple[Value, ...]) -> Value:
        """One of these."""


class RandomDraws:
    """Independent draws."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def number(self, key: str, low: float, high: float, *, log: bool) -> float:
        """A real number, evenly or evenly on a logarithmic scale."""
        if log:
            return float(np.exp(self._rng.uniform(np.log(low), np.log(high))).clip(low, high))
        return float(self._rng.uniform(low, high))

    def integer(self, key: str, low: int, high: int) -> int:
        """A whole number."""
        return int(self._rng.integers(low, high, endpoint=True))

    def choice(self, key: str, values: tuple[Value, ...]) -> Value:
        """One of these."""
        return values[int(self._rng.integers(len(values)))]


class Space:
    """The settings of a sweep over a run.

    Args:
        dimensions: By dotted key.
        base: The run; what is not searched stays as it is there.
        source: Where the dimensions come from, for errors.

    Raises:
        ConfigError: A key is unknown or settled by the sweep, a value is not allowed by the schema, or some of the
            settings do not go together; names them.
    """

    def __init__(self, dimensions: Mapping[str, Dimension], base: RunConfig, *, source: str) -> None:
        self._source = source
        self._base = base.model_dump(mode="json")
        self._workers = base.cluster.min_workers
        self.searched = {key: rule for key, rule in dimensions.items() if not rule.is_derived}
        self._derived = {key: rule for key, rule in dimensions.items() if rule.is_derived}
        if not self.searched:
            raise ConfigError(f"{source}: space: every key is derived from another one, none is searched")
        seen: list[str] = []
        for key, rule in dimensions.items():
            self._check_key(key)
            self._check_references(key, rule, dimensions, seen)
            seen.append(key)
        if ACCUMULATION in dimensions and MICROBATCHES in dimensions:
            raise ConfigError(f"{source}: space: {ACCUMULATION} sets {MICROBATCHES}, give only one of them")
        self.searched = {key: self._canonical(key, rule) for key, rule in self.searched.items()}
        for number in range(NUM_PROBES):
            self.config(self.draw(RandomDraws(np.random.default_rng(number))))

    @property
    def keys(self) -> list[str]:
        """All keys that change, derived ones too."""
        return [*self.searched, *self._derived]

    def draw(self, draws: Draws, fixed: Mapping[str, Value] | None = None) -> Params:
        """Settings for one trial.

        Args:
            draws: Where values come from.
            fixed: Values that are given already.
        """
        params: Params = {}
        for key, rule in self.searched.items():
            if fixed is not None and key in fixed:
                params[key] = fixed[key]
            elif self._applies(rule, params):
                params[key] = _draw(draws, key, rule)
        return params

    def grid_points(self) -> list[Params]:
        """Every combination of the dimensions declared as `grid`, the last one changing fastest."""
        return list(self._points({key: rule for key, rule in self.searched.items() if rule.grid is not None}))

    def all_points(self) -> list[Params]:
        """Every combination of all dimensions.

        Raises:
            ConfigError: One of them has no list of values; names it.
        """
        for key, rule in self.searched.items():
            if rule.values is None:
                raise ConfigError(
                    f"{self._source}: space.{key}: search=grid needs values to list: choice, grid or integers, "
                    "not a range of real numbers"
                )
        return list(self._points(self.searched))

    def config(self, params: Params) -> RunConfig:
        """The run with these settings.

        Raises:
            ConfigError: They do not go together; names them all.
        """
        tree = RunConfig.model_validate(self._base).model_dump(mode="json")
        source = f"{self._source}: with {describe(params)}"
        for key, value in params.items():
            self._set(tree, key, value, source)
        for key, rule in self._derived.items():
            if self._applies(rule, params):
                set_value(tree, key, self._derive(key, rule, tree), source=source)
        return validate_tree(RunConfig, tree, source=source)

    def value(self, config: RunConfig, key: str) -> Any:
        """What a run has under one of the space's keys."""
        if key == ACCUMULATION:
            return config.batching.microbatches_per_step / config.cluster.min_workers
        return get_value(config.model_dump(mode="json"), key, source=self._source)

    def _points(self, rules: Mapping[str, Dimension], given: Params | None = None) -> Iterator[Params]:
        params = given or {}
        key = next((key for key in rules if key not in params), None)
        if key is None:
            yield params
            return
        rest = {name: rule for name, rule in rules.items() if name != key}
        if not self._applies(rules[key], params):
            yield from self._points(rest, params)
            return
        for value in rules[key].values or ():
            yield from self._points(rest, {**params, key: value})

    def _applies(self, rule: Dimension, params: Mapping[str, Value]) -> bool:
        for key, wanted in rule.when.items():
            actual = params[key] if key in params else self._base_value(key)
            if actual not in (wanted if isinstance(wanted, tuple) else (wanted,)):
                return False
        return True

    def _base_value(self, key: str) -> Any:
        if key == ACCUMULATION:
            return self._base_value(MICROBATCHES) / self._workers
        return get_value(self._base, key, source=self._source)

    def _set(self, tree: dict[str, Any], key: str, value: Value, source: str) -> None:
        if key == ACCUMULATION:
            key, value = MICROBATCHES, int(value or 0) * self._workers
        set_value(tree, key, value, source=source)

    def _derive(self, key: str, rule: Dimension, tree: Mapping[str, Any]) -> float:
        own, other_key = self._base_value(key), rule.inverse_to or rule.proportional_to or ""
        other_key = MICROBATCHES if other_key == ACCUMULATION else other_key
        before, now = self._base_value(other_key), get_value(tree, other_key, source=self._source)
        for name, number in ((key, own), (other_key, before), (other_key, now)):
            if isinstance(number, bool) or not isinstance(number, int | float) or number == 0:
                raise ConfigError(f"{self._source}: space.{key}: {name} is {number!r}, not a number to calculate with")
        value = float(own * before / now if rule.inverse_to else own * now / before)
        if not isinstance(own, int):
            return value
        if rule.proportional_to:
            return max(1, round(value))
        if value != round(value) or value < 1:
            raise ConfigError(
                f"{self._source}: space.{key}: must be a whole number, but {other_key}={now} makes it {value:g} "
                f"(the run has {key}={own} and {other_key}={before}): change these, or take other values of {other_key}"
            )
        return round(value)

    def _check_key(self, key: str) -> None:
        if key == ACCUMULATION:
            return
        where = f"{self._source}: space"
        known = known_keys(RunConfig)
        if re.sub(r"\.\d+(?=\.|$)", ".N", key) not in known:
            raise ConfigError(f"{where}: unknown key {key!r}. {suggest_key(key, known)}")
        if key in SETTLED_KEYS or key.startswith(SETTLED_SECTIONS):
            raise ConfigError(
                f"{where}: {key} is the same for all trials: give it as an override of the run, {key}=VALUE"
            )
        self._base_value(key)

    def _check_references(
        self, key: str, rule: Dimension, dimensions: Mapping[str, Dimension], seen: list[str]
    ) -> None:
        others = list(rule.when) + [name for name in (rule.inverse_to, rule.proportional_to) if name]
        for other in others:
            self._check_reference(key, other)
            if other in dimensions and other not in seen:
                raise ConfigError(f"{self._source}: space.{key} depends on {other}: put {other} before it")
        for other in rule.when:
            if other in dimensions and dimensions[other].is_derived:
                raise ConfigError(f"{self._source}: space.{key}.when: {other} is derived, name a searched key")
            if rule.grid is not None and other in dimensions and dimensions[other].grid is None:
                raise ConfigError(
                    f"{self._source}: space.{key}: a grid may depend on other grids only, {other} is drawn: use choice"
                )

    def _check_reference(self, key: str, other: str) -> None:
        known = known_keys(RunConfig)
        if other != ACCUMULATION and re.sub(r"\.\d+(?=\.|$)", ".N", other) not in known:
            raise ConfigError(f"{self._source}: space.{key}: unknown key {other!r}. {suggest_key(other, known)}")

    def _canonical(self, key: str, rule: Dimension) -> Dimension:
        """The rule with its values as the schema reads them; refuses what it does not allow for this key."""
        bounds = rule.loguniform or rule.uniform or rule.integers
        values = tuple(self._allowed(key, value) for value in (bounds or rule.values or ()))
        if rule.choice is not None:
            return rule.model_copy(update={"choice": values})
        return rule.model_copy(update={"grid": values}) if rule.grid is not None else rule

    def _allowed(self, key: str, value: Value) -> Value:
        where = f"{self._source}: space.{key}"
        if key == ACCUMULATION:
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{where}: got {value!r}; must be a whole number of 1 or more")
            return value
        tree = RunConfig.model_validate(self._base).model_dump(mode="json")
        set_value(tree, key, value, source=where)
        try:
            config = validate_tree(RunConfig, tree, source=where)
        except ConfigError as error:
            # What several keys say together is judged with drawn settings, not with this value alone.
            cause = error.__cause__
            if isinstance(cause, ValidationError) and any(_is_below(key, item["loc"]) for item in cause.errors()):
                raise
            return value
        allowed: Value = get_value(config.model_dump(mode="json"), key, source=where)
        return allowed


def describe(params: Mapping[str, Value]) -> str:
    """Settings as a line of text."""
    return ", ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in params.items()
    )


def _draw(draws: Draws, key: str, rule: Dimension) -> Value:
    if rule.loguniform is not None:
        return draws.number(key, *rule.loguniform, log=True)
    if rule.uniform is not None:
        return draws.number(key, *rule.uniform, log=False)
    if rule.integers is not None:
        return draws.integer(key, *rule.integers)
    values = rule.values
    assert values is not None, key
    return draws.choice(key, values)


def _is_below(key: str, location: tuple[int | str, ...]) -> bool:
    return ".".join(map(str, location)).startswith(key)
