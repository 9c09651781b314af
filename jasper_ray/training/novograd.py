"""Novograd: momentum over gradients that are normalised per layer.

Source: Ginsburg et al. 2019, "Stochastic Gradient Methods with Layer-wise Adaptive Moments"; the variant without
averaging and bias correction that NVIDIA trains Jasper with.
"""

from collections.abc import Callable, Iterable
from itertools import compress
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from jasper_ray.model.triton_trial import triton_runs
from jasper_ray.training.novograd_triton import GroupUpdate, Tensors, are_fit


class Novograd(Optimizer):
    """Per tensor v = beta2 v + (1 - beta2) |g|^2; m = beta1 m + g / (sqrt(v) + eps) + weight_decay p; p -= lr m.

    The first v is |g|^2. All tensors of a group are updated together, without a host synchronisation: on a GPU with
    Triton in three launches (`novograd_triton.py`), else by torch's list functions; the two differ by rounding.

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
        self._fast: list[GroupUpdate] = []

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Torch's own, which saves no attributes of ours."""
        super().__setstate__(state)
        self._fast = []

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient; where the step is made, gradients are left as they are."""
        assert closure is None, "closures are not supported"
        self._fast += [GroupUpdate() for _ in range(len(self._fast), len(self.param_groups))]
        for group, fast in zip(self.param_groups, self._fast, strict=True):
            tensors = [self._tensors(parameter) for parameter in group["params"] if parameter.grad is not None]
            fit = []
            if tensors and triton_runs(device := tensors[0].parameter.device):
                fit = [are_fit(one, device) for one in tensors]
            if any(fit):
                settings = {key: group[key] for key in ("lr", "betas", "eps", "weight_decay")}
                fast.run(list(compress(tensors, fit)), **settings, found_inf=self.found_inf)
                tensors = [one for one, is_done in zip(tensors, fit, strict=True) if not is_done]
            if tensors:
                self._update(tensors, group)

    def _tensors(self, parameter: Tensor) -> Tensors:
        state = self.state[parameter]
        if not state:
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros((), device=parameter.device)
        assert parameter.grad is not None
        return Tensors(parameter, parameter.grad, state["exp_avg"], state["exp_avg_sq"])

    def _update(self, tensors: list[Tensors], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        parameters, grads, momenta, squares = map(list, zip(*tensors, strict=True))
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
