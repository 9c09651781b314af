import json
from pathlib import Path

import numpy as np
import pytest
import torch

from jasper_ray.audio.batch_filterbank import BatchFilterbank
from jasper_ray.audio.decode import decode_audio
from jasper_ray.audio.filterbank import Filterbank
from jasper_ray.config.model import BlockConfig, ModelConfig
from jasper_ray.config.speech import FeatureConfig, TextConfig
from jasper_ray.errors import BundleError
from jasper_ray.inference.engine import Engine
from jasper_ray.inference.spectral_layers import has_half_products
from jasper_ray.inference.transcriber import Transcriber, emission_confidence
from jasper_ray.model.bundle import Bundle, BundleConfig, build_model, load_bundle, save_bundle

CONFIG = BundleConfig(
    features=FeatureConfig(num_mels=16),
    text=TextConfig(alphabet=" abcdefg"),
    model=ModelConfig(
        preset=None,
        blocks=(
            BlockConfig(filters=24, kernel=11, stride=2),
            BlockConfig(filters=24, kernel=9, repeat=2, residual="dense"),
            BlockConfig(filters=32, kernel=13, dilation=2),
        ),
    ),
)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """Random weights and batch-norm statistics: every frame says something."""
    torch.manual_seed(5)
    model = build_model(CONFIG.model, CONFIG.features, CONFIG.text)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
    save_bundle(tmp_path / "bundle", config=CONFIG, weights=model.state_dict(), plain_weights=None)
    return load_bundle(str(tmp_path / "bundle"))


def waveforms(lengths: list[int]) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.normal(scale=0.1, size=length).astype(np.float32) for length in lengths]


def test_alone_or_in_any_batch_a_waveform_has_the_same_transcript(bundle: Bundle) -> None:
    many = waveforms([16000, 3, 47999, 160, 8001, 31234])
    together = Transcriber(bundle).transcribe(many)
    alone = [Transcriber(bundle).transcribe([waveform])[0] for waveform in many]
    in_small_batches = Transcriber(bundle, batch_seconds=1.0).transcribe(many)
    backwards = Transcriber(bundle).transcribe(many[::-1])[::-1]
    texts = [transcript.text for transcript in together]
    assert len(set(texts)) > 3  # not all empty
    for other in (alone, in_small_batches, backwards):
        assert [transcript.text for transcript in other] == texts
        assert [t.confidence for t in other] == pytest.approx([t.confidence for t in together], abs=1e-4)
    assert [transcript.duration_s for transcript in together] == [len(waveform) / 16000 for waveform in many]


