"""The runner of GPUs by Triton's interpreter: torch's products on a CPU, our kernels one operation after the other."""

from collections import Counter

import pytest
import torch
from relatives import NUM_LABELS, NUM_MELS, RELATIVES, randomised
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from jasper_ray.config.model import JASPER_MIDDLE, BlockConfig, ModelConfig, jasper_blocks
from jasper_ray.inference import fused
from jasper_ray.inference.captured import BatchMemory
from jasper_ray.inference.direct import DirectRunner
from jasper_ray.inference.engine import without_padding
from jasper_ray.inference.folded import fold
from jasper_ray.inference.fused import FusedRunner
from jasper_ray.model.jasper import Jasper

CPU = torch.device("cpu")
MODELS = {kind: config for kind, config in RELATIVES.items() if config.activation != "selu"} | {
    "dense from the features on": ModelConfig(
        preset=None, blocks=(BlockConfig(filters=24, kernel=3, residual="dense", repeat=2),) * 3
    ),
    "one dense block": ModelConfig(
        preset=None,
        blocks=(BlockConfig(filters=24, kernel=3, stride=2), BlockConfig(filters=29, kernel=5, residual="dense")),
    ),
}

# The interpreter is numpy, which warns of infinities.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


NEW_EMPTY = Tensor.new_empty


def _undefined(x: Tensor, *size: object, **how: object) -> Tensor:
    """New memory as full of garbage as it can be."""
    new = NEW_EMPTY(x, *size, **how)  # type: ignore[call-overload]
    return new.fill_(torch.nan) if new.is_floating_point() else new


@torch.inference_mode()
@pytest.mark.parametrize("kind", MODELS)
def test_it_computes_what_direct_convolutions_do(
    kind: str, triton_interpreter: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folded = fold(randomised(MODELS[kind]))
    runner, direct = (kind(folded, device=CPU, dtype=torch.float32) for kind in (FusedRunner, DirectRunner))
    monkeypatch.setattr(Tensor, "new_empty", _undefined)
    for lengths in ([41, 20, 0], [1]):
        features, lengths_ = torch.randn(len(lengths), NUM_MELS, max(lengths)), torch.tensor(lengths)
        expected = direct.log_probs(*without_padding(features, lengths_))
        padding = torch.arange(max(lengths)) >= lengths_[:, None]
        got = runner.log_probs(features.masked_fill(padding[:, None], torch.nan), lengths_)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["dense", "separable"])
def test_in_bf16_its_errors_are_those_of_rounding(kind: str, triton_interpreter: None) -> None:
    model = randomised(MODELS[kind])
    folded = fold(model)
    features, lengths = torch.randn(2, NUM_MELS, 70), torch.tensor([70, 70])
    expected, _ = model.double()(features.double(), lengths)
    got = FusedRunner(folded, device=CPU, dtype=torch.bfloat16).log_probs(features, lengths)
    direct = DirectRunner(folded, device=CPU, dtype=torch.bfloat16).log_probs(features, None)
    assert got.dtype == torch.float32 and got.shape == expected.shape == (2, 35, NUM_LABELS)
    errors = [float((one.exp() - expected.exp()).norm() / expected.exp().norm()) for one in (got, direct)]
    # The interpreter rounds bf16 towards zero: with torch's epilogues the errors differ by a tenth.
    assert 1e-4 < errors[0] < 5 * errors[1]


class _Named(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.calls[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_a_forward_pass_of_10x5_is_119_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = jasper_blocks(5, JASPER_MIDDLE, scale=0.05)
    folded = fold(Jasper(ModelConfig(preset=None, blocks=narrow), num_mels=64, num_labels=29))
    runner = FusedRunner(folded, device=CPU, dtype=torch.bfloat16)
    ours: Counter[str] = Counter()

    def rows_of_features(features: Tensor, lengths: Tensor, *, dtype: torch.dtype) -> Tensor:
        ours["rows"] += 1
        return features.new_empty((features.shape[0] * features.shape[2], features.shape[1]), dtype=dtype)

    def epilogue_(rows: Tensor, *given: object, **named: object) -> Tensor:
        ours["epilogue"] += 1
        return rows

    def log_softmax(scores: Tensor, bias: Tensor) -> Tensor:
        ours["log_softmax"] += 1
        return scores.new_empty((len(scores), len(bias)))

    for function in (rows_of_features, epilogue_, log_softmax):
        monkeypatch.setattr(fused, function.__name__, function)
    features, lengths = torch.zeros(2, 64, 16), torch.full((2,), 16)
    with torch.no_grad(), _Named() as named:
        runner.log_probs(features, lengths)
    assert ours == {"rows": 1, "epilogue": 53, "log_softmax": 1}
    views = {"view", "_unsafe_view", "permute", "t", "transpose", "slice", "new_empty", "alias", "detach", "expand"}
    products = {name: number for name, number in named.calls.items() if name not in views}
    # 52 convolutions; the last block's, which sees one frame, and the decoder are products; 10 residual ones.
    assert products == {"convolution": 52, "mm": 2, "addmm_": 10}


def test_a_batch_of_fewer_rows_and_frames_than_its_bucket_is_copied_in_one_piece() -> None:
    staged, given = (BatchMemory((4, 3, 10), device=CPU) for _ in range(2))
    given.lengths.fill_(9)
    given.features.fill_(7)
    staged.fill_lengths(torch.tensor([6, 2]))
    staged.features[:2, :, :6] = torch.arange(36.0).view(2, 3, 6)
    given.copy_from(staged, num_rows=2)
    assert given.lengths.tolist() == [6, 2, 0, 0]
    assert torch.equal(given.features[:2, :, :6], staged.features[:2, :, :6]) and given.features[2:].eq(7).all()
    given.features.fill_(7)
    given.copy_from(staged, num_rows=0)
    assert given.features.eq(7).all()
