from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from jasper_ray.config.model import BlockConfig, ModelConfig
from jasper_ray.config.speech import FeatureConfig, TextConfig
from jasper_ray.model.batch_norm import BatchNorm
from jasper_ray.model.bundle import build_model
from jasper_ray.model.convolution import set_convolution_method
from jasper_ray.model.jasper import Jasper, dense_chains, set_residuals

DENSE = (
    BlockConfig(filters=16, kernel=5, stride=2, dropout=0.0),
    BlockConfig(filters=24, kernel=5, repeat=2, residual="dense", dropout=0.0),
    BlockConfig(filters=24, kernel=3, residual="dense", dropout=0.0),
    BlockConfig(filters=32, kernel=3, repeat=2, residual="dense", dropout=0.0),
    BlockConfig(filters=16, kernel=1, dropout=0.0),
)
PLACES = torch.tensor([[0, 0], [1, 0], [1, 28]])
LENGTHS = torch.tensor([44, 18, 16])
CLOSE = {"atol": 3e-6, "rtol": 1e-5}
"""Log-softmax, and so the loss, is fp32; all else float64."""


def model_of(
    blocks: Sequence[BlockConfig] = DENSE,
    *,
    method: str = "channels_last",
    padding: str = "include",
    masked: bool = True,
    dtype: torch.dtype = torch.float64,
) -> Jasper:
    torch.manual_seed(0)
    config = ModelConfig(preset=None, blocks=tuple(blocks), batch_norm_padding=padding, masked=masked)
    model = build_model(config, FeatureConfig(), TextConfig()).to(dtype)
    for module in model.modules():
        if isinstance(module, BatchNorm):  # other than ones and zeros
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_()
    set_convolution_method(model, method)
    return model


def figures_of(
    model: Jasper, residuals: str, *, packed: bool = False, precision: torch.dtype | None = None
) -> list[Tensor]:
    """Log-probs of utterances, gradients of features and parameters, and what batch norm has collected."""
    set_residuals(model, residuals)
    norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
    for norm in norms:
        norm.mean_sum.zero_()
        norm.var_sum.zero_()
    rows, lengths = (2, LENGTHS) if packed else (3, LENGTHS)
    first = next(model.parameters())
    features = torch.randn(rows, 64, 44, generator=torch.Generator().manual_seed(1)).to(first)
    features.requires_grad_()
    lengths, places = lengths.to(first.device), PLACES.to(first.device) if packed else None
    with torch.autocast(first.device.type, dtype=precision, enabled=precision not in (None, torch.float32)):
        log_probs, frames = model(features, lengths, places)
    valid = [one[: int(n)] for one, n in zip(log_probs, frames, strict=True)]
    model.zero_grad()
    sum(one.exp().square().sum() for one in valid).backward()
    assert features.grad is not None
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    collected = [tensor for norm in norms for tensor in (norm.mean_sum, norm.var_sum)]
    return [tensor.detach().clone() for tensor in (*valid, features.grad, *gradients, *collected)]


def mean_error(ours: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """Of all tensors, relative."""
    errors = [
        float((one - other).norm() / other.norm().clamp(min=1e-9)) for one, other in zip(ours, exact, strict=True)
    ]
    return sum(errors) / len(errors)


@pytest.mark.parametrize("method", ["conv1d", "channels_last", "frequency"])
@pytest.mark.parametrize(
    ("padding", "masked", "packed"),
    [("include", True, False), ("exclude", True, False), ("exclude", True, True), ("include", False, False)],
)
def test_values_gradients_and_statistics_are_those_of_branches_by_themselves(
    method: str, padding: str, masked: bool, packed: bool
) -> None:
    model = model_of(method=method, padding=padding, masked=masked)
    for folded, separate in zip(
        figures_of(model, "folded", packed=packed), figures_of(model, "separate", packed=packed), strict=True
    ):
        torch.testing.assert_close(folded, separate, **CLOSE)


def test_blocks_that_are_computed_twice_give_the_same() -> None:
    model = model_of()
    expected = figures_of(model, "separate")
    model.encoder.recomputes = True
    for folded, separate in zip(figures_of(model, "folded"), expected, strict=True):
        torch.testing.assert_close(folded, separate, **CLOSE)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_halves_are_as_exact_as_branches_by_themselves(precision: torch.dtype) -> None:
    exact = figures_of(model_of(), "separate")
    model = model_of(dtype=torch.float32)
    folded, separate = (figures_of(model, method, precision=precision) for method in ("folded", "separate"))
    assert mean_error(folded, exact) < 1.2 * mean_error(separate, exact)


def test_a_second_backward_pass_through_the_same_forward_pass_gives_the_same() -> None:
    model = model_of()
    set_residuals(model, "folded")
    features = torch.randn(3, 64, 44, dtype=torch.float64)
    loss = model(features, LENGTHS)[0].square().sum()
    first = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True, allow_unused=True)
    second = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    for once, again in zip(first, second, strict=True):
        assert (once is None) == (again is None)
        assert once is None or torch.equal(once, again)


def test_blocks_in_front_that_do_not_learn_get_no_gradient() -> None:
    model = model_of()
    model.encoder.layers[0].requires_grad_(False)
    set_residuals(model, "folded")
    model(torch.randn(3, 64, 44, dtype=torch.float64), LENGTHS)[0].sum().backward()
    learned = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learned == {name for name, _ in model.named_parameters() if not name.startswith("encoder.layers.0.")}


def test_an_evaluation_takes_no_notice() -> None:
    model = model_of().eval()
    features = torch.randn(3, 64, 44, dtype=torch.float64)
    outputs = []
    for residuals in ("separate", "folded"):
        set_residuals(model, residuals)
        outputs.append(model(features, LENGTHS)[0])
    assert torch.equal(*outputs)


def test_chains_are_dense_blocks_that_follow_each_other() -> None:
    plain, dense = BlockConfig(filters=16, kernel=3), BlockConfig(filters=16, kernel=3, residual="dense")
    assert dense_chains([dense, dense, plain, dense]) == {0: range(2), 3: range(3, 4)}
    assert dense_chains([plain, dense, dense, dense, plain]) == {1: range(1, 4)}


def test_two_chains_and_one_at_the_features_give_the_same() -> None:
    dense = BlockConfig(filters=16, kernel=3, residual="dense", dropout=0.0)
    model = model_of([dense, dense, BlockConfig(filters=24, kernel=3, stride=2, dropout=0.0), dense, dense])
    for folded, separate in zip(figures_of(model, "folded"), figures_of(model, "separate"), strict=True):
        torch.testing.assert_close(folded, separate, **CLOSE)


def test_there_is_no_other_method() -> None:
    with pytest.raises(ValueError, match="residuals must be one of separate, folded, got 'sum'"):
        set_residuals(model_of(), "sum")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
def test_on_a_gpu_they_are_as_exact_as_branches_by_themselves_and_equal_bits_every_time(precision: torch.dtype) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    exact = figures_of(model_of(), "separate")
    model = model_of(dtype=torch.float32).cuda()
    runs = [figures_of(model, method, precision=precision) for method in ("separate", "folded", "folded")]
    separate, folded, again = ([one.double().cpu() for one in run] for run in runs)
    assert all(torch.equal(one, same) for one, same in zip(folded, again, strict=True))
    bound = 1.2 * mean_error(separate, exact) + 1e-5
    assert mean_error(folded, exact) < bound
