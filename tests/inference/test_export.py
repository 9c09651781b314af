import importlib
import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from relatives import NUM_MELS
from test_engine import bundle_of
from test_long_audio import spaced_bundle
from test_transcriber import waveforms

from jasper_ray.audio.filterbank import Filterbank
from jasper_ray.config.speech import FeatureConfig
from jasper_ray.errors import ConfigError
from jasper_ray.inference.engine import Engine
from jasper_ray.inference.export import export_onnx, export_tensorrt, export_torchscript, parity
from jasper_ray.inference.transcriber import Transcriber
from jasper_ray.inference.triton_repository import write_triton_repository
from jasper_ray.model.bundle import Bundle

WRITERS = {"onnx": export_onnx, "torchscript": export_torchscript}
ERRORS = {"fp32": 1e-4, "fp16": 0.01, "int8": 0.2}


@pytest.mark.parametrize(
    ("form", "precision"), [("onnx", "fp32"), ("onnx", "fp16"), ("onnx", "int8"), ("torchscript", "fp32")]
)
def test_an_exported_file_takes_any_shape_and_says_what_the_bundle_says(
    form: str, precision: str, tmp_path: Path
) -> None:
    bundle = bundle_of("dense")
    exported = WRITERS[form](bundle, tmp_path / "model", precision)  # type: ignore[arg-type]
    assert (tmp_path / "model").stat().st_size > 10_000
    engine = Engine(bundle, method="direct")
    features, lengths = torch.randn(5, NUM_MELS, 301), torch.tensor([301, 300, 7, 100, 200])
    got, valid = exported(features, lengths)
    expected, encoder_lengths = engine.log_probs(features, lengths)
    assert got.dtype == torch.float32 and valid.tolist() == encoder_lengths.tolist()
    if precision == "fp32":
        for row, length in enumerate(valid.tolist()):
            torch.testing.assert_close(got[row, :length], expected[row, :length], atol=1e-4, rtol=0)
    report = parity(exported, engine.log_probs, [torch.randn(NUM_MELS, 90), torch.randn(NUM_MELS, 201)])
    assert report["relative_error"] < ERRORS[precision]
    assert (report["relative_error"] > 1e-5) == (precision != "fp32")
    assert report["labels_agreeing"] > (0.999 if precision == "fp32" else 0.8)


def test_parity_notices_another_model() -> None:
    report = parity(
        Engine(bundle_of("dense")).log_probs, Engine(bundle_of("plain")).log_probs, [torch.randn(NUM_MELS, 90)]
    )
    assert report["relative_error"] > 0.05 and report["largest_log_prob_difference"] > 0.1


def test_what_is_not_there_is_refused_with_the_way_out(tmp_path: Path) -> None:
    bundle = bundle_of("dense")
    with pytest.raises(ConfigError, match="torchscript has precision fp32 and fp16, got int8"):
        export_torchscript(bundle, tmp_path / "m.pt", "int8")
    if importlib.util.find_spec("tensorrt") is None:
        with pytest.raises(ConfigError, match="package tensorrt, which is not installed: pip install tensorrt"):
            export_tensorrt(bundle, tmp_path / "m.plan", "fp16")


class Tensor:
    """Of Triton's Python backend."""

    def __init__(self, name: str, values: np.ndarray) -> None:
        self.name, self._values = name, values

    def as_numpy(self) -> np.ndarray:
        return self._values


class Response:
    """Of Triton's Python backend."""

    def __init__(self, output_tensors: list[Tensor]) -> None:
        self.outputs = {tensor.name: tensor.as_numpy() for tensor in output_tensors}


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for Triton's Python backend: requests are dictionaries of arrays."""
    module = types.ModuleType("triton_python_backend_utils")
    module.Tensor, module.InferenceResponse = Tensor, Response  # type: ignore[attr-defined]
    module.get_input_tensor_by_name = lambda request, name: Tensor(name, request[name])  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", module)


def run_python_model(repository: Path, name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    spec = importlib.util.spec_from_file_location(name.replace("-", "_"), repository / name / "1" / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    model.initialize({"model_repository": str(repository / name), "model_version": "1"})
    (response,) = model.execute([inputs])
    outputs: dict[str, np.ndarray] = response.outputs
    return outputs


@pytest.mark.parametrize("flavour", ["default", "nvidia_torch", "nvidia_dali"])
def test_tritons_ensemble_returns_the_transcribers_text(flavour: str, tmp_path: Path, backend: None) -> None:
    plain = spaced_bundle()
    features = FeatureConfig.model_validate({**plain.config.features.model_dump(), "flavour": flavour})
    bundle = Bundle(plain.model, plain.config.model_copy(update={"features": features}), plain.alphabet)
    acoustic = write_triton_repository(bundle, tmp_path, "fp32")
    many = waveforms([32000, 100, 20001])
    padded = np.zeros((3, 32000), np.float32)
    for row, waveform in zip(padded, many, strict=True):
        row[: len(waveform)] = waveform
    samples = np.array([[len(waveform)] for waveform in many], np.int32)
    values = run_python_model(tmp_path, "jasper-features", {"AUDIO_SIGNAL": padded, "NUM_SAMPLES": samples})
    filterbank = Filterbank(features)
    for row, waveform in enumerate(many):
        expected = filterbank(torch.from_numpy(waveform)).numpy()
        length = int(values["lengths"][row, 0])
        np.testing.assert_allclose(values["features"][row, :, :length], expected, atol=2e-3)
    log_probs, lengths = acoustic(torch.from_numpy(values["features"]), torch.from_numpy(values["lengths"][:, 0]))
    answer = run_python_model(
        tmp_path, "jasper-decoder", {"log_probs": log_probs.numpy(), "encoder_lengths": lengths.numpy()[:, None]}
    )
    texts = [text.decode() for text in answer["TRANSCRIPT"][:, 0]]
    assert texts == [transcript.text for transcript in Transcriber(bundle).transcribe(many)]
    assert len(texts[0]) > 10


def test_tritons_configs_are_what_its_own_schema_takes(tmp_path: Path) -> None:
    text_format = pytest.importorskip("google.protobuf.text_format")
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    write_triton_repository(spaced_bundle(), tmp_path, "fp32")
    models = {}
    for path in sorted(tmp_path.glob("*/config.pbtxt")):
        models[path.parent.name] = text_format.Parse(path.read_text(), schema.ModelConfig())
        assert (path.parent / "1").is_dir()
    assert sorted(models) == ["jasper", "jasper-acoustic", "jasper-decoder", "jasper-features"]
    made = {"AUDIO_SIGNAL", "NUM_SAMPLES"}
    for step in models["jasper"].ensemble_scheduling.step:
        model = models[step.model_name]
        assert set(step.input_map) == {one.name for one in model.input}
        assert set(step.output_map) == {one.name for one in model.output}
        assert set(step.input_map.values()) <= made
        made |= set(step.output_map.values())
    assert "TRANSCRIPT" in made
