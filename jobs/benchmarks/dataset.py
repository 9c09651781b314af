"""Features and training steps on a prepared dataset, in turn in one process."""

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from jasper_ray.config.data import DatasetConfig, LoaderConfig
from jasper_ray.config.schema import RunConfig
from jasper_ray.config.speech import AugmentConfig
from jasper_ray.data.batch import Batch, BatchLoader
from jasper_ray.data.plan import RunPlan
from jasper_ray.data.source import EncodedUtterance, UtteranceSource
from jasper_ray.data.torch_loader import TorchLoader
from jasper_ray.storage.shard_cache import ShardCache
from jasper_ray.text.alphabet import Alphabet
from jasper_ray.training.assembly import read_datasets
from jasper_ray.training.state import RunState
from jasper_ray.training.world import World
from jobs.benchmarks.features import has_dali

SPEED = AugmentConfig(speed_min=0.85, speed_max=1.15)


@dataclass(frozen=True)
class DatasetBenchmark:
    """What is measured."""

    dataset: str
    rounds: int
    """Over the dataset, per loader."""
    steps: int
    threads: int


def measure_dataset(config: RunConfig, benchmark: DatasetBenchmark) -> dict[str, Any]:
    """Loaders and training steps of a config on a dataset."""
    torch.set_num_threads(benchmark.threads)
    manifest = read_datasets([DatasetConfig(path=benchmark.dataset)], key="DATASET")
    cache = ShardCache(Path(config.data.cache_dir).expanduser(), int(config.data.cache_max_gb * 1e9))
    source = UtteranceSource(manifest, Alphabet(config.text.alphabet), config.features, SPEED, 0, cache)
    plan = RunPlan(manifest.durations_s, seed=0, batching=config.batching, augment=SPEED)
    return {
        "dataset": benchmark.dataset,
        "utterances": len(manifest),
        "hours": manifest.hours,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "loader": measure_loaders(config, source, plan, benchmark.rounds),
        "train": measure_training(config, source, plan, benchmark.steps),
    }


def measure_loaders(config: RunConfig, source: UtteranceSource, plan: RunPlan, rounds: int) -> dict[str, Any]:
    """Median audio seconds per second of each loader over rounds run in turn."""
    microbatches = [source.microbatch(rows.tolist(), 0) for step in plan.epoch(0).steps for rows in step if len(rows)]
    one_thread = LoaderConfig(num_threads=1)
    loaders: dict[str, Callable[[], BatchLoader]] = {
        "torch": lambda: TorchLoader(config.features, one_thread),
    }
    if has_dali():
        from jasper_ray.data.dali_loader import DaliLoader

        loaders["dali"] = lambda: DaliLoader(config.features, one_thread.model_copy(update={"backend": "dali"}))
    rates: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(rounds + 1):  # the first round warms up
        for name, make in loaders.items():
            rates[name].append(_audio_rate(make(), microbatches))
    medians = {name: statistics.median(values[1:]) for name, values in rates.items()}
    figures = {f"{name}_audio_s_per_s": value for name, value in medians.items()}
    if "dali" in rates:
        pairs = zip(rates["torch"][1:], rates["dali"][1:], strict=True)
        figures["torch_over_dali"] = statistics.median(torch_rate / dali_rate for torch_rate, dali_rate in pairs)
    return figures


def _audio_rate(loader: BatchLoader, microbatches: list[list[EncodedUtterance]]) -> float:
    try:
        batches = loader.load(microbatches)
        next(batches)  # start-up is not throughput
        started_s, audio_s = time.perf_counter(), 0.0
        for batch in batches:
            audio_s += batch.audio_s
        return audio_s / (time.perf_counter() - started_s)
    finally:
        loader.close()


def measure_training(config: RunConfig, source: UtteranceSource, plan: RunPlan, steps: int) -> dict[str, Any]:
    """Median seconds of a step of one worker, features ready in memory."""
    state = RunState(config, world=World(), manifest_fingerprint="")
    loader = TorchLoader(config.features, config.loader)
    seconds, utterances, audio_s = [], 0, 0.0
    try:
        for number, step in enumerate(plan.epoch(0).steps[: steps + 1]):
            rows = [share for share in step if len(share)]
            batches: list[Batch] = list(loader.load(source.microbatch(share.tolist(), 0) for share in rows))
            started_s = time.perf_counter()
            result = state.train_step.run(
                batches,
                list(range(len(rows))),
                global_step=number,
                num_utterances=sum(len(share) for share in rows),
                lr=1e-3,
            )
            if number:  # the first step warms up
                seconds.append(time.perf_counter() - started_s)
                utterances, audio_s = utterances + result.num_utterances, audio_s + result.audio_s
    finally:
        loader.close()
    return {
        "step_s": statistics.median(seconds),
        "utterances_per_s": utterances / sum(seconds),
        "audio_s_per_s": audio_s / sum(seconds),
        "num_parameters": state.num_parameters,
    }
