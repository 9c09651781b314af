"""What each Ray Train worker runs."""

import logging
from typing import Any

import ray.train
import ray.train.torch
import torch

from jasper_ray.cluster.events import BoardReporter, RayTrainReporter
from jasper_ray.config.schema import FeatureConfig, LoaderConfig, RunConfig
from jasper_ray.data.batch import BatchLoader
from jasper_ray.data.torch_loader import TorchLoader
from jasper_ray.training.assembly import train_run
from jasper_ray.training.report import Reporter
from jasper_ray.training.world import World


def train_worker(arguments: dict[str, Any]) -> dict[str, Any]:
    """Train as one of the workers; returns the figures of the last evaluation.

    Args:
        arguments: `config` (a `RunConfig` as plain values) and `board` (an `EventBoard`).
    """
    config = RunConfig.model_validate(arguments["config"])
    logging.getLogger("ray.train").setLevel(logging.WARNING)  # else it repeats every evaluation on the terminal
    torch.set_num_threads(max(1, int(config.cluster.cpus_per_worker)))
    torch.backends.cudnn.benchmark = config.training.cudnn_benchmark
    context = ray.train.get_context()
    world = World(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())
    reporters: list[Reporter] = [RayTrainReporter()]
    if world.is_first:
        reporters.append(BoardReporter(arguments["board"]))
    return train_run(
        config, world=world, make_loader=lambda: make_loader(config.features, config.loader), reporters=reporters
    )


def make_loader(features: FeatureConfig, config: LoaderConfig) -> BatchLoader:
    """The loader that a config names; DALI is imported only if it is asked for."""
    if config.backend == "torch":
        return TorchLoader(features, config)
    from jasper_ray.data.dali_loader import DaliLoader

    return DaliLoader(features, config)
