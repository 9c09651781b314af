"""What each Ray Train worker runs."""

import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ray.train
import ray.train.torch
import torch

from jasper_ray.cluster.events import BoardReporter
from jasper_ray.cluster.heartbeat import Heart
from jasper_ray.cluster.ray_metrics import NoMetrics, RayMetrics
from jasper_ray.config.schema import RunConfig
from jasper_ray.data.batch import BatchLoader
from jasper_ray.data.loaders import make_loader
from jasper_ray.model.arithmetic import step_flops
from jasper_ray.observe.device_peaks import peak_flops_per_s
from jasper_ray.observe.metrics import WorkerMetrics
from jasper_ray.observe.reporters import build_reporters
from jasper_ray.training.assembly import train_run
from jasper_ray.training.host_memory import keep_freed_memory
from jasper_ray.training.loop import Notice
from jasper_ray.training.report import EventKind, Reporter
from jasper_ray.training.world import CPU, World

PATIENCE_VARIABLE, STORE_PATIENCE_S = "JASPER_STORE_PATIENCE_S", 120
"""How long a worker asks a store that fails, unless the variable says otherwise."""


class RayTrainReporter:
    """Passes evaluations to Ray Train (and through it to Ray Tune); every worker must have one."""

    def report(self, kind: EventKind, values: Mapping[str, object]) -> None:
        """Take one event."""
        if kind == "evaluation":
            ray.train.report(dict(values))


def train_worker(arguments: dict[str, Any]) -> dict[str, Any]:
    """Train as one of the workers of Ray Train; returns the figures of the last evaluation.

    Args:
        arguments: `config` (a `RunConfig` as plain values), `board` (an `EventBoard`) and `notices` (whether to ask for
            nodes that are about to be taken away).
    """
    context = ray.train.get_context()
    world = World(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())
    # Ray Train would repeat every evaluation on the terminal, through a logger that is not below `ray`.
    logging.getLogger().setLevel(logging.WARNING)
    config = RunConfig.model_validate(arguments["config"])
    board = arguments["board"]
    with Heart(board, group=world.from_first(uuid.uuid4().hex), rank=world.rank) as heart:
        return train_as(
            config,
            world,
            listener=BoardReporter(board),
            everywhere=[RayTrainReporter()],
            watched=heart.counted,
            notice=notice_of_ray if arguments["notices"] else str,
        )


def notice_of_ray() -> str:
    """Which nodes Ray has been told are about to go, and when; every worker must ask, and all get the same answer."""
    told = ray.train.get_preemption_info()
    if told is None:
        return ""
    nodes = ", ".join(node[:8] for node in told.preempted_node_ids)
    left_s = max(0.0, told.deadline_ms / 1000 - time.time()) if told.deadline_ms else None
    when = "soon" if left_s is None else f"in {left_s:.0f} s"
    return f"node {nodes} with workers {told.preempted_ranks} will be taken away {when}"


def train_here(config: RunConfig, listener: Reporter) -> dict[str, Any]:
    """Train as the only worker, in this process, without Ray Train; returns the figures of the last evaluation.

    Args:
        config: The run.
        listener: Hears its events.
    """
    device = torch.device("cuda", 0) if config.cluster.use_gpu else CPU
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return train_as(config, World(device=device), listener=listener, everywhere=[], watched=lambda loader: loader)


def train_as(
    config: RunConfig,
    world: World,
    *,
    listener: Reporter,
    everywhere: Sequence[Reporter],
    watched: Callable[[BatchLoader], BatchLoader],
    notice: Notice = str,
) -> dict[str, Any]:
    """Train as one worker of `world`.

    Args:
        config: The run.
        world: All workers.
        listener: Hears the events of the first worker.
        everywhere: Hear those of each worker.
        watched: Stands between training and each of its loaders.
        notice: What is known of machines that are about to be taken away.
    """
    logging.getLogger("jasper_ray").setLevel(logging.INFO)
    torch.set_num_threads(max(1, int(config.cluster.cpus_per_worker)))
    torch.backends.cudnn.benchmark = config.training.cudnn_benchmark
    if world.device.type == "cpu":
        keep_freed_memory()
    reporters: list[Reporter] = [*everywhere, worker_metrics(config, world)]
    if world.is_first:
        reporters += [listener, *build_reporters(config)]
    with _patient_with_stores():
        return train_run(
            config,
            world=world,
            make_loader=lambda: watched(make_loader(config.features, config.loader)),
            reporters=reporters,
            notice=notice,
        )


@contextmanager
def _patient_with_stores() -> Iterator[None]:
    """Those who wait for each other anyway: better that they wait for the store than that they begin anew."""
    if PATIENCE_VARIABLE in os.environ:
        yield
        return
    os.environ[PATIENCE_VARIABLE] = str(STORE_PATIENCE_S)
    try:
        yield
    finally:  # this process may go on with something else
        os.environ.pop(PATIENCE_VARIABLE, None)


def worker_metrics(config: RunConfig, world: World) -> Reporter:
    """Passes this worker's figures to Ray, which exports them to Prometheus."""
    is_gpu = world.device.type == "cuda"
    name = torch.cuda.get_device_name(world.device) if is_gpu else "CPU"
    peak = peak_flops_per_s(name, config.training.precision)
    flops = step_flops(
        config.model,
        num_mels=config.features.num_mels,
        num_labels=len(config.text.alphabet) + 1,
        seconds=1.0,
    )
    return WorkerMetrics(
        RayMetrics() if config.cluster.metrics else NoMetrics(),
        run=config.name,
        rank=world.rank,
        flops_per_audio_s=flops,
        peak_flops_per_s=peak * world.size if peak else None,
    )
