"""Decisions on the device: a step that is not finite changes nothing, any other is the plain one, bit for bit."""

import pytest
import torch
from test_step import make_batch, random_batches, small_model

from jasper_ray.config.schema import OptimizerConfig, TrainingConfig
from jasper_ray.training.ema import WeightAverage
from jasper_ray.training.figures import read_steps
from jasper_ray.training.novograd import Novograd
from jasper_ray.training.optimizers import build_optimizer
from jasper_ray.training.step import TrainStep
from jasper_ray.training.world import World


def make(name: str, *, on_device: bool, precision: str = "fp32") -> tuple[TrainStep, dict[str, torch.Tensor]]:
    """A step and all that it changes, by name."""
    model = small_model()
    optimizer = build_optimizer(model, OptimizerConfig(name=name, lr=0.01))
    average = WeightAverage(model, decay=0.9)
    config = TrainingConfig(precision=precision)
    step = TrainStep(model, optimizer, average, world=World(), config=config, blank=28, seed=0)
    step.decides_on_device = on_device
    for number, batch in enumerate(random_batches(2)):  # so that there are momenta
        step.run([batch], [0], global_step=number, num_utterances=2, lr=0.01)
    state = dict(model.state_dict())
    state |= {f"average {name}": tensor for name, tensor in average.weights.items()}
    for parameter, values in optimizer.state.items():
        state |= {f"{id(parameter)} {key}": value for key, value in values.items()}
    return step, state


@pytest.mark.parametrize("name", ["novograd", "adamw"])
def test_the_device_makes_the_same_steps_as_the_host(name: str) -> None:
    (_, hosts), (_, devices) = (make(name, on_device=on_device) for on_device in (False, True))
    for (key, ours), theirs in zip(devices.items(), hosts.values(), strict=True):
        assert torch.equal(ours, theirs), key


@pytest.mark.parametrize("bad", ["loss", "gradient"])
@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("name", ["novograd", "adamw"])
def test_a_step_that_is_not_finite_changes_nothing_wherever_it_is_decided(name: str, on_device: bool, bad: str) -> None:
    step, state = make(name, on_device=on_device)
    before = {key: tensor.clone() for key, tensor in state.items()}
    (batch,) = random_batches(1)
    if bad == "loss":  # an infeasible target
        batch = make_batch(batch.features, torch.tensor([60, 4]), batch.labels, torch.tensor([5, 5]))
    else:  # the loss is fine, but its gradient has no number: inf * 0 in the first weight
        first = next(iter(step._model.parameters()))
        handle = first.register_hook(lambda grad: grad * torch.nan)
    result = step.run([batch], [0], global_step=7, num_utterances=2, lr=0.01)
    assert result.skipped and result.bad_rows == ((1,) if bad == "loss" else ())
    assert state.keys() == before.keys()
    for key, tensor in state.items():
        assert torch.equal(tensor, before[key]), key
    if bad == "gradient":
        handle.remove()
    assert not step.run(random_batches(1), [0], global_step=8, num_utterances=2, lr=0.01).skipped
    assert not torch.equal(state["decoder.layers.0.weight"], before["decoder.layers.0.weight"])


def test_the_figures_of_many_steps_are_read_at_once_and_are_those_of_each() -> None:
    one_by_one, together = make("novograd", on_device=True)[0], make("novograd", on_device=True)[0]
    batches = random_batches(3)
    expected = [
        one_by_one.run([batch], [0], global_step=number, num_utterances=2, lr=0.01)
        for number, batch in enumerate(batches)
    ]
    pending = [
        together.start([batch], [0], global_step=number, num_utterances=2, lr=0.01)
        for number, batch in enumerate(batches)
    ]
    results = read_steps(pending, World())
    assert [(r.loss, r.grad_norm, r.padding_share) for r in results] == [
        (e.loss, e.grad_norm, e.padding_share) for e in expected
    ]
    assert read_steps([], World()) == []


def test_a_first_step_that_is_not_finite_leaves_novograd_as_new() -> None:
    weights = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    optimizer = Novograd([weights[0]], lr=0.1), Novograd([weights[1]], lr=0.1)
    weights[0].grad = torch.tensor([1.0, torch.inf, torch.nan])
    optimizer[0].found_inf = torch.tensor(1.0)
    optimizer[0].step()
    assert weights[0].tolist() == [1, 1, 1]
    optimizer[0].found_inf = torch.tensor(0.0)
    for weight, one in zip(weights, optimizer, strict=True):
        weight.grad = torch.tensor([1.0, 2.0, 3.0])
        one.step()
    assert torch.equal(weights[0], weights[1])


def test_fp16_halves_its_scale_after_an_overflow_and_doubles_it_after_a_while() -> None:
    step, state = make("novograd", on_device=True, precision="fp16")
    step.scaler.set_growth_interval(2)
    before, scale = {key: tensor.clone() for key, tensor in state.items()}, step.scaler.get_scale()
    handle = next(iter(step._model.parameters())).register_hook(lambda grad: grad * torch.inf)
    assert step.run(random_batches(1), [0], global_step=2, num_utterances=2, lr=0.01).skipped
    assert step.scaler.get_scale() == scale / 2
    assert all(torch.equal(tensor, before[key]) for key, tensor in state.items())
    handle.remove()
    for number in (3, 4):
        assert not step.run(random_batches(1), [0], global_step=number, num_utterances=2, lr=0.01).skipped
    assert step.scaler.get_scale() == scale
