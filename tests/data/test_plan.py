from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jasper_ray.config.data import BatchingConfig
from jasper_ray.config.speech import AugmentConfig
from jasper_ray.data.epoch_plan import EpochPlan, rank_microbatches
from jasper_ray.data.plan import RunPlan, plan_epoch, plan_evaluation
from jasper_ray.errors import DataError


def durations(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.5, 16.0, size=count)


def rows_of(plan: EpochPlan) -> list[int]:
    return [int(row) for step in plan.steps for rows in step for row in rows]


batchings = st.builds(
    BatchingConfig,
    policy=st.sampled_from(["fixed", "seconds"]),
    utterances_per_microbatch=st.integers(1, 9),
    seconds_per_microbatch=st.floats(17.0, 80.0),
    microbatches_per_step=st.integers(1, 8),
)


@settings(max_examples=60, deadline=None)
@given(batchings, st.integers(1, 120), st.integers(0, 5), st.integers(0, 5))
def test_an_epoch_holds_every_utterance_once_within_its_bounds(
    batching: BatchingConfig, count: int, seed: int, epoch: int
) -> None:
    lengths = durations(count)
    plan = plan_epoch(lengths, seed=seed, epoch=epoch, batching=batching)
    assert sorted(rows_of(plan)) == list(range(count))
    for step in plan.steps:
        assert len(step) == batching.microbatches_per_step
        for rows in step:
            assert len(rows) <= batching.utterances_per_microbatch
            if batching.policy == "seconds" and len(rows):
                assert len(rows) * lengths[rows].max() <= batching.seconds_per_microbatch


@settings(max_examples=40, deadline=None)
@given(batchings, st.integers(1, 120), st.integers(1, 64))
def test_any_number_of_workers_shares_the_same_steps(batching: BatchingConfig, count: int, world_size: int) -> None:
    plan = plan_epoch(durations(count), seed=1, epoch=2, batching=batching)
    shares = [list(rank_microbatches(plan, rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert {len(share) for share in shares} == {len(plan.steps)}
    for step, parts in enumerate(zip(*shares, strict=True)):
        merged = dict(chain.from_iterable(microbatches for _, microbatches in parts))
        expected = {number: rows for number, rows in enumerate(plan.steps[step]) if len(rows)}
        assert {number: rows.tolist() for number, rows in merged.items()} == {
            number: rows.tolist() for number, rows in expected.items()
        }


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_a_resume_in_mid_epoch_sees_the_rest_of_the_list(world_size: int) -> None:
    plan = plan_epoch(durations(100), seed=7, epoch=3, batching=BatchingConfig(utterances_per_microbatch=4))
    for rank in range(world_size):
        whole = list(rank_microbatches(plan, rank=rank, world_size=world_size))
        rest = list(rank_microbatches(plan, rank=rank, world_size=world_size, start_step=1))
        assert str(whole[1:]) == str(rest)


def test_epochs_and_seeds_give_other_orders_and_the_same_pair_the_same() -> None:
    batching = BatchingConfig(utterances_per_microbatch=4, microbatches_per_step=2)
    orders = [
        rows_of(plan_epoch(durations(50), seed=s, epoch=e, batching=batching)) for s, e in [(0, 0), (0, 1), (1, 0)]
    ]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert orders[0] == rows_of(plan_epoch(durations(50), seed=0, epoch=0, batching=batching))


def test_seconds_wastes_far_less_padding_than_fixed() -> None:
    lengths = durations(4000)

    def padding(policy: str) -> float:
        batching = BatchingConfig(policy=policy, utterances_per_microbatch=32, seconds_per_microbatch=320)
        plan = plan_epoch(lengths, seed=0, epoch=0, batching=batching)
        padded = sum(len(rows) * lengths[rows].max() for step in plan.steps for rows in step if len(rows))
        return 1 - lengths.sum() / padded

    assert padding("fixed") > 0.3
    assert padding("seconds") < 0.05


def test_microbatches_of_a_step_cost_alike_under_seconds() -> None:
    lengths = durations(4000)
    plan = plan_epoch(lengths, seed=0, epoch=0, batching=BatchingConfig(policy="seconds", microbatches_per_step=8))
    costs = [[len(rows) * lengths[rows].max() for rows in step] for step in plan.steps]
    spread = [max(step) / min(step) for step in costs]
    assert np.median(spread) < 1.3


def test_an_utterance_longer_than_a_microbatch_is_named_with_the_keys_to_change() -> None:
    with pytest.raises(DataError, match=r"row 1 lasts 30\.00 s.*batching\.seconds_per_microbatch=20"):
        batching = BatchingConfig(policy="seconds", seconds_per_microbatch=20)
        plan_epoch(np.array([1.0, 30.0]), seed=0, epoch=0, batching=batching)


def test_no_utterances_is_an_error() -> None:
    with pytest.raises(DataError, match=r"no utterances"):
        plan_epoch(np.zeros(0), seed=0, epoch=0, batching=BatchingConfig())


def test_a_run_plans_with_the_speeds_of_each_epoch() -> None:
    augment = AugmentConfig(speed_min=0.8, speed_max=1.25)
    batching = BatchingConfig(policy="seconds", microbatches_per_step=2, seconds_per_microbatch=40)
    run = RunPlan(durations(60), seed=3, batching=batching, augment=augment)
    plain = plan_epoch(durations(60), seed=3, epoch=0, batching=batching)
    assert rows_of(run.epoch(0)) != rows_of(plain)
    assert sorted(rows_of(run.epoch(1))) == list(range(60))


def test_evaluation_batches_hold_every_row_once_and_bound_their_seconds() -> None:
    lengths = durations(77)
    batches = plan_evaluation(lengths, seconds_per_batch=50)
    assert sorted(np.concatenate(batches).tolist()) == list(range(77))
    assert max(len(rows) * lengths[rows].max() for rows in batches) <= 50
    assert [rows.tolist() for rows in plan_evaluation(np.array([99.0]), seconds_per_batch=50)] == [[0]]
