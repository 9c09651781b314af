import numpy as np
import pytest

from jasper_ray.audio.loudness import envelope, estimated_snr_db

RATE_HZ = 16000


@pytest.mark.parametrize("wanted_db", [10.0, 20.0, 30.0])
def test_the_estimate_is_near_the_true_ratio_where_speech_pauses(wanted_db: float) -> None:
    rng = np.random.default_rng(0)
    seconds = np.arange(4 * RATE_HZ) / RATE_HZ
    voice = np.sin(2 * np.pi * 300 * seconds) * (seconds % 1 < 0.6)
    noise = rng.normal(size=len(voice)) * np.sqrt(0.5 / 10 ** (wanted_db / 10))
    # Loud frames hold the noise too.
    expected_db = 10 * np.log10(10 ** (wanted_db / 10) + 1)
    assert estimated_snr_db(voice + noise, sample_rate_hz=RATE_HZ) == pytest.approx(expected_db, abs=1.5)


def test_silence_and_scraps_have_no_ratio() -> None:
    assert estimated_snr_db(np.zeros(RATE_HZ), sample_rate_hz=RATE_HZ) == 0
    assert estimated_snr_db(np.ones(10), sample_rate_hz=RATE_HZ) == 0


def test_an_envelope_shows_peaks_as_shares_of_the_loudest() -> None:
    waveform = np.concatenate([np.full(100, 0.1), np.full(100, -0.4), np.zeros(100)])
    assert envelope(waveform, 3) == [0.25, 1.0, 0.0]
    assert envelope(np.zeros(0), 2) == [0.0, 0.0]
    assert len(envelope(waveform, 1000)) == 1000
