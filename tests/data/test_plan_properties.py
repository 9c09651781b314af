"""What holds for every plan, whatever the corpus, policy, window, seed, epoch and number of workers."""

from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jasper_ray.audio.augment import draw_speeds
from jasper_ray.audio.decode import resampled_length
from jasper_ray.config.data import BatchingConfig
from jasper_ray.config.speech import AugmentConfig, FeatureConfig
from jasper_ray.data.epoch_plan import EpochPlan, rank_microbatches
from jasper_ray.data.packing import RowShape, lay_out
from jasper_ray.data.plan import RunPlan
from jasper_ray.data.windows import most_shards_in_use

RATE_HZ = 16_000
SLOWEST, FASTEST = 0.85, 1.15
LONGEST_S = 16.7


@dataclass(frozen=True)
class Case:
    """A corpus and how it is planned; drawn from a few small numbers, so that hypothesis can shrink it."""

    num_samples: np.ndarray
    shard_index: np.ndarray
    batching: BatchingConfig
    seed: int
    epoch: int
    window_shards: int | None

    @property
    def augment(self) -> AugmentConfig:
        return AugmentConfig(speed_min=SLOWEST, speed_max=FASTEST, speed_probability=0.9)

    @property
    def heard_samples(self) -> np.ndarray:
        """As training will decode them: rounded, at the drawn speed."""
        rows = np.arange(len(self.num_samples))
        speeds = draw_speeds(self.augment, seed=self.seed, epoch=self.epoch, utterances=rows)
        return resampled_length(self.num_samples, RATE_HZ, RATE_HZ, speeds)

    def plan(self) -> EpochPlan:
        run = RunPlan(
            self.num_samples / RATE_HZ,
            seed=self.seed,
            batching=self.batching,
            augment=self.augment,
            shard_index=self.shard_index,
            window_shards=self.window_shards,
        )
        return run.epoch(self.epoch)


batchings = st.builds(
    BatchingConfig,
    policy=st.sampled_from(["fixed", "seconds", "packed"]),
    utterances_per_microbatch=st.integers(1, 9),
    seconds_per_microbatch=st.floats(20.0, 90.0),
    row_seconds=st.floats(20.0, 60.0),
    rows_per_microbatch=st.integers(1, 4),
    gap_seconds=st.sampled_from([0.0, 0.1, 0.56]),
    microbatches_per_step=st.integers(1, 16),
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    count = draw(st.integers(1, 400))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.sampled_from(["uniform", "long", "equal"]))
    seconds = {
        "uniform": random.uniform(0.1, LONGEST_S, count),
        "long": LONGEST_S * random.uniform(0, 1, count) ** 0.2,
        "equal": np.full(count, random.uniform(0.1, LONGEST_S)),
    }[shape]
    shard_index = random.integers(0, draw(st.integers(1, 30)), count)
    if draw(st.booleans()):
        shard_index.sort()  # as a corpus is written
    return Case(
        num_samples=np.maximum(1, np.floor(seconds * RATE_HZ)).astype(np.int64),
        shard_index=shard_index,
        batching=draw(batchings),
        seed=draw(st.integers(0, 2**40)),
        epoch=draw(st.integers(0, 500)),
        window_shards=draw(st.one_of(st.none(), st.integers(2, 12))),
    )


def in_order(plan: EpochPlan, world_size: int) -> list[list[list[int]]]:
    """What `world_size` workers do together: per step the micro-batches by their numbers."""
    shares = [list(rank_microbatches(plan, rank=rank, world_size=world_size)) for rank in range(world_size)]
    steps = []
    for parts in zip(*shares, strict=True):  # strict: a rank with fewer steps would hang the others
        assert len({step for step, _ in parts}) == 1
        merged = sorted(chain.from_iterable(share for _, share in parts), key=lambda numbered: numbered[0])
        steps.append([rows.tolist() for _, rows in merged])
    return steps


