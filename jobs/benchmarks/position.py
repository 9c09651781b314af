"""How long it takes to find a position in the middle of an epoch and hold its first bytes, as a resume does."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from jasper_ray.data.plan import RunPlan
from jasper_ray.data.source import UtteranceSource
from jobs.benchmarks.peers import Peer, Reading
from jobs.benchmarks.reading import edges

OURS = "jasper_ray plan"
RANK, WORLD_SIZE = 1, 4


def measure_positions(
    plan: RunPlan, source: UtteranceSource, peers: list[Peer], num_utterances: int, *, rounds: int
) -> dict[str, dict[str, float]]:
    """Milliseconds (wall) to the first bytes at places all over the epoch; this project's at every step."""
    shares = ((np.arange(rounds) + 0.5) / rounds).tolist()
    plan.epoch(0)
    _first_of_step(plan, source, 0)  # shards are open, files in memory: as everybody's
    # First alone: StreamingDataset leaves threads behind that hold up whatever is timed beside them.
    steps = range(plan.epoch(0).num_steps)
    every_step = [_timed_ms(partial(_first_of_step, plan, source, step)) for step in steps]
    chosen = [every_step[int(share * len(steps))] for share in shares]
    plan.epoch.cache_clear()
    planning_ms = _timed_ms(partial(plan.epoch, 0))
    milliseconds: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for share in shares:
        for peer in peers:
            begin = peer.from_position(int(share * num_utterances))
            milliseconds[peer.name].append(_first_ms(begin))
    figures = {name: _spread(values) for name, values in {OURS: chosen, **milliseconds}.items()}
    figures[OURS] |= {
        "every_step_median_ms": statistics.median(every_step),
        "every_step_largest_ms": max(every_step),
        "planning_the_epoch_ms": planning_ms,
    }
    return figures


def _spread(values: list[float]) -> dict[str, float]:
    return {"median_ms": statistics.median(values), "largest_ms": max(values), "smallest_ms": min(values)}


def _first_of_step(plan: RunPlan, source: UtteranceSource, step: int) -> int:
    """A worker's share of a step, and the first utterance of it."""
    share = plan.epoch(0).share(step, rank=RANK, world_size=WORLD_SIZE)
    if not share:
        return 0
    _, rows = share[0]
    return edges(source.microbatch(rows[:1].tolist(), 0)[0].audio)


def _first_ms(begin: Callable[[], Reading]) -> float:
    """Until the first bytes are there; letting go of the reader is not counted."""
    started_s = time.perf_counter()
    reading = begin()
    edges(next(reading)[1])
    milliseconds = (time.perf_counter() - started_s) * 1000
    del reading  # closes it
    return milliseconds


def _timed_ms(work: Callable[[], Any]) -> float:
    started_s = time.perf_counter()
    work()
    return (time.perf_counter() - started_s) * 1000
