"""Exponential moving average of the weights: what is evaluated and deployed."""

import importlib

import torch
from torch import Tensor, nn

from jasper_ray.model.triton_trial import triton_runs
from jasper_ray.training import chunks
from jasper_ray.training.chunks import ChunkTables, are_alike


class WeightAverage:
    """Keeps decay * average + (1 - decay) * weights over everything in the state dict, batch-norm statistics included.

    Args:
        model: Where the average starts from.
        decay: Share of the old average kept per update.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self._decay = decay
        self._tables = ChunkTables()
        self.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, *, unless: Tensor | None = None) -> None:
        """Take in the model's weights after an optimizer update; a true scalar `unless` leaves the average as it is."""
        current = model.state_dict()
        pairs = [(self.weights[name], tensor) for name, tensor in current.items() if tensor.is_floating_point()]
        device = pairs[0][0].device
        fits = [triton_runs(device) and are_alike(pair, device) for pair in pairs]
        if any(fits):
            self._update_in_triton([pair for pair, fit in zip(pairs, fits, strict=True) if fit], unless)
        if not all(fits):
            self._update_in_torch([pair for pair, fit in zip(pairs, fits, strict=True) if not fit], unless)
        counters = [name for name, tensor in current.items() if not tensor.is_floating_point()]
        if counters:  # a count is not an average; torch's list functions want at least one tensor
            torch._foreach_copy_([self.weights[name] for name in counters], [current[name] for name in counters])

    def _update_in_triton(self, pairs: list[tuple[Tensor, Tensor]], unless: Tensor | None) -> None:
        self._tables.set(pairs)
        kernels = importlib.import_module("jasper_ray.training.ema_kernels")  # it needs Triton
        unless = None if unless is None else unless.view(torch.uint8)
        with torch.cuda.device_of(pairs[0][0]):  # type: ignore[no-untyped-call] # Triton launches on the current device
            kernels.average_kernel[(self._tables.num_programs,)](
                *self._tables.arguments, unless, 1 - self._decay, CHUNK=chunks.CHUNK, BLOCK=chunks.BLOCK
            )

    def _update_in_torch(self, pairs: list[tuple[Tensor, Tensor]], unless: Tensor | None) -> None:
        averages, weights = ([pair[column] for pair in pairs] for column in range(2))
        if unless is None:
            torch._foreach_lerp_(averages, weights, 1 - self._decay)
        elif unless.is_cuda:  # a lerp by a tensor would be one launch for each of the averages
            steps = torch._foreach_sub(weights, averages)
            torch._foreach_mul_(steps, (~unless).float() * (1 - self._decay))
            torch._foreach_add_(averages, list(steps))
        else:
            share = (~unless).float() * (1 - self._decay)
            torch._foreach_lerp_(averages, weights, [share] * len(averages))

    def load(self, weights: dict[str, Tensor]) -> None:
        """Continue from a saved average."""
        for name, tensor in self.weights.items():
            tensor.copy_(weights[name])
