"""All gradients of a model side by side in one tensor, where a captured backward pass finds them at every replay."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from jasper_ray.config.schema import GradientsConfig
from jasper_ray.training.world import World

ALIGNMENT = 64
"""Elements that each gradient begins at a multiple of: 256 bytes."""
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class FlatGradients:
    """The gradients of those parameters that learn, as views of one tensor.

    Args:
        parameters: fp32, on one device.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        rooms = [-(-parameter.numel() // ALIGNMENT) * ALIGNMENT for parameter in self._parameters]
        device = self._parameters[0].device
        self.flat = torch.zeros(sum(rooms), device=device)
        parts = torch.split(self.flat, rooms)
        self._views = [
            part[: parameter.numel()].view_as(parameter)
            for part, parameter in zip(parts, self._parameters, strict=True)
        ]

    def zero(self) -> None:
        """Let every gradient be zero, and lie here."""
        self.flat.zero_()
        for parameter, view in zip(self._parameters, self._views, strict=True):
            parameter.grad = view

    def add_gradients_of(self, loss: Tensor) -> None:
        """Add a loss's gradients in a few launches; by themselves, as they come, they would be hundreds."""
        grads = torch.autograd.grad(loss, self._parameters, allow_unused=True)
        pairs = [(view, grad) for view, grad in zip(self._views, grads, strict=True) if grad is not None]
        # Torch adds a list at once only where all of it lies in memory alike.
        alike = [pair for pair in pairs if pair[0].stride() == pair[1].stride()]
        if alike:
            torch._foreach_add_(*(list(tensors) for tensors in zip(*alike, strict=True)))
        for view, grad in pairs:
            if view.stride() != grad.stride():
                view.add_(grad)

    def sum_over(self, world: World, config: GradientsConfig) -> None:
        """Add up the workers' gradients, in halves where the config says so; every worker must call it."""
        if world.size == 1:
            return
        half = HALVES.get(config.compression)
        if half is None:
            world.sum(self.flat)
        else:
            self.flat.copy_(world.sum(self.flat.to(half)))
