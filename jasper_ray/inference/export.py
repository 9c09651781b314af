"""A bundle's model as a file for other runtimes: ONNX, TorchScript, a TensorRT plan.

All take `features` `(B, F, T)` float32 and `lengths` `(B,)` int64 feature frames and give `log_probs` `(B, T', V)`
float32 and `encoder_lengths` `(B,)`, for any batch size and number of frames; padding is masked inside.
"""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from jasper_ray.errors import ConfigError
from jasper_ray.inference.exportable import ExportableJasper
from jasper_ray.inference.folded import fold
from jasper_ray.model.bundle import Bundle

ExportPrecision = Literal["fp32", "fp16", "int8"]
Exported = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""`(B, F, T)` features and `(B,)` lengths to log-probabilities and encoder lengths, by the exported file."""
INPUTS, OUTPUTS = ["features", "lengths"], ["log_probs", "encoder_lengths"]
OPSET = 17
PROFILE = ((1, 64), (8, 704), (16, 2400))
"""Rows and frames of a TensorRT plan: fewest, most usual, most."""


def export_onnx(bundle: Bundle, path: Path, precision: ExportPrecision) -> Exported:
    """Write an ONNX file; `int8` stores weights in 8 bits and rounds activations as they come.

    Returns:
        The file, run by ONNX Runtime.

    Raises:
        ConfigError: What this needs is not installed.
    """
    runtime = _required("onnxruntime", "onnx")
    _required("onnx", "onnx")
    dynamic = {"features": {0: "batch", 2: "frames"}, "lengths": {0: "batch"}}
    dynamic |= {"log_probs": {0: "batch", 1: "encoder_frames"}, "encoder_lengths": {0: "batch"}}
    # By tracing: torch's newer exporter took twenty times as long for the same operators.
    torch.onnx.export(
        _module(bundle, precision),
        _example(bundle),
        str(path),
        input_names=INPUTS,
        output_names=OUTPUTS,
        dynamic_axes=dynamic,
        opset_version=OPSET,
        dynamo=False,
    )
    if precision == "int8":
        quantization = importlib.import_module("onnxruntime.quantization")
        quantization.quantize_dynamic(str(path), str(path), weight_type=quantization.QuantType.QUInt8)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        values: list[np.ndarray] = session.run(None, {"features": features.numpy(), "lengths": lengths.numpy()})
        return torch.from_numpy(values[0]), torch.from_numpy(values[1])

    return run


def export_torchscript(bundle: Bundle, path: Path, precision: ExportPrecision) -> Exported:
    """Write a TorchScript file, which `torch.jit.load` and LibTorch read.

    Raises:
        ConfigError: There is no such precision for it.
    """
    if precision == "int8":
        raise ConfigError("format torchscript has precision fp32 and fp16, got int8: int8 is for onnx")
    with torch.no_grad():
        torch.jit.trace(_module(bundle, precision), _example(bundle)).save(str(path))  # type: ignore[no-untyped-call]
    loaded = torch.jit.load(str(path))  # type: ignore[no-untyped-call]

    def run(features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            log_probs, encoder_lengths = loaded(features, lengths)
        return log_probs, encoder_lengths

    return run


def export_tensorrt(bundle: Bundle, path: Path, precision: ExportPrecision) -> Exported:
    """Write a TensorRT plan for the GPU of this machine, built from an ONNX file that stays beside it.

    Returns:
        The ONNX file, run by ONNX Runtime: the plan itself runs where its GPU is.

    Raises:
        ConfigError: TensorRT is not installed, or cannot build the plan.
    """
    if precision == "int8":
        raise ConfigError("format tensorrt has precision fp32 and fp16, got int8: int8 needs calibration")
    trt = _required("tensorrt", "tensorrt")
    onnx_path = path.with_suffix(".onnx")
    run = export_onnx(bundle, onnx_path, "fp32")
    builder = trt.Builder(trt.Logger(trt.Logger.WARNING))
    network = builder.create_network()
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.WARNING))
    if not parser.parse_from_file(str(onnx_path)):
        raise ConfigError(f"TensorRT cannot read {onnx_path}: {parser.get_error(0)}")
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    if precision == "fp16":
        config.set_flag(trt.BuilderFlag.FP16)
    num_mels = bundle.config.features.num_mels
    profile.set_shape("features", *((rows, num_mels, frames) for rows, frames in PROFILE))
    profile.set_shape("lengths", *((rows,) for rows, _ in PROFILE))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ConfigError("TensorRT built no plan; what it wrote above says why")
    path.write_bytes(bytes(plan))
    return run


def _module(bundle: Bundle, precision: ExportPrecision) -> ExportableJasper:
    module = ExportableJasper(fold(bundle.model)).eval()
    return module.half() if precision == "fp16" else module


def _example(bundle: Bundle) -> tuple[Tensor, Tensor]:
    return torch.randn(2, bundle.config.features.num_mels, 64), torch.tensor([64, 40])


def _required(name: str, package: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        hint = "pip install 'jasper-ray[export]'" if package == "onnx" else f"pip install {package}, with an NVIDIA GPU"
        raise ConfigError(f"this export needs the package {name}, which is not installed: {hint}") from error


def parity(exported: Exported, reference: Exported, utterances: Sequence[Tensor]) -> dict[str, float]:
    """How far an exported file is from the bundle, over utterances' features `(F, T)`, each alone.

    Args:
        exported: The file.
        reference: The bundle's own model.
        utterances: Features.

    Returns:
        Largest difference of log-probabilities above -10, relative error of probabilities, share of frames with the
        same best label.
    """
    largest = squares = total = 0.0
    agreeing = frames = 0
    for features in utterances:
        batch = features[None], torch.tensor([features.shape[1]])
        got, expected = exported(*batch)[0][0], reference(*batch)[0][0].cpu()
        got = got[: len(expected)]
        heard = expected > -10  # what is less likely is noise of the rounding, and never heard
        largest = max(largest, float((got - expected)[heard].abs().max()))
        squares += float((got.exp() - expected.exp()).square().sum())
        total += float(expected.exp().square().sum())
        agreeing += int((got.argmax(dim=1) == expected.argmax(dim=1)).sum())
        frames += len(expected)
    return {
        "largest_log_prob_difference": largest,
        "relative_error": (squares / total) ** 0.5,
        "labels_agreeing": agreeing / frames,
    }
