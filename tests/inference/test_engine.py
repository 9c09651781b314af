from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from relatives import NUM_LABELS, NUM_MELS, RELATIVES, randomised
from test_runners import CountCalls

from jasper_ray.config.speech import ENGLISH_ALPHABET, FeatureConfig, TextConfig
from jasper_ray.inference.captured import FRAMES, ROWS, bucket_of
from jasper_ray.inference.engine import Engine, Method, Precision
from jasper_ray.model.bundle import Bundle, BundleConfig, build_model, load_weights
from jasper_ray.model.nvidia_config import convert_nvidia_config
from jasper_ray.text.alphabet import Alphabet

ALPHABET = "abcdefgh"


def bundle_of(kind: str) -> Bundle:
    assert len(ALPHABET) + 1 == NUM_LABELS
    features, text = FeatureConfig(num_mels=NUM_MELS), TextConfig(alphabet=ALPHABET)
    config = BundleConfig(features=features, text=text, model=RELATIVES[kind])
    return Bundle(randomised(RELATIVES[kind]), config, Alphabet(ALPHABET))


@pytest.mark.parametrize("kind", ["dense", "separable", "unmasked", "two strides"])
@pytest.mark.parametrize("method", ["direct", "frequency", "auto"])
def test_an_utterance_has_its_log_probs_alone_in_any_batch_and_at_any_padding(kind: str, method: Method) -> None:
    bundle = bundle_of(kind)
    engine = Engine(bundle, method=method)
    features = torch.randn(4, NUM_MELS, 333)
    lengths = torch.tensor([333, 120, 7, 200])
    together, encoder_lengths = engine.log_probs(features, lengths)
    with torch.inference_mode():
        for row, (length, encoder_length) in enumerate(zip(lengths.tolist(), encoder_lengths.tolist(), strict=True)):
            plain, (plain_length,) = bundle.model(features[row : row + 1, :, :length], lengths[row : row + 1])
            assert encoder_length == int(plain_length) == plain.shape[1]
            torch.testing.assert_close(together[row, :encoder_length], plain[0], atol=1e-4, rtol=0)
    order = [2, 0, 3, 1]
    padded = torch.nn.functional.pad(features, (0, 300), value=5.0)
    shuffled, _ = engine.log_probs(padded[order], lengths[order])
    for position, row in enumerate(order):
        valid = int(encoder_lengths[row])
        torch.testing.assert_close(shuffled[position, :valid], together[row, :valid], atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", ["direct", "frequency"])
def test_nvidias_weights_have_nvidias_log_probs(method: Method, nvidia_fixtures: Path) -> None:
    saved = torch.load(nvidia_fixtures / "jasper5x1dr_masked.pt", weights_only=True)
    arrays = np.load(nvidia_fixtures / "jasper5x1dr_masked.npz")
    tree = {"input_val": {"filterbank_features": {}}, "labels": list(ENGLISH_ALPHABET), **saved["config"]}
    model_config, features, text = convert_nvidia_config(tree)
    model = build_model(model_config, features, text)
    load_weights(model, saved["state_dict"], source="fixture")
    config = BundleConfig(features=features, text=text, model=model_config)
    engine = Engine(Bundle(model.eval(), config, Alphabet(text.alphabet)), method=method)
    log_probs, lengths = engine.log_probs(torch.from_numpy(arrays["feats"]), torch.from_numpy(arrays["feat_lens"]))
    assert lengths.tolist() == arrays["enc_lens"].tolist()
    for row, length in enumerate(lengths.tolist()):
        np.testing.assert_allclose(log_probs[row, :length].numpy(), arrays["log_probs"][row, :length], atol=1e-5)


def test_the_method_follows_from_model_device_and_precision() -> None:
    assert Engine(bundle_of("dense"), precision="fp32").method == "frequency"
    assert Engine(bundle_of("separable"), precision="fp32").method == "direct"
    assert Engine(bundle_of("dense"), method="direct").method == "direct"
    with pytest.raises(ValueError, match="method frequency alone is for a CPU, got device cuda: use auto, or direct"):
        Engine(bundle_of("dense"), device="cuda", method="frequency")


def test_the_bundle_is_not_changed_and_a_later_change_of_it_is_not_heard() -> None:
    bundle = bundle_of("dense")
    features, lengths = torch.randn(1, NUM_MELS, 90), torch.tensor([90])
    engine = Engine(bundle, precision="bf16")
    before, _ = engine.log_probs(features, lengths)
    assert {parameter.dtype for parameter in bundle.model.parameters()} == {torch.float32}
    with torch.no_grad():
        bundle.model.decoder.layers[0].weight.zero_()
    assert torch.equal(engine.log_probs(features, lengths)[0], before)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", RELATIVES)
def test_what_memory_held_before_is_not_heard(kind: str, precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    """By AMX a product reads on behind a part of a row, up to a multiple of 32 numbers."""
    engine = Engine(bundle_of(kind), precision=precision, method="frequency")
    features, lengths = torch.randn(3, NUM_MELS, 90), torch.tensor([90, 60, 33])
    expected, _ = engine.log_probs(features, lengths)
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *args, **kwargs: empty(*args, **kwargs).fill_(torch.nan))
    assert torch.equal(engine.log_probs(features, lengths)[0], expected)
    assert bool(expected[0].isfinite().all())


def test_an_engine_works_in_several_threads_and_after_a_warm_up() -> None:
    engine = Engine(bundle_of("dense"))
    engine.warm_up()
    many = [torch.randn(1, NUM_MELS, 60 + 31 * number) for number in range(8)]
    lengths = [torch.tensor([one.shape[2]]) for one in many]
    expected = [engine.log_probs(one, length)[0] for one, length in zip(many, lengths, strict=True)]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda one, length: engine.log_probs(one, length)[0], many, lengths))
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_one_utterance_by_direct_convolutions_takes_few_calls() -> None:
    engine = Engine(bundle_of("dense"), method="direct")
    features, lengths = torch.randn(1, NUM_MELS, 112), torch.tensor([100])
    with torch.no_grad(), CountCalls() as counted:
        engine.log_probs(features, lengths)
    # 11 convolutions, their non-linearities, 4 residual products with their sums, and what is around them
    assert counted.calls <= 55


