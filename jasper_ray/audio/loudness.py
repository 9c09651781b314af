"""How far speech stands out of its background."""

import itertools

import numpy as np

FRAME_S = 0.02
LOUD_QUANTILE, QUIET_QUANTILE = 0.95, 0.1
MAX_DB = 80.0


def estimated_snr_db(waveform: np.ndarray, *, sample_rate_hz: int) -> float:
    """Signal-to-noise ratio in dB as the energy of loud frames over that of quiet ones, from 0 to 80.

    An estimate: it takes the quietest tenth of the frames for noise, and so says too little where speech never pauses.

    Args:
        waveform: `(N,)`, any scale.
        sample_rate_hz: Its rate.
    """
    width = max(1, round(FRAME_S * sample_rate_hz))
    frames = waveform[: len(waveform) // width * width].reshape(-1, width).astype(np.float64)
    if len(frames) < 2:
        return 0.0
    quiet, loud = np.quantile((frames**2).mean(axis=1), [QUIET_QUANTILE, LOUD_QUANTILE])
    if loud <= 0:
        return 0.0
    return float(min(MAX_DB, 10 * np.log10(loud / max(quiet, loud * 1e-8))))


def envelope(waveform: np.ndarray, num_points: int) -> list[float]:
    """Peaks of `num_points` equal pieces, as shares of the loudest one, for a picture."""
    if len(waveform) == 0:
        return [0.0] * num_points
    edges = np.linspace(0, len(waveform), num_points + 1).astype(int)
    peaks = [float(np.abs(waveform[a : max(b, a + 1)]).max(initial=0.0)) for a, b in itertools.pairwise(edges)]
    highest = max(peaks) or 1.0
    return [round(peak / highest, 3) for peak in peaks]
