from pathlib import Path

import numpy as np
import pytest

from jasper_ray.config.data import BatchingConfig
from jasper_ray.config.speech import AugmentConfig, FeatureConfig
from jasper_ray.data.epoch_plan import EpochPlan
from jasper_ray.data.manifest import read_manifest
from jasper_ray.data.plan import RunPlan
from jasper_ray.data.simulation import (
    PlanFigures,
    librispeech_like_durations,
    microbatch_seconds,
    plan_figures,
    plan_like_nvidia,
    write_simulated_manifest,
)

FEATURES = FeatureConfig()
# Room for 64 utterances of 16.7 s on each worker, as jobs/configs/librispeech_batching.yaml.
ROOM = {"utterances_per_microbatch": 64, "seconds_per_microbatch": 1069, "row_seconds": 44, "rows_per_microbatch": 23}


@pytest.fixture(scope="module")
def durations_s(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """LibriSpeech's size and distribution, through a manifest on disk; the longest left out, as in training."""
    dataset = str(tmp_path_factory.mktemp("simulated"))
    write_simulated_manifest(dataset, librispeech_like_durations(281_241, seed=0))
    seconds = read_manifest(dataset).durations_s
    return seconds[seconds <= 16.7]


def simulate(durations_s: np.ndarray, policy: str, num_workers: int) -> PlanFigures:
    batching = BatchingConfig(policy=policy, microbatches_per_step=num_workers, **ROOM)
    run = RunPlan(durations_s, seed=0, batching=batching, augment=AugmentConfig(speed_min=0.85, speed_max=1.15))
    return plan_figures(run.epoch(0), run.durations_s(0), batching=batching, features=FEATURES, num_workers=num_workers)


def test_simulated_durations_have_librispeechs_quartiles() -> None:
    seconds = librispeech_like_durations(100_000, seed=1)
    assert np.quantile(seconds, [0.25, 0.5, 0.75]) == pytest.approx([11.0, 14.0, 15.0], abs=0.1)
    assert seconds.mean() == pytest.approx(12.56, abs=0.05)
    assert seconds.min() >= 1.3 and seconds.max() <= 21.9


def test_packed_rows_keep_95_percent_of_64_workers_busy_without_waiting(durations_s: np.ndarray) -> None:
    figures = simulate(durations_s, "packed", 64)
    assert figures.efficiency >= 0.95
    assert figures.straggler_share <= 0.01


def test_bounded_seconds_keep_83_percent_of_64_workers_busy(durations_s: np.ndarray) -> None:
    assert simulate(durations_s, "seconds", 64).efficiency >= 0.83


def test_fixed_counts_keep_64_workers_no_busier_than_nvidias_order_does(durations_s: np.ndarray) -> None:
    fixed = simulate(durations_s, "fixed", 64)
    plan, dropped = plan_like_nvidia(len(durations_s), seed=0, epoch=0, batch_size=64, num_workers=64)
    batching = BatchingConfig(policy="fixed", microbatches_per_step=64)
    run = RunPlan(durations_s, seed=0, batching=batching, augment=AugmentConfig(speed_min=0.85, speed_max=1.15))
    nvidia = plan_figures(plan, run.durations_s(0), batching=batching, features=FEATURES, num_workers=64)
    assert fixed.efficiency == pytest.approx(nvidia.efficiency, abs=0.01)
    assert fixed.efficiency < 0.7 and 0 < dropped < 64 * 64
    assert len(np.unique(plan.rows)) == len(durations_s) - dropped


def test_figures_are_those_of_a_plan_worked_out_by_hand() -> None:
    # Step 0: two of 1.6 s (one padded from 1.5), one of 3.2 s. Step 1: one of 1.6 s, and a worker with nothing.
    plan = EpochPlan(np.array([0, 1, 2, 3]), np.array([0, 2, 3, 4, 4]), 2)
    seconds = np.array([1.6, 1.5, 3.2, 1.6])
    batching = BatchingConfig(policy="fixed")
    costs = microbatch_seconds(plan, seconds, batching=batching, features=FEATURES)
    assert costs == pytest.approx(np.array([[3.2, 3.2], [1.6, 0]]))
    figures = plan_figures(plan, seconds, batching=batching, features=FEATURES, num_workers=2)
    assert figures.padding_share == pytest.approx(1 - 7.9 / 8)
    assert figures.efficiency == pytest.approx(7.9 / 9.6)
    assert figures.straggler_share == pytest.approx(1 - 8 / 9.6)
    one = plan_figures(plan, seconds, batching=batching, features=FEATURES, num_workers=1)
    assert one.straggler_share == 0
    # A third and a fourth worker have nothing to do at all.
    assert plan_figures(plan, seconds, batching=batching, features=FEATURES, num_workers=4).efficiency == pytest.approx(
        7.9 / 19.2
    )


def test_packed_microbatches_cost_their_shape() -> None:
    plan = EpochPlan(np.arange(3), np.array([0, 2, 3]), 1)
    batching = BatchingConfig(policy="packed", row_seconds=10, rows_per_microbatch=3)
    costs = microbatch_seconds(plan, np.ones(3), batching=batching, features=FEATURES)
    assert costs == pytest.approx(np.full((2, 1), 3 * 10.08))


def test_a_simulated_manifest_reads_back_as_written(tmp_path: Path) -> None:
    seconds = librispeech_like_durations(1600, seed=3)
    write_simulated_manifest(str(tmp_path), seconds)
    manifest = read_manifest(str(tmp_path))
    assert np.array_equal(manifest.durations_s, seconds)
    assert np.array_equal(manifest.num_samples, np.round(seconds * 16_000))
    assert len(manifest.shards) == 2 and manifest.shard_index.tolist() == [0] * 1500 + [1] * 100
