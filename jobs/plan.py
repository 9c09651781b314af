"""What an epoch costs under each batching policy: `python -m jobs.plan DATASET|simulate CONFIG [KEY=VALUE ...]`."""

import argparse
import tempfile
import time
import tracemalloc
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from rich.table import Table

from jasper_ray.config.data import BatchingConfig, DatasetConfig
from jasper_ray.config.files import load_run_config
from jasper_ray.config.schema import RunConfig
from jasper_ray.data.epoch_plan import EpochPlan
from jasper_ray.data.manifest import Manifest
from jasper_ray.data.plan import RunPlan
from jasper_ray.data.simulation import (
    PlanFigures,
    librispeech_like_durations,
    plan_figures,
    plan_like_nvidia,
    write_simulated_manifest,
)
from jasper_ray.data.windows import most_shards_in_use
from jasper_ray.training.assembly import plan_run, read_datasets
from jobs.entry import console, run_job

SIMULATE = "simulate"
POLICIES = ("fixed", "seconds", "packed")
STEPS_TO_FIND = 1000


@dataclass(frozen=True)
class _Row:
    """Figures of one policy on one number of workers."""

    policy: str
    num_workers: int
    figures: PlanFigures
    details: dict[str, float | int]

    def as_dict(self) -> dict[str, Any]:
        return {"policy": self.policy, "workers": self.num_workers, **asdict(self.figures), **self.details}


def measure_plans(
    config: RunConfig, manifest: Manifest, *, policies: list[str], workers: list[int], epoch: int, memory: bool = False
) -> Iterator[_Row]:
    """Plan an epoch by each policy; one micro-batch per worker and step if `workers` says how many."""
    for num_workers in workers or [config.cluster.max_workers]:
        update = {"microbatches_per_step": num_workers} if workers else {}
        batching = config.batching.model_copy(update=update)
        for policy in policies:
            planned = config.model_copy(update={"batching": batching.model_copy(update={"policy": policy})})
            yield _measure(planned, manifest, num_workers, epoch=epoch, memory=memory)
        if set(policies) == set(POLICIES):
            yield _nvidia(config, manifest, batching, num_workers, epoch)


def _measure(config: RunConfig, manifest: Manifest, num_workers: int, *, epoch: int, memory: bool) -> _Row:
    run, batching = plan_run(config, manifest), config.batching
    started_s = time.perf_counter()
    plan = run.epoch(epoch)
    took_s = time.perf_counter() - started_s
    details: dict[str, float | int] = {
        "plan_s": took_s,
        "find_step_ms": 1e3 * _seconds_to_find_a_step(plan, num_workers),
    }
    if memory:
        run.epoch.cache_clear()
        details["plan_peak_mib"] = _peak_mib(run, epoch)
    if config.data.window_shards is not None:
        details["shards_in_use"] = most_shards_in_use(plan, manifest.shard_index)
    return _Row(str(batching.policy), num_workers, _figures(config, run, plan, batching, num_workers, epoch), details)


def _nvidia(config: RunConfig, manifest: Manifest, batching: BatchingConfig, num_workers: int, epoch: int) -> _Row:
    """NVIDIA's order of the same utterances, for comparison."""
    fixed = batching.model_copy(update={"policy": "fixed"})
    run = plan_run(config.model_copy(update={"batching": fixed}), manifest)
    size = fixed.utterances_per_microbatch
    plan, dropped = plan_like_nvidia(
        len(manifest), seed=config.seed, epoch=epoch, batch_size=size, num_workers=num_workers
    )
    if plan.num_steps == 0:  # NVIDIA's would not train on so little
        plan, dropped = run.epoch(epoch), 0
    return _Row("nvidia", num_workers, _figures(config, run, plan, fixed, num_workers, epoch), {"dropped": dropped})


