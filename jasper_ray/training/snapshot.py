"""The state of a run at one step, copied, so that it can be written while training changes the original."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jasper_ray.config.schema import CheckpointConfig
from jasper_ray.model.bundle import BundleConfig
from jasper_ray.storage import object_store
from jasper_ray.training import checkpoint as checkpoints

BEST = "best"


@dataclass(frozen=True)
class Snapshot:
    """Everything that a checkpoint or a bundle holds, in the host's memory and shared with nobody."""

    progress: checkpoints.Progress
    bundle: BundleConfig
    weights: dict[str, Tensor]
    averaged_weights: dict[str, Tensor] | None
    trainer: dict[str, Any]

    def write_checkpoint(self, output: str, config: CheckpointConfig) -> str:
        """Write a checkpoint and delete those that are no longer kept; returns its folder."""
        uri = checkpoints.save_checkpoint(
            output,
            progress=self.progress,
            bundle=self.bundle,
            weights=self.weights,
            averaged_weights=self.averaged_weights,
            trainer=self.trainer,
        )
        checkpoints.prune_checkpoints(output, config)
        return uri

    def write_best(self, output: str) -> str:
        """Write `best/step_N/` and delete the best before it; returns its folder."""
        root = object_store.join(output, BEST)
        older = object_store.list_folders(root)
        uri = self.write_bundle(object_store.join(root, f"step_{self.progress.global_step:08d}"))
        for name in older:
            if object_store.join(root, name) != uri:
                object_store.delete_tree(object_store.join(root, name))
        return uri

    def write_bundle(self, uri: str) -> str:
        """Write the bundle alone; returns its folder."""
        checkpoints.save_deployed_bundle(uri, self.bundle, self.weights, self.averaged_weights)
        return uri


def host_copy(value: Any) -> Any:
    """The same tree of mappings, lists and plain values with every tensor copied to the host's memory.

    From a GPU all copies are queued first and waited for once, into pinned memory that torch keeps for the next time.
    """
    on_gpu: list[torch.device] = []
    copied = _copied(value, on_gpu)
    for device in set(on_gpu):
        torch.cuda.synchronize(device)
    return copied


def _copied(value: Any, on_gpu: list[torch.device]) -> Any:
    if isinstance(value, Tensor):
        value = value.detach()
        if value.device.type != "cuda":
            return value.to("cpu", copy=True)
        on_gpu.append(value.device)
        return torch.empty(value.shape, dtype=value.dtype, pin_memory=True).copy_(value, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: _copied(item, on_gpu) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(item, on_gpu) for item in value)
    return value
