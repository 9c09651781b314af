import torch

from jasper_ray.model.batch_norm import BatchNorm
from jasper_ray.training.ema import WeightAverage


def test_average_moves_by_one_minus_decay_and_takes_counters_as_they_are() -> None:
    layer = BatchNorm(2)
    average = WeightAverage(layer, decay=0.9)
    with torch.no_grad():
        layer.weight += 1.0
        layer.running_mean += 2.0
        layer.num_batches_tracked += 7
    average.update(layer)
    torch.testing.assert_close(average.weights["weight"], torch.full((2,), 1.1))
    torch.testing.assert_close(average.weights["running_mean"], torch.full((2,), 0.2))
    assert int(average.weights["num_batches_tracked"]) == 7


def test_average_does_not_share_memory_with_the_model() -> None:
    layer = BatchNorm(2)
    average = WeightAverage(layer, decay=0.9)
    with torch.no_grad():
        layer.weight.fill_(5.0)
    assert average.weights["weight"].tolist() == [1.0, 1.0]


def test_a_model_without_counters_is_averaged_too() -> None:
    layer = torch.nn.Linear(2, 2)
    average = WeightAverage(layer, decay=0.9)
    with torch.no_grad():
        layer.bias.add_(1.0)
    before = average.weights["bias"].clone()
    average.update(layer)
    torch.testing.assert_close(average.weights["bias"], before + 0.1)
