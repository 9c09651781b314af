"""Novograd: momentum over gradients that are normalised per layer.

Source: Ginsburg et al. 2019, "Stochastic Gradient Methods with Layer-wise Adaptive Moments"; the variant without
averaging and bias correction that NVIDIA trains Jasper with.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Novograd(Optimizer):
    """Per tensor v = beta2 v + (1 - beta2) |g|^2; m = beta1 m + g / (sqrt(v) + eps) + weight_decay p; p -= lr m.

    The first v is |g|^2. All tensors of a group are updated together, in a few kernel launches and without a host
    synchronisation.

    `found_inf`, where it is set, is torch's name for a scalar on the device that is 1 if the step must change nothing.
    """

    _step_supports_amp_scaling = True
    found_inf: Tensor | None = None

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float] = (0.95, 0.0),
        eps: float = 1e-8,
        weight_decay: float = 1e-3,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient; gradients are left as they are, unless the step is not made."""
        assert closure is None, "closures are not supported"
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._update(parameters, group)

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["exp_avg"] = torch.zeros_like(parameter)
                self.state[parameter]["exp_avg_sq"] = torch.zeros((), device=parameter.device)
        momenta = [self.state[parameter]["exp_avg"] for parameter in parameters]
        squares = [self.state[parameter]["exp_avg_sq"] for parameter in parameters]
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.found_inf is not None:  # no product makes a number of what is none
            for grad in grads:
                grad.masked_fill_(self.found_inf > 0, 0.0)

        norms = torch.stack(torch._foreach_norm(grads)).float().square()
        second = torch.stack(squares)
        updated = torch.where(second == 0, norms, beta2 * second + (1 - beta2) * norms)
        second = updated if self.found_inf is None else torch.where(self.found_inf > 0, second, updated)
        torch._foreach_copy_(squares, list(second.unbind()))
        scales = (1 / (second.sqrt() + group["eps"])).unbind()

        updates = torch._foreach_mul(grads, list(scales))
        torch._foreach_add_(updates, parameters, alpha=group["weight_decay"])
        if self.found_inf is None:
            torch._foreach_mul_(momenta, beta1)
            torch._foreach_add_(momenta, updates)
            torch._foreach_add_(parameters, momenta, alpha=-group["lr"])
            return
        made = 1 - self.found_inf  # products with 1 are exact: a step that is made is the one above, bit for bit
        torch._foreach_mul_(updates, made)
        torch._foreach_mul_(momenta, torch.where(made > 0, beta1, 1.0))
        torch._foreach_add_(momenta, updates)
        torch._foreach_copy_(updates, momenta)
        torch._foreach_mul_(updates, made)
        torch._foreach_add_(parameters, updates, alpha=-group["lr"])
