import numpy as np

from jasper_ray.config.data import BatchingConfig
from jasper_ray.data.epoch_plan import EpochPlan
from jasper_ray.data.plan import plan_epoch
from jasper_ray.data.windows import layout_fingerprint, most_shards_in_use, shard_blocks, shard_spans, shards_needed

# Two steps of two micro-batches: rows 0 and 1, row 2; row 3, rows 4 and 5.
PLAN = EpochPlan(np.arange(6), np.array([0, 2, 3, 4, 6]), 2)
SHARD_INDEX = np.array([4, 1, 4, 1, 0, 1])


def test_shards_of_a_step_come_once_in_the_order_first_needed() -> None:
    assert list(shards_needed(PLAN, SHARD_INDEX)) == [[4, 1], [1, 0]]
    assert list(shards_needed(PLAN, SHARD_INDEX, start_step=1)) == [[1, 0]]


def test_a_worker_needs_the_shards_of_its_own_microbatches_only() -> None:
    assert list(shards_needed(PLAN, SHARD_INDEX, rank=0, world_size=2)) == [[4, 1], [1]]
    assert list(shards_needed(PLAN, SHARD_INDEX, rank=1, world_size=2)) == [[4], [0, 1]]
    assert list(shards_needed(PLAN, SHARD_INDEX, rank=7, world_size=8)) == [[], []]


def test_a_shard_is_in_use_from_its_first_to_its_last_step() -> None:
    first, last = shard_spans(PLAN, SHARD_INDEX)
    assert first.tolist() == [1, 0, -1, -1, 0]
    assert last.tolist() == [1, 1, -1, -1, 0]
    assert most_shards_in_use(PLAN, SHARD_INDEX) == 2


def test_a_shard_between_two_uses_counts_as_in_use() -> None:
    plan = EpochPlan(np.arange(3), np.arange(4), 1)
    assert most_shards_in_use(plan, np.array([0, 1, 0])) == 2
    assert most_shards_in_use(plan, np.array([0, 0, 1])) == 1


def test_blocks_hold_half_the_window_and_keep_the_shuffled_order() -> None:
    shard_index = np.repeat(np.arange(10), 7)
    order = np.random.default_rng(0).permutation(70)
    blocks = shard_blocks(order, shard_index, window_shards=5, seed=1, epoch=0)
    assert sorted(np.concatenate(blocks).tolist()) == list(range(70))
    assert [len(set(shard_index[rows])) for rows in blocks] == [2, 2, 2, 2, 2]
    place = np.argsort(order)
    assert all(bool(np.all(np.diff(place[rows]) > 0)) for rows in blocks)


def test_shards_are_blocked_together_differently_in_every_epoch() -> None:
    shard_index = np.repeat(np.arange(10), 3)
    blocks = [shard_blocks(np.arange(30), shard_index, window_shards=4, seed=1, epoch=epoch) for epoch in range(2)]
    assert [set(shard_index[rows].tolist()) for rows in blocks[0]] != [
        set(shard_index[rows].tolist()) for rows in blocks[1]
    ]


def test_a_step_of_a_plan_is_found_without_those_before_it() -> None:
    plan = plan_epoch(np.ones(100), seed=0, epoch=0, batching=BatchingConfig(utterances_per_microbatch=2))
    assert plan.num_steps == len(plan.steps) == 4
    assert np.array_equal(np.concatenate(plan.steps[2]), plan.step_rows(2))
    assert str(plan.steps[-1]) == str(plan.steps[3]) == str(plan.steps[2:][1])


def test_another_layout_in_shards_has_another_fingerprint() -> None:
    assert layout_fingerprint("a", np.array([0, 1])) == layout_fingerprint("a", np.array([0, 1]))
    assert len({layout_fingerprint(m, np.array(i)) for m, i in [("a", [0, 1]), ("a", [0, 0]), ("b", [0, 1])]}) == 3
