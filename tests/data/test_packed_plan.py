import numpy as np
import pytest

from jasper_ray.config.data import BatchingConfig
from jasper_ray.config.speech import AugmentConfig
from jasper_ray.data.packed_plan import POOL_UTTERANCES, RowRoom, pack_rows
from jasper_ray.data.packing import lay_out
from jasper_ray.data.plan import RunPlan, plan_epoch
from jasper_ray.errors import DataError

PACKED = BatchingConfig(policy="packed", row_seconds=20, rows_per_microbatch=2, microbatches_per_step=2)


def rows_of(positions: np.ndarray, counts: np.ndarray) -> list[list[int]]:
    return [part.tolist() for part in np.split(positions, np.cumsum(counts)[:-1])]


def test_the_longest_come_first_and_each_goes_into_the_fullest_row_that_holds_it() -> None:
    positions, counts = pack_rows(np.array([2, 6, 3, 5, 4]), 10)
    assert rows_of(positions, counts) == [[1, 4], [3, 2, 0]]


def test_a_small_one_goes_where_the_least_room_is_left() -> None:
    # 9 leaves 1, 7 leaves 3, 6 leaves 4: the 3 fits into the second, the 1 into the first.
    positions, counts = pack_rows(np.array([9, 7, 6, 3, 1]), 10)
    assert rows_of(positions, counts) == [[0, 4], [1, 3], [2]]


def test_utterances_of_different_pools_never_share_a_row() -> None:
    units = np.random.default_rng(0).integers(10, 60, 3 * POOL_UTTERANCES + 5)
    positions, counts = pack_rows(units, 100)
    assert sorted(positions.tolist()) == list(range(len(units)))
    assert np.add.reduceat(units[positions], np.cumsum(counts) - counts).max() <= 100
    assert all(len({position // POOL_UTTERANCES for position in row}) == 1 for row in rows_of(positions, counts))


def test_rows_are_packed_nearly_full() -> None:
    units = np.random.default_rng(0).integers(20, 220, 20_000)
    _, counts = pack_rows(units, 507)
    assert units.sum() / (507 * len(counts)) > 0.99


def test_what_a_row_holds_in_units_is_what_the_layout_puts_into_one_row() -> None:
    room = RowRoom.of_config(BatchingConfig(row_seconds=10, gap_seconds=0.56), 0.01)
    for seconds in ([9.99], [4.6, 4.6], [3.0, 3.0, 2.6]):
        assert room.units_of(np.array(seconds)).sum() <= room.units
        frames = np.ceil(np.array(seconds) * 100).astype(int).tolist()
        assert lay_out(frames, row_frames=1000, gap_frames=56)[-1][0] == 0
    assert room.units_of(np.array([4.8, 4.8])).sum() > room.units
    assert lay_out([480, 480], row_frames=1000, gap_frames=56)[-1][0] == 1


def test_packed_steps_mix_rows_of_the_whole_epoch() -> None:
    """Rows leave a pool with its longest utterances first; in the order of training nothing is left of that."""
    durations_s = np.random.default_rng(0).uniform(1, 16, 5000)
    plan = plan_epoch(durations_s, seed=0, epoch=0, batching=PACKED.model_copy(update={"row_seconds": 40}))
    means = [durations_s[plan.step_rows(step)].mean() for step in range(plan.num_steps)]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.2


def test_an_utterance_longer_than_a_row_is_named_with_the_keys_to_change() -> None:
    with pytest.raises(DataError, match=r"row 1 lasts 20\.50 s.*row_seconds=20.*data\.max_duration_s"):
        plan_epoch(np.array([1.0, 20.5]), seed=0, epoch=0, batching=PACKED)


def test_a_run_is_refused_before_it_starts_if_an_utterance_could_outgrow_its_row_at_the_slowest_speed() -> None:
    durations_s = np.array([1.0, 18.0])
    slow = AugmentConfig(speed_min=0.85, speed_max=1.15, speed_probability=0.01)
    with pytest.raises(DataError, match=r"row 1 lasts 21\.18 s.*augment\.speed_min"):
        RunPlan(durations_s, seed=0, batching=PACKED, augment=slow)
    never = slow.model_copy(update={"speed_probability": 0.0})
    assert RunPlan(durations_s, seed=0, batching=PACKED, augment=never).nominal_steps_per_epoch == 1
    faster = AugmentConfig(speed_min=1.1, speed_max=1.2)
    assert RunPlan(np.array([21.0]), seed=0, batching=PACKED, augment=faster).nominal_steps_per_epoch == 1
    with pytest.raises(DataError, match="row 0"):
        RunPlan(np.array([21.0]), seed=0, batching=PACKED, augment=faster.model_copy(update={"speed_probability": 0.9}))
