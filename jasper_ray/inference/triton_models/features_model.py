"""Waveforms to log-mel features in Triton's Python backend: numpy alone, with the constants of the bundle beside it.

Written into a model repository by `python -m jobs.export … --format triton`; it does not import jasper_ray.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

STD_FLOOR = 1e-5


class TritonPythonModel:
    """`AUDIO_SIGNAL` and `NUM_SAMPLES` to `features` and `lengths`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the constants."""
        folder = Path(args["model_repository"]) / args["model_version"]
        constants = np.load(folder / "constants.npz")
        self._window, self._mels = constants["window"], constants["mels"]
        self._settings = json.loads((folder / "settings.json").read_text())

    def execute(self, requests: list[Any]) -> list[Any]:
        """Each request is a batch of its own."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        signal = pb_utils.get_input_tensor_by_name(request, "AUDIO_SIGNAL").as_numpy()
        samples = pb_utils.get_input_tensor_by_name(request, "NUM_SAMPLES").as_numpy().reshape(-1)
        rows = [
            self._normalised(self._log_mel(waveform[: max(int(count), 1)].astype(np.float32)))
            for waveform, count in zip(signal, samples, strict=True)
        ]
        lengths = np.array([[row.shape[1]] for row in rows], dtype=np.int64)
        features = np.zeros((len(rows), rows[0].shape[0], int(lengths.max())), dtype=np.float32)
        for row, one in zip(features, rows, strict=True):
            row[:, : one.shape[1]] = one
        outputs = [pb_utils.Tensor("features", features), pb_utils.Tensor("lengths", lengths)]
        return pb_utils.InferenceResponse(output_tensors=outputs)

    def _log_mel(self, waveform: np.ndarray) -> np.ndarray:
        settings, size = self._settings, len(self._window)
        hop, edge = settings["hop_samples"], size // 2
        is_dali = settings["flavour"] == "nvidia_dali"
        num_frames = len(waveform) // hop + 1 if is_dali else -(-len(waveform) // hop)
        waveform = np.pad(waveform, (0, max(0, edge + 1 - len(waveform))))
        if settings["preemphasis"]:
            first = (1 - settings["preemphasis"] if is_dali else 1) * waveform[:1]
            waveform = np.concatenate([first, waveform[1:] - np.float32(settings["preemphasis"]) * waveform[:-1]])
        waveform = np.concatenate([waveform[edge:0:-1], waveform, waveform[-2 : -edge - 2 : -1]])
        frames = np.lib.stride_tricks.sliding_window_view(waveform, size)[::hop][:num_frames]
        power = np.abs(np.fft.rfft(frames * self._window).astype(np.complex64)) ** 2
        energies, floor = power @ self._mels.T, settings["log_floor"]
        log_mel: np.ndarray = np.log(np.maximum(energies, floor) if is_dali else energies + floor).T
        return log_mel

    def _normalised(self, log_mel: np.ndarray) -> np.ndarray:
        settings = self._settings
        if settings["normalize"] == "none":
            return log_mel
        axis = 1 if settings["normalize"] == "per_feature" else None
        values = log_mel.astype(np.float64)
        centred = values - values.mean(axis=axis, keepdims=True)
        count = values.shape[1] if axis == 1 else values.size
        squares = (centred**2).sum(axis=axis, keepdims=True)
        if settings["flavour"] == "nvidia_dali":
            std = np.sqrt(squares / count)
            return np.where(std > STD_FLOOR, centred / np.maximum(std, STD_FLOOR), 0)
        normalised: np.ndarray = centred / (np.sqrt(squares / max(count - 1, 1)) + STD_FLOOR)
        return normalised
