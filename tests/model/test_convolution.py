import subprocess
import sys

import pytest
import torch
from torch import nn

from jasper_ray.config.model import BlockConfig, ModelConfig
from jasper_ray.model.convolution import METHODS, Convolution, Method, set_convolution_method
from jasper_ray.model.jasper import Jasper

BLOCKS = (BlockConfig(filters=24, kernel=11, stride=2), BlockConfig(filters=32, kernel=13, residual="dense"))


def small_model() -> Jasper:
    torch.manual_seed(0)
    return Jasper(ModelConfig(preset=None, blocks=BLOCKS), num_mels=16, num_labels=29)


def test_torchs_own_method_gives_the_numbers_of_conv1d_bit_for_bit() -> None:
    layer = Convolution(6, 10, 5, padding=4, dilation=2)
    own = nn.Conv1d(6, 10, 5, padding=4, dilation=2)
    own.load_state_dict(layer.state_dict())
    x = torch.randn(3, 6, 40)
    assert torch.equal(layer(x), own(x))


SHAPES = [(5, 1, 1, 1), (5, 1, 2, 1), (7, 2, 1, 1), (5, 1, 1, 8)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("kernel", "stride", "dilation", "groups"), SHAPES)
def test_every_method_computes_the_same_convolution_and_gradients(
    method: Method, kernel: int, stride: int, dilation: int, groups: int
) -> None:
    layer = Convolution(8, 16, kernel, stride=stride, dilation=dilation, groups=groups, padding=kernel // 2 * dilation)
    layer = layer.double()
    x = torch.randn(2, 8, 50, dtype=torch.double, requires_grad=True)
    expected = layer(x)
    grad = torch.randn_like(expected)
    expected_grads = torch.autograd.grad(expected, [x, *layer.parameters()], grad)
    set_convolution_method(layer, method)
    y = layer(x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(torch.autograd.grad(y, [x, *layer.parameters()], grad), expected_grads)


def test_a_model_has_the_same_weights_and_gives_the_same_results_with_every_method() -> None:
    features, lengths = torch.randn(2, 16, 96), torch.tensor([96, 61])
    expected, _ = small_model()(features, lengths)
    names = list(small_model().state_dict())
    for method in METHODS:
        model = small_model()
        set_convolution_method(model, method)
        assert list(model.state_dict()) == names
        log_probs, _ = model(features, lengths)
        torch.testing.assert_close(log_probs, expected, atol=1e-4, rtol=1e-4)


def test_an_unknown_method_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'winograd'"):
        set_convolution_method(small_model(), "winograd")  # type: ignore[arg-type]


DEPTHWISE = """
import torch
from jasper_ray.model.convolution import Convolution
torch.set_num_threads(2)
torch.manual_seed(0)
layer = Convolution(72, 72, 17, padding=8, groups=72)
x = torch.randn(3, 72, 100)
expected = layer(x)
layer.method = "channels_last"
with torch.autocast("cpu", torch.bfloat16):
    y = layer(x)
    y.float().square().sum().backward()
assert y.dtype == torch.bfloat16
torch.testing.assert_close(y.float(), expected, atol=0.02, rtol=0.02)
"""


def test_a_filter_for_each_channel_does_not_hang_in_half_precision() -> None:
    subprocess.run([sys.executable, "-c", DEPTHWISE], check=True, timeout=120)
