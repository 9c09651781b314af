"""The folded model by OpenVINO, as a peer of the inference benchmark: `pip install openvino`."""

import os
from collections.abc import Callable

import torch
from torch import Tensor

from jasper_ray.errors import ConfigError
from jasper_ray.inference.exportable import ExportableJasper
from jasper_ray.inference.folded import fold
from jasper_ray.model.bundle import Bundle

try:
    import openvino
except ImportError:
    openvino = None


def openvino_log_probs(bundle: Bundle, precision: str) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """`(B, F, T)` features and `(B,)` lengths to log-probabilities and encoder lengths, on torch's number of threads.

    Raises:
        ConfigError: It is not installed.
    """
    if openvino is None:
        raise ConfigError("--openvino needs OpenVINO, which is not installed: pip install openvino")
    model = ExportableJasper(fold(bundle.model))
    example = torch.zeros(2, bundle.config.features.num_mels, 64), torch.tensor([64, 40])
    converted = openvino.convert_model(model, example_input=example)
    hint = {"bf16": openvino.Type.bf16, "fp32": openvino.Type.f32}[precision]
    threads = int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads()))
    settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(converted, "CPU", settings)

    def run(features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        log_probs, encoder_lengths = compiled([features.numpy(), lengths.numpy()]).values()
        return torch.from_numpy(log_probs), torch.from_numpy(encoder_lengths)

    return run
