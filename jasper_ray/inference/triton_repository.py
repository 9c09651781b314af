"""A model repository for NVIDIA's Triton: an ensemble from waveform to text, with the tensor names of NVIDIA's Jasper.

`jasper` (AUDIO_SIGNAL, NUM_SAMPLES -> TRANSCRIPT) runs `jasper-features` (Python backend, numpy), `jasper-acoustic`
(ONNX Runtime) and `jasper-decoder` (Python backend, numpy). Unlike NVIDIA's it passes lengths on and returns text.
"""

import json
import shutil
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import numpy as np

from jasper_ray.audio.filterbank import mel_matrix, padded_window
from jasper_ray.inference.export import Exported, ExportPrecision, export_onnx
from jasper_ray.model.bundle import Bundle

MAX_BATCH = 16
MODELS = "jasper_ray.inference.triton_models"

ENSEMBLE = """name: "jasper"
platform: "ensemble"
max_batch_size: {max_batch}
input [
  {{ name: "AUDIO_SIGNAL" data_type: TYPE_FP32 dims: [ -1 ] }},
  {{ name: "NUM_SAMPLES" data_type: TYPE_INT32 dims: [ 1 ] }}
]
output [ {{ name: "TRANSCRIPT" data_type: TYPE_STRING dims: [ 1 ] }} ]
ensemble_scheduling {{
  step [
    {{
      model_name: "jasper-features"
      model_version: -1
      input_map {{ key: "AUDIO_SIGNAL" value: "AUDIO_SIGNAL" }}
      input_map {{ key: "NUM_SAMPLES" value: "NUM_SAMPLES" }}
      output_map {{ key: "features" value: "features" }}
      output_map {{ key: "lengths" value: "lengths" }}
    }},
    {{
      model_name: "jasper-acoustic"
      model_version: -1
      input_map {{ key: "features" value: "features" }}
      input_map {{ key: "lengths" value: "lengths" }}
      output_map {{ key: "log_probs" value: "log_probs" }}
      output_map {{ key: "encoder_lengths" value: "encoder_lengths" }}
    }},
    {{
      model_name: "jasper-decoder"
      model_version: -1
      input_map {{ key: "log_probs" value: "log_probs" }}
      input_map {{ key: "encoder_lengths" value: "encoder_lengths" }}
      output_map {{ key: "TRANSCRIPT" value: "TRANSCRIPT" }}
    }}
  ]
}}
"""

FEATURES = """name: "jasper-features"
backend: "python"
max_batch_size: {max_batch}
input [
  {{ name: "AUDIO_SIGNAL" data_type: TYPE_FP32 dims: [ -1 ] }},
  {{ name: "NUM_SAMPLES" data_type: TYPE_INT32 dims: [ 1 ] }}
]
output [
  {{ name: "features" data_type: TYPE_FP32 dims: [ {num_mels}, -1 ] }},
  {{ name: "lengths" data_type: TYPE_INT64 dims: [ 1 ] }}
]
instance_group [ {{ count: 2 kind: KIND_CPU }} ]
"""

ACOUSTIC = """name: "jasper-acoustic"
platform: "onnxruntime_onnx"
max_batch_size: {max_batch}
input [
  {{ name: "features" data_type: TYPE_FP32 dims: [ {num_mels}, -1 ] }},
  {{ name: "lengths" data_type: TYPE_INT64 dims: [ 1 ] reshape: {{ shape: [ ] }} }}
]
output [
  {{ name: "log_probs" data_type: TYPE_FP32 dims: [ -1, {num_labels} ] }},
  {{ name: "encoder_lengths" data_type: TYPE_INT64 dims: [ 1 ] reshape: {{ shape: [ ] }} }}
]
dynamic_batching {{ }}
"""

DECODER = """name: "jasper-decoder"
backend: "python"
max_batch_size: {max_batch}
input [
  {{ name: "log_probs" data_type: TYPE_FP32 dims: [ -1, {num_labels} ] }},
  {{ name: "encoder_lengths" data_type: TYPE_INT64 dims: [ 1 ] }}
]
output [ {{ name: "TRANSCRIPT" data_type: TYPE_STRING dims: [ 1 ] }} ]
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
"""


def write_triton_repository(bundle: Bundle, folder: Path, precision: ExportPrecision) -> Exported:
    """Write the repository, for `tritonserver --model-repository=FOLDER`.

    Returns:
        Its acoustic model, run by ONNX Runtime.

    Raises:
        ConfigError: ONNX is not installed.
    """
    features = bundle.config.features
    values = {
        "max_batch": MAX_BATCH,
        "num_mels": features.num_mels,
        "num_labels": bundle.alphabet.num_labels,
    }
    for name, template in (
        ("jasper", ENSEMBLE),
        ("jasper-features", FEATURES),
        ("jasper-acoustic", ACOUSTIC),
        ("jasper-decoder", DECODER),
    ):
        (folder / name / "1").mkdir(parents=True, exist_ok=True)  # an ensemble's version is an empty folder
        (folder / name / "config.pbtxt").write_text(template.format(**values))
    settings = {
        "hop_samples": features.hop_samples,
        "flavour": features.flavour,
        "log_floor": features.log_floor,
        "preemphasis": features.preemphasis,
        "normalize": features.normalize,
    }
    _python_model(folder / "jasper-features" / "1", "features_model.py", settings)
    window, mels = padded_window(features).numpy(), mel_matrix(features).numpy()
    np.savez(folder / "jasper-features" / "1" / "constants.npz", window=window, mels=mels)
    _python_model(folder / "jasper-decoder" / "1", "decoder_model.py", {"alphabet": bundle.alphabet.labels})
    return export_onnx(bundle, folder / "jasper-acoustic" / "1" / "model.onnx", precision)


def _python_model(folder: Path, source: str, settings: Mapping[str, object]) -> None:
    with (files(MODELS) / source).open("rb") as model, (folder / "model.py").open("wb") as target:
        shutil.copyfileobj(model, target)
    (folder / "settings.json").write_text(json.dumps(settings, indent=1) + "\n")
