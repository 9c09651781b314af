"""A million utterances: planning an epoch takes seconds and little memory, finding a step in it takes microseconds."""

import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from jasper_ray.config.data import BatchingConfig
from jasper_ray.config.speech import AugmentConfig
from jasper_ray.data.epoch_plan import rank_microbatches
from jasper_ray.data.plan import RunPlan
from jasper_ray.data.simulation import UTTERANCES_PER_SHARD, librispeech_like_durations

COUNT = 1_000_000
NUM_WORKERS = 64


@dataclass(frozen=True)
class Planned:
    policy: str
    run: RunPlan
    cpu_s: float


def run_plan(policy: str, count: int) -> RunPlan:
    windowed = policy == "windowed"
    return RunPlan(
        librispeech_like_durations(count, seed=0),
        seed=0,
        batching=BatchingConfig(policy="packed" if windowed else policy, microbatches_per_step=NUM_WORKERS),
        augment=AugmentConfig(speed_min=0.85, speed_max=1.15),
        shard_index=np.arange(count) // UTTERANCES_PER_SHARD,
        window_shards=64 if windowed else None,
    )


@pytest.fixture(scope="module", params=["fixed", "seconds", "packed", "windowed"])
def planned(request: pytest.FixtureRequest) -> Iterator[Planned]:
    run = run_plan(request.param, COUNT)
    started_s = time.process_time()  # wall time would count what else the machine does
    run.epoch(0)
    yield Planned(request.param, run, time.process_time() - started_s)


def test_an_epoch_of_a_million_is_planned_within_5_seconds(planned: Planned) -> None:
    assert planned.cpu_s < 5
    assert len(np.unique(planned.run.epoch(0).rows)) == COUNT


def test_any_step_is_found_within_a_millisecond(planned: Planned) -> None:
    plan = planned.run.epoch(0)
    last = plan.num_steps - 1
    took_s = []
    for _ in range(20):
        started_s = time.perf_counter()
        step, share = next(rank_microbatches(plan, rank=3, world_size=NUM_WORKERS, start_step=last))
        took_s.append(time.perf_counter() - started_s)
    assert step == last and len(share) <= 1
    assert min(took_s) < 1e-3


def test_planning_takes_less_than_a_kibibyte_an_utterance(planned: Planned) -> None:
    """So a million take less than a gibibyte. Measured on a fifth of them: counting memory is slow."""
    count = COUNT // 5
    run = run_plan(planned.policy, count)
    tracemalloc.start()
    try:
        run.epoch(1)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1024 * count
