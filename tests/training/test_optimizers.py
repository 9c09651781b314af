import copy
from pathlib import Path

import pytest
import torch
from test_step import random_batches, small_model
from tones import run_workers, tone_config

from jasper_ray.config.schema import OptimizerConfig, TrainingConfig
from jasper_ray.errors import ResumeError
from jasper_ray.model.bundle import load_bundle
from jasper_ray.training.ema import WeightAverage
from jasper_ray.training.optimizers import build_optimizer, parameter_groups, restore_optimizer
from jasper_ray.training.step import TrainStep
from jasper_ray.training.world import World


def test_the_default_is_one_group_of_all_parameters_in_their_order() -> None:
    model = small_model()
    (group,) = parameter_groups(model, OptimizerConfig())
    assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters()]


def test_biases_and_batch_norm_can_be_left_out_of_weight_decay() -> None:
    model = small_model()
    config = OptimizerConfig(lr=0.1, weight_decay=0.5, decay_biases_and_norms=False)
    optimizer = build_optimizer(model, config)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        expected = before[name] * (1 - 0.1 * 0.5) if parameter.dim() > 1 else before[name]
        torch.testing.assert_close(parameter.detach(), expected, msg=name)


@pytest.mark.parametrize("name", ["novograd", "adamw"])
def test_encoder_and_decoder_have_learning_rates_of_their_own(name: str) -> None:
    moved = []
    for factors in ({}, {"encoder_lr_factor": 0.0, "decoder_lr_factor": 2.0}):
        model = small_model()
        before = {key: tensor.clone() for key, tensor in model.named_parameters()}
        optimizer = build_optimizer(model, OptimizerConfig(name=name, lr=0.01, **factors))
        step = TrainStep(model, optimizer, None, world=World(), config=TrainingConfig(), blank=28, seed=0)
        step.run(random_batches(1), [0], global_step=0, num_utterances=2, lr=0.01)
        moved.append({key: (tensor - before[key]).detach() for key, tensor in model.named_parameters()})
    for key, move in moved[1].items():
        expected = 2 * moved[0][key] if key.startswith("decoder.") else torch.zeros_like(move)
        torch.testing.assert_close(move, expected, rtol=1e-3, atol=1e-6, msg=key)


def plain_adamw(weights: list[torch.Tensor], grads: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    """The definition, one tensor at a time in float64; lr 0.1, betas 0.9 and 0.98, decay 0.01."""
    results = []
    for position, start in enumerate(weights):
        p, m, v = start.double(), torch.zeros_like(start).double(), torch.zeros_like(start).double()
        for number, step_grads in enumerate(grads, start=1):
            g = step_grads[position].double()
            p = p * (1 - 0.1 * 0.01)
            m, v = 0.9 * m + 0.1 * g, 0.98 * v + 0.02 * g * g
            p = p - 0.1 * (m / (1 - 0.9**number)) / ((v / (1 - 0.98**number)).sqrt() + 1e-8)
        results.append(p)
    return results


def test_fused_adamw_follows_its_definition() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 3)
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    grads = [[torch.randn_like(weight) for weight in weights] for _ in range(5)]
    config = OptimizerConfig(name="adamw", lr=0.1, beta1=0.9, beta2=0.98, weight_decay=0.01)
    optimizer = build_optimizer(model, config)
    for of_step in grads:
        for parameter, grad in zip(model.parameters(), of_step, strict=True):
            parameter.grad = grad
        optimizer.step()
    for parameter, expected in zip(model.parameters(), plain_adamw(weights, grads), strict=True):
        torch.testing.assert_close(parameter.detach().double(), expected, rtol=1e-6, atol=1e-6)


def test_the_average_in_foreach_form_is_the_plain_one() -> None:
    torch.manual_seed(0)
    model = small_model()
    average = WeightAverage(model, decay=0.99)
    plain = {name: tensor.double() for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    for _ in range(20):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn_like(parameter)
        average.update(model)
        plain = {name: 0.99 * old + 0.01 * model.state_dict()[name].double() for name, old in plain.items()}
    for name, expected in plain.items():
        torch.testing.assert_close(average.weights[name].double(), expected, rtol=1e-6, atol=1e-6, msg=name)


def test_a_saved_state_of_other_groups_is_refused_and_settings_are_this_runs() -> None:
    model = small_model()
    first = build_optimizer(model, OptimizerConfig(lr=0.1, weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    first.step()
    saved = copy.deepcopy(first.state_dict())
    second = build_optimizer(model, OptimizerConfig(lr=0.2, weight_decay=0.25))
    restore_optimizer(second, saved, source="there")
    assert second.param_groups[0]["weight_decay"] == 0.25 and len(second.state) == len(first.state)
    other = build_optimizer(model, OptimizerConfig(decoder_lr_factor=2.0))
    with pytest.raises(ResumeError, match=r"there has parameter groups of \[8\] tensors, this run of \[6, 2\]"):
        restore_optimizer(other, saved, source="there")


def test_adamw_goes_on_from_a_state_that_another_form_of_it_saved() -> None:
    model = small_model()
    old = torch.optim.AdamW(list(model.parameters()), lr=0.1, foreach=True)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    old.step()
    optimizer = build_optimizer(model, OptimizerConfig(name="adamw", beta2=0.98))
    restore_optimizer(optimizer, copy.deepcopy(old.state_dict()), source="there")
    optimizer.step()
    assert {float(state["step"]) for state in optimizer.state.values()} == {2.0}


def test_a_frozen_encoder_stays_as_it_was_and_learns_when_its_epochs_are_over(tones: Path, tmp_path: Path) -> None:
    start = tone_config(tones, tmp_path / "start", "training.epochs=3")
    run_workers(start, 1)
    bundle = f"{start.output}/bundle"
    origin = load_bundle(bundle).model.state_dict()
    overrides = [f"init_from={bundle}", "training.epochs=4", "training.freeze_encoder_epochs=2", "training.ema_decay=0"]
    overrides += ["checkpoint.keep_epochs=[2]", "checkpoint.keep_last=1"]
    run_workers(tone_config(tones, tmp_path / "whole", *overrides), 2)
    frozen = load_bundle(f"{tmp_path}/whole/checkpoints/step_00000008/bundle").model.state_dict()
    for name, tensor in frozen.items():
        assert torch.equal(tensor, origin[name]) == name.startswith("encoder."), name
    free = load_bundle(f"{tmp_path}/whole/bundle").model.state_dict()
    assert not any(torch.equal(tensor, origin[name]) for name, tensor in free.items() if tensor.is_floating_point())
    run_workers(tone_config(tones, tmp_path / "parts", *overrides, "training.stop_after_epochs=1"), 1)
    run_workers(tone_config(tones, tmp_path / "parts", *overrides), 1)
    resumed = load_bundle(f"{tmp_path}/parts/bundle").model.state_dict()
    for name, tensor in free.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
