"""The order of training, computed and never remembered: which utterances make which micro-batch of which step.

A plan depends on durations, seed, epoch and the batching policy, never on the number of workers: a step is a fixed
list of micro-batches, and rank r of W takes every W-th of them. So any number of workers sees the same utterances in
the same steps.
"""

from functools import lru_cache

import numpy as np

from jasper_ray.audio.augment import draw_speeds, uniform
from jasper_ray.config.data import BatchingConfig
from jasper_ray.config.speech import AugmentConfig
from jasper_ray.data.epoch_plan import EpochPlan
from jasper_ray.errors import DataError

NUM_DURATION_BUCKETS = 30

# Separate streams of the counter-based generator, so that no two decisions share a draw.
ORDER_STREAM, STEP_ORDER_STREAM = 101, 102


def plan_epoch(durations_s: np.ndarray, *, seed: int, epoch: int, batching: BatchingConfig) -> EpochPlan:
    """Shuffle utterances with (seed, epoch), group them into micro-batches and these into steps.

    Args:
        durations_s: `(num_utterances,)` seconds of audio as the model will hear it (after speed perturbation).
        seed: The run's seed.
        epoch: Epoch, from 0.
        batching: The policy; both respect `utterances_per_microbatch`.

    Returns:
        Steps of exactly `microbatches_per_step` micro-batches each. A micro-batch may be empty only if the epoch has
        fewer utterances than micro-batches in its steps.

    Raises:
        DataError: There are no utterances, or one alone is longer than `seconds_per_microbatch`.
    """
    if len(durations_s) == 0:
        raise DataError("there are no utterances to plan: check data.train and the duration limits")
    order = np.argsort(uniform(seed, ORDER_STREAM, epoch, np.arange(len(durations_s))), kind="stable")
    if batching.policy == "fixed":
        microbatches = _fixed_microbatches(order, batching)
    else:
        microbatches = _microbatches_by_seconds(order, durations_s, batching)
    per_step = batching.microbatches_per_step
    _fill_last_step(microbatches, per_step)
    if batching.policy == "seconds":  # made from short to long: mix the steps
        num_steps = len(microbatches) // per_step
        mixed = np.argsort(uniform(seed, STEP_ORDER_STREAM, epoch, np.arange(num_steps)), kind="stable")
        microbatches = [microbatches[step * per_step + number] for step in mixed for number in range(per_step)]
    bounds = np.cumsum([0, *(len(rows) for rows in microbatches)])
    return EpochPlan(np.concatenate(microbatches), bounds, per_step)


def plan_evaluation(durations_s: np.ndarray, *, seconds_per_batch: float) -> list[np.ndarray]:
    """Batches of similar length for evaluation, longest first; every row is in exactly one."""
    order = np.argsort(-durations_s, kind="stable")
    batches, start = [], 0
    while start < len(order):
        size = max(1, int(seconds_per_batch / max(durations_s[order[start]], 1e-3)))
        batches.append(order[start : start + size])
        start += size
    return batches


class RunPlan:
    """The epochs of a run: durations under each epoch's speed draws, planned when asked for.

    Args:
        durations_s: `(num_utterances,)` seconds as recorded.
        seed: The run's seed.
        batching: The policy.
        augment: Where speeds are drawn from; they are drawn before batching, so that lengths are known.
    """

    def __init__(self, durations_s: np.ndarray, *, seed: int, batching: BatchingConfig, augment: AugmentConfig) -> None:
        self._durations_s = durations_s
        self._seed = seed
        self._batching = batching
        self._augment = augment
        # Two readers (the loader's thread runs ahead of training) are at most one epoch apart.
        self.epoch = lru_cache(maxsize=3)(self._plan)

    def _plan(self, epoch: int) -> EpochPlan:
        rows = np.arange(len(self._durations_s))
        speeds = draw_speeds(self._augment, seed=self._seed, epoch=epoch, utterances=rows)
        return plan_epoch(self._durations_s / speeds, seed=self._seed, epoch=epoch, batching=self._batching)

    @property
    def nominal_steps_per_epoch(self) -> int:
        """Steps of epoch 0; under the `seconds` policy other epochs may have a few more or less."""
        return self.epoch(0).num_steps


def _fixed_microbatches(order: np.ndarray, batching: BatchingConfig) -> list[np.ndarray]:
    """Equal counts, and no utterance left over: sizes differ by at most one."""
    per_step = batching.microbatches_per_step
    num_steps = -(-len(order) // (per_step * batching.utterances_per_microbatch))
    return [np.ascontiguousarray(rows) for rows in np.array_split(order, num_steps * per_step)]


def _microbatches_by_seconds(order: np.ndarray, durations_s: np.ndarray, batching: BatchingConfig) -> list[np.ndarray]:
    """Neighbours in duration together, until count times longest would pass the bound."""
    limit_s = batching.seconds_per_microbatch
    longest = int(np.argmax(durations_s))
    if durations_s[longest] > limit_s:
        raise DataError(
            f"utterance in row {longest} lasts {durations_s[longest]:.2f} s, more than "
            f"batching.seconds_per_microbatch={limit_s}: raise that, or lower data.max_duration_s"
        )
    edges = np.quantile(durations_s, np.linspace(0, 1, NUM_DURATION_BUCKETS + 1)[1:-1])
    by_bucket = order[np.argsort(np.searchsorted(edges, durations_s[order]), kind="stable")]
    microbatches: list[np.ndarray] = []
    start, longest_s = 0, 0.0
    for position, duration_s in enumerate(durations_s[by_bucket].tolist()):
        longest_s = max(longest_s, duration_s)
        count = position - start + 1
        if count > batching.utterances_per_microbatch or count * longest_s > limit_s:
            microbatches.append(by_bucket[start:position])
            start, longest_s = position, duration_s
    microbatches.append(by_bucket[start:])
    return microbatches


def _fill_last_step(microbatches: list[np.ndarray], per_step: int) -> None:
    """Halve the largest of the last micro-batches until steps are full; empty ones only where nothing can be halved."""
    while len(microbatches) % per_step:
        first = max(0, len(microbatches) - per_step)
        largest = max(range(first, len(microbatches)), key=lambda position: len(microbatches[position]))
        rows = microbatches[largest]
        if len(rows) < 2:
            microbatches.append(rows[:0])
        else:
            half = len(rows) // 2
            microbatches[largest : largest + 1] = [rows[:half], rows[half:]]
