"""Population-based training: a generation trains for some epochs, then the worst go on from the best ones' weights.

A generation's members are trials of their own, each from the checkpoint of one of the generation before. So a
population may be larger than what the cluster holds at once, and an interrupted one goes on like any sweep.
"""

import math

import numpy as np

from jasper_ray.errors import ConfigError
from tuning.records import TrialRecord
from tuning.settings import PbtConfig, Value
from tuning.spaces import Params, RandomDraws, Space

MAY_CHANGE = ("optimizer.", "schedule.", "augment.", "training.ema_decay", "training.max_grad_norm")
"""What may change while a run goes on: the rest decides the shape of the model or the order of utterances."""
MAY_NOT_CHANGE = (
    "optimizer.name",
    "optimizer.encoder_lr_factor",
    "optimizer.decoder_lr_factor",
    "optimizer.decay_biases_and_norms",
    "augment.speed",
    "augment.noise",
    "augment.reverb",
)
STEP = 1.2
"""A number is moved by this factor, up or down."""


class Population:
    """The trials of all generations by number: generation g has numbers g * size up to (g + 1) * size.

    Args:
        space: What changes.
        config: When, and how many.
        size: Members of a generation.
        epochs: Length of a run.
        seed: Of all draws.

    Raises:
        ConfigError: A key of the space may not change while a run goes on, or there is only one generation.

    Source: Jaderberg et al. 2017, with all members of a generation compared at once.
    """

    def __init__(self, space: Space, config: PbtConfig, *, size: int, epochs: int, seed: int) -> None:
        for key in space.keys:
            if not key.startswith(MAY_CHANGE) or key.startswith(MAY_NOT_CHANGE):
                raise ConfigError(
                    f"search=pbt: {key} may not change while a run goes on; {', '.join(MAY_CHANGE)} may, without "
                    f"{', '.join(MAY_NOT_CHANGE)}. Take another search for it"
                )
        if space.grid_points() != [{}]:
            raise ConfigError("search=pbt chooses every value itself: write choice in place of grid")
        if config.interval_epochs >= epochs:
            raise ConfigError(
                f"pbt.interval_epochs={config.interval_epochs} must be below training.epochs={epochs}: "
                "there would be no second generation"
            )
        self._space = space
        self._config = config
        self._size = size
        self._epochs = epochs
        self._seed = seed
        self._ended: dict[int, TrialRecord] = {}

    @property
    def num_points(self) -> int | None:
        """Trials of all generations."""
        return self._size * math.ceil(self._epochs / self._config.interval_epochs)

    def next_trial(self, number: int) -> TrialRecord | None:
        """A member of a generation; None while the one before is not complete, or has no member to go on from."""
        generation, member = divmod(number, self._size)
        until = min(self._epochs, (generation + 1) * self._config.interval_epochs)
        rng = np.random.default_rng((self._seed, number))
        if generation == 0:
            return TrialRecord(number, self._space.draw(RandomDraws(rng)), until_epoch=until)
        before = [self._ended.get(own) for own in range((generation - 1) * self._size, generation * self._size)]
        known = [record for record in before if record is not None]
        alive = sorted((r for r in known if r.status == "finished"), key=_last_rank)
        if len(known) < self._size or not alive:
            return None
        count = max(1, int(self._config.quantile * self._size))
        own = known[member]
        kept = own in alive[: max(1, self._size - count)]
        if kept:
            return TrialRecord(number, own.params, parent=own.number, until_epoch=until)
        parent = alive[int(rng.integers(min(count, len(alive))))]
        moved = self._space.draw(_MovedDraws(rng, parent.params, self._config.resample_probability))
        return TrialRecord(number, moved, parent=parent.number, until_epoch=until)

    def adopt(self, record: TrialRecord) -> None:
        """Nothing to learn before it has ended."""

    def ended(self, record: TrialRecord) -> None:
        """A member has ended."""
        self._ended[record.number] = record


def _last_rank(record: TrialRecord) -> tuple[float, float, int]:
    """By the weights that the next generation would get: those at the end, not the best ones on the way."""
    last = record.evaluations[-1] if record.evaluations else None
    if last is None:
        return math.inf, math.inf, record.number
    return last.wer, math.inf if last.loss is None else last.loss, record.number


class _MovedDraws:
    """Values beside those of another trial, or at times drawn anew."""

    def __init__(self, rng: np.random.Generator, params: Params, resample_probability: float) -> None:
        self._rng = rng
        self._params = params
        self._resample = resample_probability
        self._fresh = RandomDraws(rng)

    def number(self, key: str, low: float, high: float, *, log: bool) -> float:
        """A fifth up or down, within the bounds."""
        if self._is_anew(key):
            return self._fresh.number(key, low, high, log=log)
        return float(np.clip(float(self._params[key] or 0) * self._factor(), low, high))

    def integer(self, key: str, low: int, high: int) -> int:
        """A fifth up or down, by at least one, within the bounds."""
        if self._is_anew(key):
            return self._fresh.integer(key, low, high)
        value, factor = int(self._params[key] or 0), self._factor()
        moved = round(value * factor)
        return int(np.clip(moved if moved != value else value + (1 if factor > 1 else -1), low, high))

    def choice(self, key: str, values: tuple[Value, ...]) -> Value:
        """A neighbour in the list."""
        if self._is_anew(key):
            return self._fresh.choice(key, values)
        place = values.index(self._params[key]) + (1 if self._factor() > 1 else -1)
        return values[int(np.clip(place, 0, len(values) - 1))]

    def _is_anew(self, key: str) -> bool:
        return key not in self._params or bool(self._rng.random() < self._resample)

    def _factor(self) -> float:
        return STEP if self._rng.random() < 0.5 else 1 / STEP
