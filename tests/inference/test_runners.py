"""Direct and frequency-domain runners compute what the plain model computes."""

from collections.abc import Callable

import pytest
import torch
from relatives import NUM_MELS, RELATIVES, randomised
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from jasper_ray.config.model import JASPER_MIDDLE, PRESETS, ModelConfig, jasper_blocks
from jasper_ray.inference import spectral_layers
from jasper_ray.inference.channels_first import ChannelsFirstRunner
from jasper_ray.inference.direct import DirectRunner
from jasper_ray.inference.engine import without_padding
from jasper_ray.inference.folded import FoldedJasper, fold
from jasper_ray.inference.spectral import SpectralRunner, gains_from_frequencies
from jasper_ray.inference.spectral_layers import HOP, has_half_products
from jasper_ray.model.jasper import Jasper, strided_lengths

MakeRunner = Callable[[FoldedJasper, torch.dtype], DirectRunner | SpectralRunner | ChannelsFirstRunner]
CPU = torch.device("cpu")
RUNNERS: dict[str, MakeRunner] = {
    "direct": lambda folded, dtype: DirectRunner(folded, device=CPU, dtype=dtype),
    "frequency": lambda folded, dtype: SpectralRunner(folded, dtype=dtype),
    "channels first": lambda folded, dtype: ChannelsFirstRunner(folded, dtype=dtype),
}


@pytest.fixture(params=sorted(RUNNERS))
def make(request: pytest.FixtureRequest) -> MakeRunner:
    return RUNNERS[request.param]


def encoder_lengths(model: Jasper, lengths: Tensor) -> list[int]:
    for block in model.encoder.blocks:
        lengths = strided_lengths(lengths, block.stride) if block.stride > 1 else lengths
    return lengths.tolist()


def rows_of(log_probs: Tensor, lengths: list[int]) -> Tensor:
    return torch.cat([row[:length] for row, length in zip(log_probs, lengths, strict=True)])


@torch.inference_mode()
def test_in_float32_they_agree_with_the_plain_model(relative: Jasper, make: MakeRunner) -> None:
    runner = make(fold(relative), torch.float32)
    for lengths in ([97, 60, 1], [5 * HOP] * 2, [1], [1000, 999]):
        lengths_ = torch.tensor(lengths)
        features = torch.randn(len(lengths), NUM_MELS, max(lengths) + 7)
        expected, _ = relative(features, lengths_)
        masked = without_padding(features, lengths_) if relative.encoder.masked else (features, None)
        got = runner.log_probs(*masked)
        assert got.shape == expected.shape and got.dtype == torch.float32
        valid = encoder_lengths(relative, lengths_)
        torch.testing.assert_close(rows_of(got, valid), rows_of(expected, valid), atol=1e-4, rtol=0)


@torch.inference_mode()
def test_without_padding_no_mask_is_needed(relative: Jasper, make: MakeRunner) -> None:
    features, lengths = torch.randn(2, NUM_MELS, 131), torch.tensor([131, 131])
    expected, _ = relative(features, lengths)
    got = make(fold(relative), torch.float32).log_probs(*without_padding(features, lengths))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_in_bf16_the_frequency_domain_errs_hardly_more_than_direct_convolutions(relative: Jasper) -> None:
    folded = fold(relative)
    features, lengths = torch.randn(4, NUM_MELS, 301), torch.tensor([301, 300, 150, 40])
    expected, _ = relative.double()(features.double(), lengths)
    valid = encoder_lengths(relative, lengths)
    masked = without_padding(features, lengths) if relative.encoder.masked else (features, None)
    errors = {}
    for name, make in RUNNERS.items():
        got = rows_of(make(folded, torch.bfloat16).log_probs(*masked), valid)
        errors[name] = float((got.exp() - rows_of(expected, valid).exp()).norm() / expected.exp().norm())
    assert 1e-4 < errors["direct"] < 0.05
    assert errors["frequency"] < 2 * errors["direct"] + 0.002
    assert errors["channels first"] < 2 * errors["direct"] + 0.002


@pytest.mark.skipif(not has_half_products(), reason="this torch has no FBGEMM")
@torch.inference_mode()
def test_weights_in_float16_err_a_tenth_of_what_bf16_does(relative: Jasper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectral_layers, "HALF_CHANNELS", 64)
    folded = fold(relative)
    features, lengths = torch.randn(4, NUM_MELS, 301), torch.tensor([301, 300, 150, 40])
    valid = encoder_lengths(relative, lengths)
    masked = without_padding(features, lengths) if relative.encoder.masked else (features, None)
    expected = rows_of(relative.double()(features.double(), lengths)[0], valid)
    runners = {
        "half": SpectralRunner(folded, dtype=torch.float32, half_weights=True),
        "whole": SpectralRunner(folded, dtype=torch.float32),
        "bf16": SpectralRunner(folded, dtype=torch.bfloat16),
    }
    errors = {
        name: float((rows_of(runner.log_probs(*masked), valid).exp() - expected.exp()).norm() / expected.exp().norm())
        for name, runner in runners.items()
    }
    assert errors["half"] < errors["bf16"] / 10
    assert errors["half"] > 10 * errors["whole"] or not gains_from_frequencies(folded, torch.float32)


def test_float16_for_other_sums_than_float32_is_refused() -> None:
    with pytest.raises(ValueError, match="goes with dtype float32"):
        SpectralRunner(fold(randomised(RELATIVES["dense"])), dtype=torch.bfloat16, half_weights=True)


@torch.inference_mode()
def test_rows_do_not_hear_each_other_or_what_lies_behind_their_end(make: MakeRunner) -> None:
    model = randomised(RELATIVES["dense"])
    runner = make(fold(model), torch.float32)
    features = torch.randn(3, NUM_MELS, 200)
    features[1] = torch.nan
    lengths = torch.tensor([200, 0, 77])
    got = runner.log_probs(*without_padding(features, lengths))
    alone = runner.log_probs(features[2:, :, :77], None)
    torch.testing.assert_close(got[2, :39], alone[0], atol=1e-4, rtol=0)
    assert got.isfinite().all()


@pytest.mark.parametrize(("preset", "gains"), [("jasper5x1dr", True), ("quartznet5x5", False)])
def test_models_with_layers_that_gain_are_computed_in_the_frequency_domain(preset: str, gains: bool) -> None:
    blocks = ModelConfig.model_validate({"preset": preset}).resolved_blocks[1:2]
    model = Jasper(ModelConfig(preset=None, blocks=blocks), num_mels=256, num_labels=29)
    assert gains_from_frequencies(fold(model), torch.bfloat16) == gains


class CountCalls(TorchDispatchMode):
    """Counts ATen calls, as NVIDIA's 1,841 were counted."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.calls += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("is_padded", [False, True])
def test_a_forward_pass_of_10x5_takes_at_most_160_calls_on_a_gpu(is_padded: bool) -> None:
    narrow = jasper_blocks(5, JASPER_MIDDLE, scale=0.05)
    assert [block.repeat for block in narrow] == [block.repeat for block in PRESETS["jasper10x5dr"]]
    folded = fold(Jasper(ModelConfig(preset=None, blocks=narrow), num_mels=64, num_labels=29))
    # The device decides about layout and masks; "meta" computes nothing, with the calls of a GPU.
    runner = DirectRunner(folded, device=torch.device("meta"), dtype=torch.float16)
    features = torch.empty(8, 64, 704, device="meta")
    keep = torch.ones(8, 1, 704, device="meta") if is_padded else None
    with torch.no_grad(), CountCalls() as counted:
        runner.log_probs(features, keep)
    assert counted.calls <= 160
