import copy

import pytest
import torch
from torch import nn

from jasper_ray.model.batch_norm import BatchNorm
from jasper_ray.training.batch_norm import apply_statistics, batch_norms, clear_statistics, combine_statistics
from jasper_ray.training.world import World


def step(layer: BatchNorm, microbatches: list[torch.Tensor]) -> list[torch.Tensor]:
    layers = batch_norms(layer)
    clear_statistics(layers)
    outputs = [layer(x) for x in microbatches]
    apply_statistics(layers, combine_statistics(layers, num_microbatches=len(microbatches), world=World()))
    return outputs


def test_one_microbatch_per_step_is_torchs_batch_norm() -> None:
    torch.manual_seed(0)
    ours, torchs = BatchNorm(3).train(), nn.BatchNorm1d(3, eps=1e-3, momentum=0.1).train()
    for _ in range(3):
        x = torch.randn(4, 3, 10)
        torch.testing.assert_close(step(ours, [x])[0], torchs(x))
    torch.testing.assert_close(ours.running_mean, torchs.running_mean)
    torch.testing.assert_close(ours.running_var, torchs.running_var)
    assert ours.num_batches_tracked == torchs.num_batches_tracked


def test_running_statistics_do_not_depend_on_the_order_of_microbatches() -> None:
    torch.manual_seed(0)
    parts = [torch.randn(2, 3, 5) * scale for scale in (1.0, 2.0, 3.0)]
    one, other = BatchNorm(3).train(), BatchNorm(3).train()
    step(one, parts)
    step(other, parts[::-1])
    torch.testing.assert_close(one.running_mean, other.running_mean)
    torch.testing.assert_close(one.running_var, other.running_var)
    expected = torch.stack([part.transpose(0, 1).flatten(1).var(dim=1) for part in parts]).mean(0)
    torch.testing.assert_close(one.running_var, 0.9 + 0.1 * expected)


def test_evaluation_uses_the_running_statistics() -> None:
    layer = BatchNorm(2).eval()
    with torch.no_grad():
        layer.running_mean.fill_(1.0)
    x = torch.randn(2, 2, 4)
    torch.testing.assert_close(layer(x), (x - 1.0) / (1.0 + 1e-3) ** 0.5)


@pytest.mark.parametrize("unless", [None, False, True])
def test_layers_of_different_widths_move_together_or_not_at_all(unless: bool | None) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(BatchNorm(3), BatchNorm(5))
    layers, start = batch_norms(model), copy.deepcopy(model.state_dict())
    statistics = torch.randn(2 * (3 + 5))
    if unless:
        statistics[::3] = torch.nan
    apply_statistics(layers, statistics, unless=None if unless is None else torch.tensor(unless))
    combined = statistics.split([3, 3, 5, 5])
    for number, layer in enumerate(layers):
        for name, target in (("running_mean", combined[2 * number]), ("running_var", combined[2 * number + 1])):
            was = start[f"{number}.{name}"]
            assert torch.equal(getattr(layer, name), was if unless else was.lerp(target, 0.1))
        assert layer.num_batches_tracked.tolist() == (0 if unless else 1)
        assert layer.num_batches_tracked.dtype == torch.int64


def test_a_model_without_batch_norm_has_no_statistics_to_move() -> None:
    apply_statistics([], torch.empty(0), unless=torch.tensor(False))