@settings(max_examples=100, deadline=None)
@given(cases())
def test_an_epoch_holds_every_utterance_once_in_full_steps(case: Case) -> None:
    plan = case.plan()
    assert sorted(plan.rows.tolist()) == list(range(len(case.num_samples)))
    assert plan.num_steps * case.batching.microbatches_per_step + 1 == len(plan.bounds)
    assert plan.bounds[0] == 0 and plan.bounds[-1] == len(plan.rows) and np.all(np.diff(plan.bounds) >= 0)
    assert all(plan.num_utterances(step) > 0 for step in range(plan.num_steps))
    for step in range(plan.num_steps):
        if plan.num_utterances(step) >= case.batching.microbatches_per_step:
            assert all(len(rows) for rows in plan.steps[step]), "a worker waits while others could share their work"


@settings(max_examples=100, deadline=None)
@given(cases())
def test_no_microbatch_is_larger_than_its_memory_bound(case: Case) -> None:
    batching, samples = case.batching, case.heard_samples
    shape = RowShape.of_config(batching, FeatureConfig())
    for rows in (rows for step in case.plan().steps for rows in step if len(rows)):
        if batching.policy == "packed":
            frames = (-(-samples[rows] // 160)).tolist()
            places = lay_out(frames, row_frames=shape.num_frames, gap_frames=shape.gap_frames)
            assert places[-1][0] < batching.rows_per_microbatch
        else:
            assert len(rows) <= batching.utterances_per_microbatch
        if batching.policy == "seconds":
            # A sample is as fine as durations of waveforms get.
            assert len(rows) * (samples[rows].max() - 1) / RATE_HZ <= batching.seconds_per_microbatch


@settings(max_examples=100, deadline=None)
@given(cases(), st.integers(1, 64), st.integers(1, 64))
def test_any_number_of_workers_makes_the_same_steps_in_the_same_order(case: Case, one: int, other: int) -> None:
    plan = case.plan()
    expected = [[rows.tolist() for rows in step if len(rows)] for step in plan.steps]
    assert in_order(plan, one) == in_order(plan, other) == expected


@settings(max_examples=100, deadline=None)
@given(cases(), st.integers(1, 64), st.data())
def test_a_resume_at_any_step_does_the_rest_of_the_list(case: Case, world_size: int, data: st.DataObject) -> None:
    plan, again = case.plan(), case.plan()
    start = data.draw(st.integers(0, plan.num_steps))
    rank = data.draw(st.integers(0, world_size - 1))
    whole = list(rank_microbatches(plan, rank=rank, world_size=world_size))
    rest = list(rank_microbatches(again, rank=rank, world_size=world_size, start_step=start))
    assert repr(rest) == repr(whole[start:])


@settings(max_examples=100, deadline=None)
@given(cases(), st.integers(2, 12))
def test_no_more_shards_are_in_use_than_the_window_allows(case: Case, window_shards: int) -> None:
    plan = replace(case, window_shards=window_shards).plan()
    assert most_shards_in_use(plan, case.shard_index) <= window_shards


@settings(max_examples=100, deadline=None)
@given(cases())
def test_another_seed_or_epoch_gives_another_order(case: Case) -> None:
    case = replace(case, num_samples=np.resize(case.num_samples, 60), shard_index=np.resize(case.shard_index, 60))
    plans = [case, replace(case, seed=case.seed + 1), replace(case, epoch=case.epoch + 1)]
    first, *others = [plan.plan().rows.tolist() for plan in plans]
    assert first not in others


@settings(max_examples=100, deadline=None)
@given(cases(), st.integers(2, 12))
def test_a_step_is_smaller_only_at_the_end_or_where_the_window_is_too_narrow(case: Case, window_shards: int) -> None:
    """Blocks of shards that hold whole steps lose nothing: the window costs at most one step more."""
    shards = np.sort(np.resize(np.arange(12), len(case.num_samples)))  # of equal size
    batching = case.batching.model_copy(update={"policy": "fixed"})
    case = replace(case, shard_index=shards, batching=batching)
    per_step = batching.utterances_per_microbatch * batching.microbatches_per_step
    steps = replace(case, window_shards=window_shards).plan().num_steps
    if len(case.num_samples) // 12 * (window_shards // 2) >= per_step:
        assert steps == replace(case, window_shards=None).plan().num_steps
