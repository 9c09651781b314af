"""Exponential moving average of the weights: what is evaluated and deployed."""

import torch
from torch import Tensor, nn


class WeightAverage:
    """Keeps decay * average + (1 - decay) * weights over everything in the state dict, batch-norm statistics included.

    Args:
        model: Where the average starts from.
        decay: Share of the old average kept per update.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self._decay = decay
        self.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, *, unless: Tensor | None = None) -> None:
        """Take in the model's weights after an optimizer update; a true scalar `unless` leaves the average as it is."""
        current = model.state_dict()
        floating = [name for name, tensor in current.items() if tensor.is_floating_point()]
        averages = [self.weights[name] for name in floating]
        weights = [current[name] for name in floating]
        if unless is None:
            torch._foreach_lerp_(averages, weights, 1 - self._decay)
        elif unless.is_cuda:  # a lerp by a tensor would be one launch for each of the averages
            steps = torch._foreach_sub(weights, averages)
            torch._foreach_mul_(steps, (~unless).float() * (1 - self._decay))
            torch._foreach_add_(averages, list(steps))
        else:
            share = (~unless).float() * (1 - self._decay)
            torch._foreach_lerp_(averages, weights, [share] * len(averages))
        counters = [name for name, tensor in current.items() if not tensor.is_floating_point()]
        if counters:  # a count is not an average; torch's list functions want at least one tensor
            torch._foreach_copy_([self.weights[name] for name in counters], [current[name] for name in counters])

    def load(self, weights: dict[str, Tensor]) -> None:
        """Continue from a saved average."""
        for name, tensor in self.weights.items():
            tensor.copy_(weights[name])
