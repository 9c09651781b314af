"""Running statistics of batch norm, combined over all micro-batches of a step on all workers."""

import torch
from torch import nn

from jasper_ray.model.batch_norm import BatchNorm
from jasper_ray.training.world import World


def batch_norms(model: nn.Module) -> list[BatchNorm]:
    """The batch-norm layers of a model, always in the same order."""
    return [module for module in model.modules() if isinstance(module, BatchNorm)]


@torch.no_grad()
def clear_statistics(layers: list[BatchNorm]) -> None:
    """Forget what the micro-batches of the current step have collected."""
    if layers:  # torch's list functions want at least one tensor
        torch._foreach_zero_([tensor for layer in layers for tensor in (layer.mean_sum, layer.var_sum)])


@torch.no_grad()
def combine_statistics(layers: list[BatchNorm], *, num_microbatches: int, world: World) -> torch.Tensor:
    """Average mean and variance over every micro-batch of the step on every worker.

    DDP by default takes rank 0's; then another number of workers would give another model.

    Args:
        layers: From `batch_norms`.
        num_microbatches: Micro-batches that this worker has run.
        world: All workers; each must call this once per step.

    Returns:
        One flat tensor for `apply_statistics`.
    """
    sums = [tensor for layer in layers for tensor in (layer.mean_sum, layer.var_sum)]
    count = torch.full((1,), float(num_microbatches), device=world.device)
    flat = world.sum(torch.cat([*sums, count]))
    return flat[:-1] / flat[-1]


@torch.no_grad()
def apply_statistics(layers: list[BatchNorm], statistics: torch.Tensor, *, unless: torch.Tensor | None = None) -> None:
    """Move the running statistics once, by torch's rule: running += momentum * (combined - running).

    Args:
        layers: From `batch_norms`.
        statistics: From `combine_statistics`.
        unless: A true scalar leaves everything as it is, without a look at it by the host.
    """
    if not layers:  # torch's list functions want at least one tensor
        return
    running, momenta, counters = [], [], []
    for layer in layers:
        assert layer.running_mean is not None and layer.running_var is not None and layer.momentum is not None
        running += [layer.running_mean, layer.running_var]
        momenta += [layer.momentum] * 2
        if layer.num_batches_tracked is not None:
            counters.append(layer.num_batches_tracked)
    if unless is not None:
        statistics = torch.where(unless, torch.cat(running), statistics)
    torch._foreach_lerp_(running, statistics.split_with_sizes([len(tensor) for tensor in running]), momenta)
    if counters and unless is None:
        torch._foreach_add_(counters, 1)
    elif counters and unless is not None:  # as a list: of one tensor torch would ask the device for its number
        torch._foreach_add_(counters, [(~unless).long()] * len(counters))