def test_with_features_made_together_as_for_a_gpu_the_transcripts_are_the_same(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken, transcriber = waveforms([16000, 48000, 7001, 33]), Transcriber(bundle)
    expected = transcriber.transcribe(spoken)
    together = BatchFilterbank(bundle.config.features, device=torch.device("cpu"))
    monkeypatch.setattr(transcriber, "_on_gpu", together)
    got = transcriber.transcribe(spoken)
    assert [one.text for one in got] == [one.text for one in expected]
    assert [one.confidence for one in got] == pytest.approx([one.confidence for one in expected], abs=1e-4)


@pytest.mark.parametrize("flavour", ["nvidia_torch", "nvidia_dali"])
def test_serving_hears_with_the_flavour_of_its_bundle(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flavour: str
) -> None:
    features = FeatureConfig.model_validate({**CONFIG.features.model_dump(), "flavour": flavour})
    config = CONFIG.model_copy(update={"features": features})
    save_bundle(tmp_path / "flavoured", config=config, weights=bundle.model.state_dict(), plain_weights=None)
    heard: list[torch.Tensor] = []

    def listen(self: Engine, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        heard.extend(row[:, :length] for row, length in zip(features, lengths.tolist(), strict=True))
        return torch.zeros(len(features), 1, 9), torch.ones(len(features), dtype=torch.int64)

    monkeypatch.setattr(Engine, "log_probs", listen)
    many = waveforms([16000, 8001])
    Transcriber.from_bundle(str(tmp_path / "flavoured")).transcribe(many)
    for waveform, one in zip(many, heard, strict=True):
        assert torch.equal(one, Filterbank(features)(torch.from_numpy(waveform)))
    assert heard[0].shape[1] == (101 if flavour == "nvidia_dali" else 100)


def test_a_bundle_from_before_flavours_has_the_default(bundle: Bundle, tmp_path: Path) -> None:
    raw = json.loads((tmp_path / "bundle" / "config.json").read_text())
    del raw["features"]["flavour"]
    (tmp_path / "bundle" / "config.json").write_text(json.dumps(raw))
    assert load_bundle(str(tmp_path / "bundle")).config.features.flavour == "default"


def test_padding_changes_log_probs_by_less_than_1e_4(bundle: Bundle) -> None:
    engine = Engine(bundle)
    features = torch.randn(1, 16, 100)
    alone, (length,) = engine.log_probs(features, torch.tensor([100]))
    padded = torch.zeros(3, 16, 640)
    padded[2, :, :100] = features[0]
    padded[0] = torch.randn(16, 640)
    together, lengths = engine.log_probs(padded, torch.tensor([640, 320, 100]))
    assert int(lengths[2]) == int(length) == 50
    torch.testing.assert_close(together[2, :50], alone[0, :50], atol=1e-4, rtol=0)


def test_real_speech_in_one_batch_is_as_alone(bundle: Bundle, speech_data: Path) -> None:
    paths = (
        sorted((speech_data / "librispeech").rglob("*.flac"))[:6] + sorted((speech_data / "fsdd").rglob("*.flac"))[:6]
    )
    many = [decode_audio(path.read_bytes(), sample_rate_hz=16000) for path in paths]
    transcriber = Transcriber(bundle)
    alone = [transcriber.transcribe([waveform])[0].text for waveform in many]
    assert [transcript.text for transcript in transcriber.transcribe(many)] == alone


def test_nothing_in_is_nothing_out(bundle: Bundle) -> None:
    assert Transcriber(bundle).transcribe([]) == []


def test_confidence_is_the_mean_probability_of_emitting_frames() -> None:
    probabilities = torch.tensor([[[0.8, 0.1, 0.1], [0.1, 0.1, 0.8], [0.2, 0.6, 0.2], [0.9, 0.05, 0.05]]])
    assert emission_confidence(probabilities.log(), torch.tensor([3]), blank=2) == pytest.approx([(0.8 + 0.6) / 2])
    assert emission_confidence(probabilities.log()[:, 1:2], torch.tensor([1]), blank=2) == [0.0]


def test_bf16_says_nearly_the_same(bundle: Bundle) -> None:
    features = torch.randn(2, 16, 64)
    full, _ = Engine(bundle).log_probs(features, torch.tensor([64, 40]))
    half, _ = Engine(bundle, precision="bf16").log_probs(features, torch.tensor([64, 40]))
    assert half.dtype == torch.float32
    assert (half.exp() - full.exp()).abs().max() < 0.1


def test_fp16_on_a_cpu_that_has_no_products_with_it_is_refused_with_the_way_out(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jasper_ray.inference.engine.has_half_products", lambda: False)
    with pytest.raises(ValueError, match=r"needs torch's FBGEMM .* use bf16 or fp32"):
        Transcriber(bundle, precision="fp16")


@pytest.mark.skipif(not has_half_products(), reason="this torch has no FBGEMM")
def test_fp16_on_a_cpu_for_a_model_that_is_computed_directly_is_refused(bundle: Bundle) -> None:
    with pytest.raises(ValueError, match=r"is for method frequency.*: use fp32"):
        Transcriber(bundle, precision="fp16")


def test_a_folder_without_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"nowhere is not a bundle"):
        Transcriber.from_bundle(str(tmp_path / "nowhere"))


def test_a_bundle_on_an_object_store_is_read(bundle: Bundle, tmp_path: Path, s3_bucket: str) -> None:
    from jasper_ray.storage import object_store

    uri = f"{s3_bucket}/{tmp_path.name}/bundle"
    object_store.upload_folder(tmp_path / "bundle", uri, last="config.json")
    (waveform,) = waveforms([16000])
    assert Transcriber.from_bundle(uri).transcribe([waveform]) == Transcriber(bundle).transcribe([waveform])
