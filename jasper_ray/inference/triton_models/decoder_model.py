"""Log-probabilities to text in Triton's Python backend: best path, repeats merged, blanks dropped. numpy alone.

Written into a model repository by `python -m jobs.export … --format triton`; it does not import jasper_ray.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """`log_probs` and `encoder_lengths` to `TRANSCRIPT`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the alphabet."""
        folder = Path(args["model_repository"]) / args["model_version"]
        self._labels = json.loads((folder / "settings.json").read_text())["alphabet"]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Each request is a batch of its own."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        log_probs = pb_utils.get_input_tensor_by_name(request, "log_probs").as_numpy()
        lengths = pb_utils.get_input_tensor_by_name(request, "encoder_lengths").as_numpy().reshape(-1)
        texts = [self._text(row[: int(length)].argmax(axis=1)) for row, length in zip(log_probs, lengths, strict=True)]
        encoded = np.array([[text.encode()] for text in texts], dtype=object)
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("TRANSCRIPT", encoded)])

    def _text(self, path: np.ndarray) -> str:
        is_new = np.ones(len(path), dtype=bool)
        is_new[1:] = path[1:] != path[:-1]
        return "".join(self._labels[label] for label in path[is_new & (path != len(self._labels))])
