"""Rooms, noise and loudness: random changes to the waveform of a training utterance.

Like every draw, these are a function of (seed, epoch, utterance). The order is that of nature: the room answers the
speaker, noise comes on top, and the microphone's gain changes both.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jasper_ray.audio.augment import uniform
from jasper_ray.config.speech import AugmentConfig

# A separate stream of the counter-based generator (see augment.py), and what its numbers decide, in this order.
INTERFERENCE_STREAM = 5
NUM_CHANCES = 7
FFT_STEP = 4096

Waveform = NDArray[np.float32]


@dataclass(frozen=True)
class InterferenceDraws:
    """All that chance decides about the surroundings of one utterance in one epoch."""

    impulse: int | None
    """Which room impulse response; none for an utterance that stays dry."""
    noise: int | None
    """Which noise; none for an utterance that stays clean."""
    noise_start: float
    """Where in the noise the utterance begins, as a share of the noise's length."""
    snr_db: float
    """Power of the utterance over that of the noise."""
    gain_db: float


def draw_interference(
    config: AugmentConfig, *, seed: int, epoch: int, utterances: NDArray[np.int64], num_impulses: int, num_noises: int
) -> list[InterferenceDraws]:
    """Draws for utterances (manifest rows), given how many impulse responses and noises there are."""
    chances = uniform(seed, INTERFERENCE_STREAM, epoch, utterances[:, None], np.arange(NUM_CHANCES))
    return [_draw(config, numbers, num_impulses, num_noises) for numbers in chances.tolist()]


def _draw(config: AugmentConfig, numbers: list[float], num_impulses: int, num_noises: int) -> InterferenceDraws:
    is_reverberant, which_impulse, is_noisy, which_noise, start, snr, gain = numbers
    is_wet = num_impulses > 0 and is_reverberant < config.reverb_probability
    is_mixed = num_noises > 0 and is_noisy < config.noise_probability
    return InterferenceDraws(
        impulse=int(which_impulse * num_impulses) if is_wet else None,
        noise=int(which_noise * num_noises) if is_mixed else None,
        noise_start=start,
        snr_db=config.noise_snr_min_db + snr * (config.noise_snr_max_db - config.noise_snr_min_db),
        gain_db=config.gain_min_db + gain * (config.gain_max_db - config.gain_min_db),
    )


def reverberated(waveform: Waveform, impulse_response: Waveform) -> Waveform:
    """The waveform `(N,)` as it sounds in a room: as long, as loud, and its direct sound where it was.

    Args:
        waveform: Dry speech.
        impulse_response: `(M,)` at the same rate. Its largest sample is taken as the direct sound.
    """
    direct = int(np.abs(impulse_response).argmax())
    # A length whose largest prime factor is small, so that every transform is fast.
    size = -(-(len(waveform) + len(impulse_response) - 1) // FFT_STEP) * FFT_STEP
    spectrum = np.fft.rfft(waveform, size) * np.fft.rfft(impulse_response, size)
    wet = np.fft.irfft(spectrum, size)[direct : direct + len(waveform)].astype(np.float32, copy=False)
    loudness = _energy(wet)
    return wet * np.float32(np.sqrt(_energy(waveform) / loudness)) if loudness else waveform


def with_noise(waveform: Waveform, noise: Waveform, snr_db: float) -> Waveform:
    """The waveform `(N,)` and noise `(N,)`, scaled so that the ratio of their powers is `snr_db`.

    Silence on either side has no ratio: then the waveform stays as it is.
    """
    speech_energy, noise_energy = _energy(waveform), _energy(noise)
    if not speech_energy or not noise_energy:
        return waveform
    return waveform + noise * np.float32(np.sqrt(speech_energy / noise_energy) * 10 ** (-snr_db / 20))


def louder(waveform: Waveform, gain_db: float) -> Waveform:
    """The waveform at another loudness; it is not clipped at full scale."""
    return waveform if gain_db == 0 else waveform * np.float32(10 ** (gain_db / 20))


def _energy(waveform: Waveform) -> float:
    return float(waveform.dot(waveform))