def test_a_batch_goes_into_the_smallest_bucket_that_holds_it() -> None:
    assert bucket_of(1, 1) == (1, 200)
    assert bucket_of(3, 704) == (4, 704)
    assert bucket_of(17, 705) == (32, 1200)
    assert bucket_of(ROWS[-1] + 1, 10) is None
    assert bucket_of(1, FRAMES[-1] + 1) is None


@pytest.fixture
def gpu() -> Iterator[str]:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    yield "cuda"


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["dense", "separable", "selu", "hardtanh", "unmasked"])
def test_graphs_give_the_log_probs_of_a_cpu_whatever_was_in_their_memory_before(gpu: str, kind: str) -> None:
    bundle = bundle_of(kind)
    engine, on_cpu = Engine(bundle, device=gpu), Engine(bundle)
    for lengths in ([700, 300], [150], [699], [2000, 5, 1300], [200, 40], [2500]):
        features, lengths_ = torch.randn(len(lengths), NUM_MELS, max(lengths)), torch.tensor(lengths)
        expected, encoder_lengths = on_cpu.log_probs(features, lengths_)
        for place in ("cpu", gpu):
            got, _ = engine.log_probs(features.to(place), lengths_.to(place))
            for row, valid in enumerate(encoder_lengths.tolist()):
                torch.testing.assert_close(got[row, :valid].cpu(), expected[row, :valid], atol=1e-4, rtol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_on_a_gpu_says_nearly_the_same(gpu: str, precision: str) -> None:
    bundle = bundle_of("dense")
    features, lengths = torch.randn(3, NUM_MELS, 640), torch.tensor([640, 640, 99])
    expected, valid = Engine(bundle).log_probs(features, lengths)
    engine = Engine(bundle, device=gpu, precision=precision)  # type: ignore[arg-type]
    engine.warm_up()
    got, _ = engine.log_probs(features, lengths)
    for row, length in enumerate(valid.tolist()):
        assert (got[row, :length].cpu().exp() - expected[row, :length].exp()).abs().max() < 0.1
