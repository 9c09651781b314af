"""Raw audio that arrives in pieces of any size, to the model's rate: the same samples as from a file in one piece."""

from typing import Literal, get_args

import numpy as np
import soxr

from jasper_ray.audio.decode import resampled_length

Encoding = Literal["pcm16", "pcmu", "pcma"]
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)
MIN_RATE_HZ, MAX_RATE_HZ = 4000, 192_000


class PcmStream:
    """16-bit PCM, or G.711's mu-law or A-law, in; float32 at the model's rate out.

    Args:
        rate_hz: Rate of what comes in; whole number from 4000 to 192,000.
        model_hz: Rate of what goes out.
        encoding: How the samples are written: little-endian 16 bit, or 8-bit G.711.

    Raises:
        ValueError: The rate is out of range.
    """

    def __init__(self, rate_hz: int, model_hz: int, encoding: Encoding = "pcm16") -> None:
        if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
            raise ValueError(f"sample rate {rate_hz} is not supported: use {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz")
        self.rate_hz, self.encoding = rate_hz, encoding
        self._model_hz = model_hz
        self._odd = b""
        self._restart()

    @property
    def bytes_per_s(self) -> int:
        """Bytes of a second of what comes in."""
        return self.rate_hz * (2 if self.encoding == "pcm16" else 1)

    def feed(self, data: bytes) -> np.ndarray:
        """`(N,)` float32 that these bytes complete; a sample cut in two waits for its other half."""
        if self.encoding == "pcm16":
            data = self._odd + data
            whole = len(data) // 2 * 2
            data, self._odd = data[:whole], data[whole:]
            samples = np.frombuffer(data, dtype="<i2").astype(np.float32) / 32768
        else:
            samples = _G711[self.encoding][np.frombuffer(data, dtype=np.uint8)]
        self._num_in += len(samples)
        if self._resampler is None:
            return samples
        resampled: np.ndarray = self._resampler.resample_chunk(samples)
        self._num_out += len(resampled)
        return resampled

    def flush(self) -> np.ndarray:
        """What the resampler still holds; after it the stream begins anew."""
        rest = np.zeros(0, np.float32)
        if self._resampler is not None:
            missing = resampled_length(self._num_in, self.rate_hz, self._model_hz) - self._num_out
            rest = self._resampler.resample_chunk(rest, last=True)[: max(missing, 0)]
            rest = np.pad(rest, (0, max(missing - len(rest), 0)))
        self._odd = b""
        self._restart()
        return rest

    def _restart(self) -> None:
        self._num_in = self._num_out = 0
        self._resampler: soxr.ResampleStream | None = None
        if self.rate_hz != self._model_hz:
            self._resampler = soxr.ResampleStream(self.rate_hz, self._model_hz, 1, dtype="float32", quality="HQ")


def _mu_law() -> np.ndarray:
    codes = ~np.arange(256, dtype=np.uint8)
    exponent, mantissa = (codes >> 4) & 7, (codes & 15).astype(np.int32)
    magnitude = (((mantissa << 3) + 132) << exponent) - 132
    return (np.where(codes & 128, -magnitude, magnitude) / 32768).astype(np.float32)


def _a_law() -> np.ndarray:
    codes = np.arange(256, dtype=np.uint8) ^ 0x55
    exponent, mantissa = ((codes >> 4) & 7).astype(np.int32), (codes & 15).astype(np.int32)
    magnitude = np.where(exponent == 0, (mantissa << 4) + 8, ((mantissa << 4) + 264) << np.maximum(exponent - 1, 0))
    return (np.where(codes & 128, magnitude, -magnitude) / 32768).astype(np.float32)


_G711 = {"pcmu": _mu_law(), "pcma": _a_law()}
