"""A bundle's model, ready to run: features in, log-probabilities out.

The model is folded (`jasper_ray.inference.folded`) and computed in the way that is fastest where it runs: on a CPU in
the frequency domain or by direct convolutions, which depends on model and precision and never on a batch; on a GPU as
CUDA graphs for buckets of batches, in halves with the kernels that are quickest for each bucket, so that there an
utterance's last digits depend on the bucket.
"""

import logging
from typing import Literal

import torch
from torch import Tensor

from jasper_ray.errors import ConfigError
from jasper_ray.inference.captured import CapturedRunner
from jasper_ray.inference.channels_first import ChannelsFirstRunner
from jasper_ray.inference.direct import DirectRunner
from jasper_ray.inference.folded import FoldedJasper, fold
from jasper_ray.inference.spectral import SpectralRunner, gains_from_frequencies
from jasper_ray.inference.spectral_layers import has_half_products
from jasper_ray.model.bundle import Bundle
from jasper_ray.model.jasper import strided_lengths

Precision = Literal["fp32", "fp16", "bf16"]
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
Method = Literal["auto", "direct", "frequency"]
WARM_UP_FRAMES = 100

log = logging.getLogger(__name__)


class Engine:
    """Runs the model in a chosen precision; log-softmax is always fp32.

    Padding is masked before every convolution, in a model that was trained without masks too: that one then gives an
    utterance what it gives it alone and without padding.

    Args:
        bundle: Whose model; it is copied, not changed.
        device: Where it runs.
        precision: Arithmetic of the encoder. `fp16` on a CPU: wide layers hold their weights in float16 and compute
            in float32, in the frequency domain; quicker than fp32 where the processor has no bf16.
        method: `frequency` holds 3 to 5 times the weights in memory; `auto` takes it for models that gain on a CPU,
            and on a GPU in halves for the layers and sizes of batches that gain, where there is memory for it.

    Raises:
        ConfigError: Device, or model, cannot be computed in that precision, or by that method.
    """

    def __init__(
        self, bundle: Bundle, *, device: str = "cpu", precision: Precision = "fp32", method: Method = "auto"
    ) -> None:
        self._device = torch.device(device)
        on_gpu = self._device.type != "cpu"
        half_weights = precision == "fp16" and not on_gpu
        if half_weights and not has_half_products():
            raise ConfigError(
                "precision fp16 on a CPU needs torch's FBGEMM (x86 with AVX2), not here: use bf16 or fp32"
            )
        if method == "frequency" and on_gpu:
            raise ConfigError(f"method frequency alone is for a CPU, got device {device}: use auto, or direct")
        if precision == "bf16" and not on_gpu and torch.backends.cpu.get_cpu_capability() == "AVX2":
            log.warning("this CPU has no bf16 arithmetic, fp32 and fp16 are several times faster on it")
        dtype = torch.float32 if half_weights else DTYPES[precision]
        folded = fold(bundle.model)
        self.method = _fastest_on_cpu(folded, dtype) if method == "auto" and not on_gpu else method
        if half_weights and self.method == "direct":
            raise ConfigError(
                "precision fp16 on a CPU is for method frequency, and this model's layers are quicker by direct "
                "convolutions: use fp32"
            )
        self._strides = [block.stride for block in folded.blocks if block.stride > 1]
        self._num_mels = bundle.config.features.num_mels
        self._runner: CapturedRunner | DirectRunner | SpectralRunner | ChannelsFirstRunner
        if on_gpu:
            self._runner = CapturedRunner(folded, device=self._device, dtype=dtype, tries=method == "auto")
        elif self.method == "frequency" and dtype == torch.bfloat16:
            self._runner = ChannelsFirstRunner(folded, dtype=dtype)
        elif self.method == "frequency":
            self._runner = SpectralRunner(folded, dtype=dtype, half_weights=half_weights)
        else:
            self._runner = DirectRunner(folded, device=self._device, dtype=dtype)

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Do once what is slow only the first time, so that no request pays for it."""
        if isinstance(self._runner, CapturedRunner):
            self._runner.capture_all(self._num_mels)
        else:
            self._runner.log_probs(torch.zeros(1, self._num_mels, WARM_UP_FRAMES), None)

    @torch.inference_mode()
    def log_probs(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of a batch.

        Args:
            features: `(B, F, T)` float32; behind an utterance's end there may be anything.
            lengths: `(B,)` feature frames (10 ms).

        Returns:
            `(B, T', V)` float32 log-probabilities and `(B,)` encoder lengths, on the engine's device; T' are the
            encoder frames of the longest. An utterance's values do not depend on the others of its batch or on padding
            (fp32: within 1e-4).
        """
        lengths = lengths.cpu()
        features = features[..., : int(lengths.max())]
        if isinstance(self._runner, CapturedRunner):
            log_probs = self._runner.log_probs(features, lengths)
        else:
            log_probs = self._runner.log_probs(*without_padding(features.cpu(), lengths))
        for stride in self._strides:
            lengths = strided_lengths(lengths, stride)
        return log_probs[:, : int(lengths.max())], lengths.to(self._device, non_blocking=True)


def without_padding(features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
    """Features with zeros for padding, and `(B, 1, T)` 1 on frames of utterances; none where every frame is one."""
    num_frames = features.shape[2]
    if int(lengths.min()) >= num_frames:
        return features, None
    is_padding = (torch.arange(num_frames) >= lengths[:, None])[:, None]
    return features.masked_fill(is_padding, 0), is_padding.logical_not().to(features.dtype)


def _fastest_on_cpu(folded: FoldedJasper, dtype: torch.dtype) -> Method:
    return "frequency" if gains_from_frequencies(folded, dtype) else "direct"
