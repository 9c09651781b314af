import copy

import pytest
import torch
from torch import nn

from jasper_ray.training.novograd import Novograd


def reference_steps(weights: list[torch.Tensor], grads: list[list[torch.Tensor]], beta2: float) -> list[torch.Tensor]:
    """The definition, one tensor at a time in float64."""
    results = []
    for position, start in enumerate(weights):
        p, m, v = start.double(), torch.zeros_like(start).double(), torch.tensor(0.0).double()
        for step_grads in grads:
            g = step_grads[position].double()
            v = g.square().sum() if v == 0 else beta2 * v + (1 - beta2) * g.square().sum()
            m = 0.9 * m + g / (v.sqrt() + 1e-8) + 0.01 * p
            p = p - 0.1 * m
        results.append(p)
    return results


@pytest.mark.parametrize("beta2", [0.0, 0.98])
def test_steps_follow_the_definition(beta2: float) -> None:
    torch.manual_seed(0)
    weights = [torch.randn(4, 3), torch.randn(5)]
    grads = [[torch.randn(4, 3), torch.randn(5)] for _ in range(4)]
    parameters = [nn.Parameter(weight.clone()) for weight in weights]
    optimizer = Novograd(parameters, lr=0.1, betas=(0.9, beta2), weight_decay=0.01)
    for step_grads in grads:
        for parameter, grad in zip(parameters, step_grads, strict=True):
            parameter.grad = grad.clone()
        optimizer.step()
    for parameter, expected in zip(parameters, reference_steps(weights, grads, beta2), strict=True):
        torch.testing.assert_close(parameter.data, expected.float())


def test_state_survives_saving() -> None:
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(3))
    twin = nn.Parameter(parameter.data.clone())
    first, second = Novograd([parameter], lr=0.1), Novograd([twin], lr=0.1)
    for optimizer, weight in ((first, parameter), (second, twin)):
        weight.grad = torch.ones(3)
        optimizer.step()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for optimizer, weight in ((first, parameter), (second, twin)):
        weight.grad = torch.tensor([1.0, 2.0, 3.0])
        optimizer.step()
    assert torch.equal(parameter.data, twin.data)
