"""The order of training, computed and never remembered: which utterances make which micro-batch of which step.

A plan depends on durations, seed, epoch, the batching policy and the window of shards if there is one, never on the
number of workers: a step is a fixed list of micro-batches, and rank r of W takes every W-th of them. So any number of
workers sees the same utterances in the same steps.
"""

from functools import lru_cache

import numpy as np

from jasper_ray.audio.augment import draw_speeds, uniform
from jasper_ray.config.data import BatchingConfig
from jasper_ray.config.speech import AugmentConfig
from jasper_ray.data.epoch_plan import EpochPlan
from jasper_ray.data.packed_plan import RowRoom, pack_rows
from jasper_ray.data.windows import shard_blocks
from jasper_ray.errors import DataError

NUM_DURATION_BUCKETS = 30

# Separate streams of the counter-based generator, so that no two decisions share a draw.
ORDER_STREAM, STEP_ORDER_STREAM, ROW_ORDER_STREAM = 101, 102, 104


def plan_epoch(
    durations_s: np.ndarray,
    *,
    seed: int,
    epoch: int,
    batching: BatchingConfig,
    hop_s: float = 0.01,
    shard_index: np.ndarray | None = None,
    window_shards: int | None = None,
) -> EpochPlan:
    """Shuffle utterances with (seed, epoch), group them into micro-batches and these into steps.

    Without a window the shuffle is over the whole corpus. With one it is over blocks of shards (data/windows.py), which
    follow each other in an order drawn anew every epoch. What is shuffled within a block, or the corpus:

    - `fixed`: utterances.
    - `seconds`: utterances, then sorted by duration bucket, cut where the bound is reached; steps of neighbouring
      micro-batches, which cost alike, are shuffled.
    - `packed`: utterances, packed into rows within pools of thousands (data/packed_plan.py); rows are shuffled.

    Args:
        durations_s: `(num_utterances,)` seconds of audio as the model will hear it (after speed perturbation).
        seed: The run's seed.
        epoch: Epoch, from 0.
        batching: The policy. `fixed` and `seconds` respect `utterances_per_microbatch`.
        hop_s: Seconds per feature frame; `packed` counts frames.
        shard_index: Shard of every utterance; a window needs it.
        window_shards: Largest number of shards in use at a time.

    Returns:
        Steps of exactly `microbatches_per_step` micro-batches each. A micro-batch may be empty only if the epoch has
        fewer utterances than micro-batches in its steps. Under `packed`, `data/packing.lay_out` puts every micro-batch
        into `rows_per_microbatch` rows or fewer.

    Raises:
        DataError: There are no utterances, or one alone is longer than `seconds_per_microbatch` or `row_seconds`.
    """
    if len(durations_s) == 0:
        raise DataError("there are no utterances to plan: check data.train and the duration limits")
    check_lengths(durations_s, batching, hop_s=hop_s)
    order = np.argsort(uniform(seed, ORDER_STREAM, epoch, np.arange(len(durations_s))), kind="stable")
    blocks = [order]
    if window_shards is not None:
        assert shard_index is not None, "a window needs the shard of every utterance"
        blocks = shard_blocks(order, shard_index, window_shards=window_shards, seed=seed, epoch=epoch)
    if batching.policy == "seconds":
        rows, sizes = _plan_by_seconds(blocks, durations_s, batching, seed=seed, epoch=epoch)
    elif batching.policy == "packed":
        rows, sizes = _plan_packed(blocks, durations_s, batching, seed=seed, epoch=epoch, hop_s=hop_s)
    else:
        rows, sizes = _plan_fixed(blocks, batching)
    return EpochPlan(rows, np.concatenate([[0], np.cumsum(sizes)]), batching.microbatches_per_step)