def _figures(
    config: RunConfig, run: RunPlan, plan: EpochPlan, batching: BatchingConfig, num_workers: int, epoch: int
) -> PlanFigures:
    durations_s = run.durations_s(epoch)
    return plan_figures(plan, durations_s, batching=batching, features=config.features, num_workers=num_workers)


def _seconds_to_find_a_step(plan: EpochPlan, num_workers: int) -> float:
    """Mean time to a worker's share of a step anywhere in the epoch."""
    steps = np.random.default_rng(0).integers(0, plan.num_steps, STEPS_TO_FIND).tolist()
    started_s = time.perf_counter()
    for number, step in enumerate(steps):
        plan.share(step, rank=number % num_workers, world_size=num_workers)
    return (time.perf_counter() - started_s) / STEPS_TO_FIND


def _peak_mib(run: RunPlan, epoch: int) -> float:
    """Most memory that planning an epoch takes, the plan included and all that was there before left out."""
    tracemalloc.start()
    try:
        run.epoch(epoch)
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def _table(rows: list[_Row]) -> Table:
    table = Table("policy", "workers", "steps", "utterances/step", "padding", "waiting", "useful work", "planned in")
    for row in rows:
        figures, took_s = row.figures, row.details.get("plan_s")
        shares = [f"{100 * share:.1f} %" for share in (figures.padding_share, figures.straggler_share)]
        counts = [str(row.num_workers), str(figures.steps), f"{figures.utterances_per_step:.0f}"]
        planned = "" if took_s is None else f"{took_s:.2f} s"
        table.add_row(row.policy, *counts, *shares, f"{100 * figures.efficiency:.1f} %", planned)
    return table


def _plan(arguments: argparse.Namespace) -> Mapping[str, Any]:
    config = load_run_config(arguments.config, arguments.overrides)
    with tempfile.TemporaryDirectory() as folder:
        dataset = arguments.dataset
        if dataset == SIMULATE:
            dataset = folder
            write_simulated_manifest(folder, librispeech_like_durations(arguments.utterances, seed=config.seed))
        manifest = read_datasets([DatasetConfig(path=dataset)], key="DATASET")
    lasting = (manifest.durations_s >= config.data.min_duration_s) & (
        manifest.durations_s <= config.data.max_duration_s
    )
    manifest = manifest.select(np.flatnonzero(lasting))
    rows = list(
        measure_plans(
            config,
            manifest,
            policies=arguments.policies,
            workers=arguments.workers,
            epoch=arguments.epoch,
            memory=arguments.memory,
        )
    )
    console.print(f"{len(manifest)} utterances, {manifest.hours:.1f} h, left out by length {np.sum(~lasting)}")
    console.print(_table(rows))
    return {
        "dataset": arguments.dataset,
        "utterances": len(manifest),
        "hours": manifest.hours,
        "batching": config.batching.model_dump(mode="json"),
        "plans": [row.as_dict() for row in rows],
    }


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def main() -> None:
    """Plan an epoch of a dataset by each batching policy: steps, padding, waiting, useful work."""
    parser = argparse.ArgumentParser(prog="python -m jobs.plan", description=main.__doc__)
    parser.add_argument(
        "dataset", metavar="DATASET", help=f"prepared dataset, or `{SIMULATE}`: durations as LibriSpeech's"
    )
    parser.add_argument("config", help="YAML file: batching, speeds and duration limits")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="e.g. batching.row_seconds=36")
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES), help="default: all")
    parser.add_argument(
        "--workers",
        nargs="+",
        type=_positive,
        default=[],
        metavar="N",
        help="with one micro-batch per worker and step (default: the config's workers and micro-batches)",
    )
    parser.add_argument("--epoch", type=int, default=0, help="epoch to plan, from 0 (default 0)")
    parser.add_argument("--memory", action="store_true", help="plan once more to measure the memory that it takes")
    parser.add_argument("--utterances", type=_positive, default=281_241, help="how many to simulate (default 281241)")
    run_job(partial(_plan, parser.parse_args()))


if __name__ == "__main__":
    main()
