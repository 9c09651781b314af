"""A bundle's model, ready to run: features in, log-probabilities out."""

from typing import Literal

import torch
from torch import Tensor

from jasper_ray.model.bundle import Bundle

Precision = Literal["fp32", "fp16", "bf16"]
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Engine:
    """Runs the encoder in a chosen precision; log-softmax is always fp32.

    Args:
        bundle: Whose model; it is converted in place.
        device: Where it runs.
        precision: Arithmetic of the encoder.

    Raises:
        ValueError: The device cannot compute in that precision.
    """

    def __init__(self, bundle: Bundle, *, device: str = "cpu", precision: Precision = "fp32") -> None:
        if precision == "fp16" and torch.device(device).type == "cpu":
            raise ValueError("precision fp16 needs a GPU, got device cpu: use bf16 or fp32")
        self._device = torch.device(device)
        self._dtype = DTYPES[precision]
        self._model = bundle.model.to(self._device, self._dtype).eval()

    @torch.inference_mode()
    def log_probs(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of a batch.

        Args:
            features: `(B, F, T)` float32.
            lengths: `(B,)` feature frames (10 ms).

        Returns:
            `(B, T', V)` float32 log-probabilities and `(B,)` encoder lengths, on the engine's device. An utterance's
            values do not depend on the others of its batch or on padding (fp32: within 1e-4).
        """
        return self._model(  # type: ignore[no-any-return]
            features.to(self._device, self._dtype, non_blocking=True), lengths.to(self._device, non_blocking=True)
        )