def check_lengths(durations_s: np.ndarray, batching: BatchingConfig, *, hop_s: float) -> None:
    """Refuse utterances that no micro-batch may hold.

    Raises:
        DataError: Names the manifest row of the longest and the keys to change.
    """
    longest = int(np.argmax(durations_s))
    lasts = f"utterance in row {longest} lasts {durations_s[longest]:.2f} s"
    advice = "raise that, lower data.max_duration_s, or raise augment.speed_min"
    if batching.policy == "seconds" and durations_s[longest] > batching.seconds_per_microbatch:
        limit_s = batching.seconds_per_microbatch
        raise DataError(f"{lasts}, more than batching.seconds_per_microbatch={limit_s}: {advice}")
    if batching.policy == "packed":
        room = RowRoom.of_config(batching, hop_s)
        frames = int(room.frames_of(durations_s[longest : longest + 1])[0])
        if frames > room.row_frames:
            raise DataError(
                f"{lasts} or up to {frames} feature frames, more than the {room.row_frames} of "
                f"batching.row_seconds={batching.row_seconds}: {advice}"
            )


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
        hop_s: Seconds per feature frame.
        shard_index: Shard of every utterance; a window needs it.
        window_shards: Largest number of shards in use at a time; None shuffles the whole corpus.

    Raises:
        DataError: Some epoch could play an utterance so slowly that no micro-batch may hold it.
    """

    def __init__(
        self,
        durations_s: np.ndarray,
        *,
        seed: int,
        batching: BatchingConfig,
        augment: AugmentConfig,
        hop_s: float = 0.01,
        shard_index: np.ndarray | None = None,
        window_shards: int | None = None,
    ) -> None:
        if len(durations_s):
            slowest = augment.speed_min if augment.speed_probability == 1 else min(augment.speed_min, 1.0)
            slowest = slowest if augment.speed_probability else 1.0
            check_lengths(durations_s / slowest, batching, hop_s=hop_s)
        self._durations_s = durations_s
        self._seed = seed
        self._batching = batching
        self._augment = augment
        self._hop_s = hop_s
        self._shard_index = shard_index
        self._window_shards = window_shards
        # Two readers (the loader's thread runs ahead of training) are at most one epoch apart.
        self.epoch = lru_cache(maxsize=3)(self._plan)

    def durations_s(self, epoch: int) -> np.ndarray:
        """`(num_utterances,)` seconds as the model hears them in an epoch."""
        rows = np.arange(len(self._durations_s))
        return self._durations_s / draw_speeds(self._augment, seed=self._seed, epoch=epoch, utterances=rows)

    def _plan(self, epoch: int) -> EpochPlan:
        return plan_epoch(
            self.durations_s(epoch),
            seed=self._seed,
            epoch=epoch,
            batching=self._batching,
            hop_s=self._hop_s,
            shard_index=self._shard_index,
            window_shards=self._window_shards,
        )

    @property
    def nominal_steps_per_epoch(self) -> int:
        """Steps of epoch 0; other epochs may have a few more or less, except under `fixed` without a window."""
        return self.epoch(0).num_steps


def _plan_fixed(blocks: list[np.ndarray], batching: BatchingConfig) -> tuple[np.ndarray, np.ndarray]:
    """Equal counts, and no utterance left over: sizes differ by at most one."""
    per_step = batching.microbatches_per_step * batching.utterances_per_microbatch
    counts = [len(block) for block in blocks]
    sizes = [
        _even_sizes(sum(counts[block] for block in segment), per_step, batching.microbatches_per_step)
        for segment in _segments(counts, per_step)
    ]
    return np.concatenate(blocks), np.concatenate(sizes)


def _plan_packed(
    blocks: list[np.ndarray], durations_s: np.ndarray, batching: BatchingConfig, *, seed: int, epoch: int, hop_s: float
) -> tuple[np.ndarray, np.ndarray]:
    """Rows packed and shuffled within each block, then shared out over micro-batches evenly."""
    room = RowRoom.of_config(batching, hop_s)
    units = room.units_of(durations_s)
    ordered, row_sizes, num_rows = [], [], 0
    for block in blocks:
        positions, counts = pack_rows(units[block], room.units)
        draws = uniform(seed, ROW_ORDER_STREAM, epoch, num_rows + np.arange(len(counts)))
        shuffled = np.argsort(draws, kind="stable")
        ordered.append(block[_take_runs(positions, counts, shuffled)])
        row_sizes.append(counts[shuffled])
        num_rows += len(counts)
    per_step = batching.microbatches_per_step * batching.rows_per_microbatch
    sizes = []
    for segment in _segments([len(counts) for counts in row_sizes], per_step):
        of_rows = np.concatenate([row_sizes[block] for block in segment])
        num_rows_of = _even_sizes(len(of_rows), per_step, batching.microbatches_per_step)
        if num_rows_of[-1]:
            sizes.append(np.add.reduceat(of_rows, np.cumsum(num_rows_of) - num_rows_of))
        else:  # fewer rows than micro-batches: split rows
            split = of_rows.tolist()
            _fill_last_step(split, batching.microbatches_per_step)
            sizes.append(np.array(split, dtype=np.int64))
    return np.concatenate(ordered), np.concatenate(sizes)


def _plan_by_seconds(
    blocks: list[np.ndarray], durations_s: np.ndarray, batching: BatchingConfig, *, seed: int, epoch: int
) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours in duration together; steps of micro-batches that cost alike, in shuffled order within each block."""
    grouped = [_microbatches_by_seconds(block, durations_s, batching) for block in blocks]
    per_step = batching.microbatches_per_step
    ordered, all_sizes, num_groups = [], [], 0
    for segment in _segments([len(sizes) for _, sizes in grouped], per_step):
        segment_sizes: list[int] = []
        for block in segment:
            rows, sizes = grouped[block]
            if len(segment) == 1:
                _fill_last_step(sizes, per_step)
            first = min(-len(segment_sizes) % per_step, len(sizes))
            groups = num_groups + np.arange((len(sizes) - first) // per_step)
            mixed = np.argsort(uniform(seed, STEP_ORDER_STREAM, epoch, groups), kind="stable")
            order = _step_order(len(sizes), first, per_step, mixed)
            ordered.append(_take_runs(rows, np.array(sizes), order))
            segment_sizes += np.array(sizes)[order].tolist()
            num_groups += len(groups)
        _fill_last_step(segment_sizes, per_step)
        all_sizes += segment_sizes
    return np.concatenate(ordered), np.array(all_sizes)


def _microbatches_by_seconds(
    order: np.ndarray, durations_s: np.ndarray, batching: BatchingConfig
) -> tuple[np.ndarray, list[int]]:
    """Sorted by duration bucket, and sizes of runs: until count times longest would pass the bound."""
    of_order = durations_s[order]
    edges = np.quantile(of_order, np.linspace(0, 1, NUM_DURATION_BUCKETS + 1)[1:-1])
    by_bucket = np.argsort(np.searchsorted(edges, of_order), kind="stable")
    sizes: list[int] = []
    count, longest_s = 0, 0.0
    for duration_s in of_order[by_bucket].tolist():
        count += 1
        longest_s = max(longest_s, duration_s)
        if count > batching.utterances_per_microbatch or count * longest_s > batching.seconds_per_microbatch:
            sizes.append(count - 1)
            count, longest_s = 1, duration_s
    sizes.append(count)
    return order[by_bucket], sizes


def _step_order(num_microbatches: int, first: int, per_step: int, mixed: np.ndarray) -> np.ndarray:
    """The order of training of micro-batches that are sorted by length.

    `first` of them fill the step that the block before began, then come whole steps, mixed, then what is left for the
    next block. First and last are the longest: these cost as much as the bound allows, whatever is beside them.
    """
    whole = len(mixed) * per_step
    steps = np.arange(whole).reshape(len(mixed), per_step)[mixed].ravel()
    longest = np.arange(whole, num_microbatches)
    return np.concatenate([longest[:first], steps, longest[first:]])


def _segments(counts: list[int], per_step: int) -> list[range]:
    """Runs of neighbouring blocks whose micro-batches are cut into steps together.

    A step must not reach over three blocks, their shards would be more than the window. It cannot where every block
    that has one before and one behind it in its run holds a whole step. A smaller block ends its run, whose last step
    then is a smaller one.
    """
    segments, start = [], 0
    for block in range(1, len(counts)):
        if block - 1 > start and counts[block - 1] < per_step:
            segments.append(range(start, block))
            start = block
    segments.append(range(start, len(counts)))
    return segments


def _even_sizes(count: int, per_step: int, microbatches_per_step: int) -> np.ndarray:
    """`count` things shared out over the micro-batches of as few steps as hold them; sizes differ by at most one."""
    num_microbatches = -(-count // per_step) * microbatches_per_step
    return count // num_microbatches + (np.arange(num_microbatches) < count % num_microbatches)


def _take_runs(values: np.ndarray, sizes: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Runs of `values`, which are `sizes` long, in another order."""
    starts = np.cumsum(sizes) - sizes
    taken = sizes[order]
    positions = np.repeat(starts[order] - (np.cumsum(taken) - taken), taken) + np.arange(taken.sum())
    return np.asarray(values[positions])


def _fill_last_step(sizes: list[int], per_step: int) -> None:
    """Halve the largest of the last micro-batches until steps are full; empty ones only where nothing can be halved."""
    while len(sizes) % per_step:
        first = max(0, len(sizes) - per_step)
        largest = max(range(first, len(sizes)), key=sizes.__getitem__)
        size = sizes[largest]
        if size < 2:
            sizes.append(0)
        else:
            sizes[largest : largest + 1] = [size // 2, size - size // 2]
