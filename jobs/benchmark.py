"""Speed on this machine, as ratios of things run in turn in one process: `python -m jobs.benchmark [DATASET]`.

`loader`: audio seconds turned into features per second, torch and DALI. `train`: utterances per second of whole steps.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from jasper_ray.config.data import DatasetConfig, LoaderConfig
from jasper_ray.config.files import load_run_config
from jasper_ray.config.schema import RunConfig
from jasper_ray.config.speech import AugmentConfig
from jasper_ray.data.batch import Batch, BatchLoader
from jasper_ray.data.dali_loader import DaliLoader
from jasper_ray.data.manifest import Manifest
from jasper_ray.data.plan import RunPlan
from jasper_ray.data.source import EncodedUtterance, UtteranceSource
from jasper_ray.data.torch_loader import TorchLoader
from jasper_ray.storage.shard_cache import ShardCache
from jasper_ray.text.alphabet import Alphabet
from jasper_ray.training.assembly import read_datasets
from jasper_ray.training.state import RunState
from jasper_ray.training.world import World
from jobs.entry import console, run_job

SPEED = AugmentConfig(speed_min=0.85, speed_max=1.15)


def measure_loaders(config: RunConfig, source: UtteranceSource, plan: RunPlan, rounds: int) -> dict[str, Any]:
    """Median audio seconds per second of each loader over rounds run in turn."""
    microbatches = [source.microbatch(rows.tolist(), 0) for step in plan.epoch(0).steps for rows in step if len(rows)]
    one_thread = LoaderConfig(num_threads=1)
    loaders: dict[str, Callable[[], BatchLoader]] = {
        "torch": lambda: TorchLoader(config.features, one_thread),
        "dali": lambda: DaliLoader(config.features, one_thread.model_copy(update={"backend": "dali"})),
    }
    rates: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(rounds + 1):  # the first round warms up
        for name, make in loaders.items():
            rates[name].append(_audio_rate(make(), microbatches))
    medians = {name: statistics.median(values[1:]) for name, values in rates.items()}
    return {f"{name}_audio_s_per_s": value for name, value in medians.items()} | {
        "torch_over_dali": statistics.median(a / b for a, b in zip(rates["torch"][1:], rates["dali"][1:], strict=True))
    }


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


def _benchmark(arguments: argparse.Namespace) -> Mapping[str, Any]:
    torch.set_num_threads(arguments.threads)
    config = load_run_config(arguments.config, [*arguments.overrides, "cluster.num_workers=1"])
    manifest: Manifest = read_datasets([DatasetConfig(path=arguments.dataset)], key="DATASET")
    cache = ShardCache(Path(config.data.cache_dir).expanduser(), int(config.data.cache_max_gb * 1e9))
    source = UtteranceSource(manifest, Alphabet(config.text.alphabet), config.features, SPEED, 0, cache)
    plan = RunPlan(manifest.durations_s, seed=0, batching=config.batching, augment=SPEED)
    console.print(f"{len(manifest)} utterances, {manifest.hours:.2f} h; {torch.get_num_threads()} torch threads")
    loaders = measure_loaders(config, source, plan, arguments.rounds)
    training = measure_training(config, source, plan, arguments.steps)
    machine = {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()}
    return {"dataset": arguments.dataset, "config": arguments.config, **machine, "loader": loaders, "train": training}


def main() -> None:
    """Measure loaders and training steps, in turn, in one process."""
    parser = argparse.ArgumentParser(prog="python -m jobs.benchmark", description=main.__doc__)
    parser.add_argument("--dataset", default="runs/demo/data/train", help="prepared dataset (default: the demo's)")
    parser.add_argument("--config", default="jobs/configs/demo_cpu.yaml", help="model and batching to measure")
    parser.add_argument("--rounds", type=int, default=5, help="rounds over the dataset per loader (default 5)")
    parser.add_argument("--steps", type=int, default=20, help="training steps (default 20)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="knobs of the config")
    run_job(partial(_benchmark, parser.parse_args()))


if __name__ == "__main__":
    main()
