from collections.abc import Callable

import numpy as np
import pytest

from jasper_ray.audio.decode import decode_audio, decode_stretch
from jasper_ray.audio.interference import (
    InterferenceDraws,
    draw_interference,
    louder,
    reverberated,
    with_noise,
)
from jasper_ray.config.speech import AugmentConfig
from jasper_ray.errors import AudioError

NOISY = AugmentConfig(noise=("n",), noise_probability=0.3, noise_snr_min_db=5, noise_snr_max_db=20)


def speech(num_samples: int = 40_000, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    swell = np.sin(np.linspace(0.1, 30, num_samples)) ** 2
    return (random.standard_normal(num_samples) * 0.1 * swell).astype(np.float32)


def power_db(waveform: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(waveform.astype(np.float64) ** 2)))


def draw(config: AugmentConfig, rows: np.ndarray, *, epoch: int = 0) -> list[InterferenceDraws]:
    return draw_interference(config, seed=7, epoch=epoch, utterances=rows, num_impulses=3, num_noises=5)


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 7.3, 20.0, 40.0])
def test_noise_is_added_at_the_drawn_ratio(snr_db: float) -> None:
    clean, noise = speech(), speech(seed=1) * 3
    noisy = with_noise(clean, noise, snr_db)
    assert noisy.dtype == np.float32
    assert power_db(clean) - power_db(noisy - clean) == pytest.approx(snr_db, abs=0.1)


def test_silence_has_no_ratio_and_changes_nothing() -> None:
    clean, silence = speech(), np.zeros(40_000, np.float32)
    np.testing.assert_array_equal(with_noise(clean, silence, 10), clean)
    np.testing.assert_array_equal(with_noise(silence, clean, 10), silence)
    np.testing.assert_array_equal(reverberated(silence, clean), silence)
    np.testing.assert_array_equal(reverberated(clean, silence), clean)


@pytest.mark.parametrize(("place", "height"), [(0, 1.0), (0, -0.3), (1234, 0.7)])
def test_an_impulse_alone_is_no_room(place: int, height: float) -> None:
    impulse = np.zeros(8000, np.float32)
    impulse[place] = height
    np.testing.assert_allclose(reverberated(speech(), impulse) * np.sign(height), speech(), atol=1e-6)


def test_a_room_keeps_length_energy_and_the_place_of_the_direct_sound() -> None:
    random = np.random.default_rng(3)
    impulse = np.concatenate([np.zeros(500), np.exp(-np.arange(9000) / 1500)]) * random.standard_normal(9500) * 0.1
    impulse[500] = 1.0
    click = np.zeros(20_000, np.float32)
    click[7000] = 0.5
    wet = reverberated(click, impulse.astype(np.float32))
    assert wet.shape == click.shape and wet.dtype == np.float32
    assert int(np.abs(wet).argmax()) == 7000
    assert np.abs(wet[:6990]).max() < 1e-6 and np.abs(wet[7100:]).max() > 0.01
    assert power_db(reverberated(speech(), impulse.astype(np.float32))) == pytest.approx(power_db(speech()), abs=0.01)


def test_reverberation_is_a_convolution() -> None:
    impulse = speech(700, seed=4)
    direct = int(np.abs(impulse).argmax())
    expected = np.convolve(speech(5000), impulse)[direct : direct + 5000]
    expected *= np.sqrt((speech(5000) ** 2).sum() / (expected**2).sum())
    np.testing.assert_allclose(reverberated(speech(5000), impulse), expected, atol=1e-6)


def test_gain_changes_the_loudness_by_so_many_decibels() -> None:
    assert power_db(louder(speech(), -6.5)) - power_db(speech()) == pytest.approx(-6.5, abs=1e-3)
    assert louder(speech(), 10).dtype == np.float32
    waveform = speech()
    assert louder(waveform, 0.0) is waveform


def test_draws_fill_their_ranges_and_shares() -> None:
    config = NOISY.model_copy(
        update={"reverb": ("r",), "reverb_probability": 0.6, "gain_min_db": -10.0, "gain_max_db": 3.0}
    )
    draws = draw(config, np.arange(5000))
    assert np.mean([one.noise is not None for one in draws]) == pytest.approx(0.3, abs=0.03)
    assert np.mean([one.impulse is not None for one in draws]) == pytest.approx(0.6, abs=0.03)
    assert {one.noise for one in draws} == {None, 0, 1, 2, 3, 4} and {one.impulse for one in draws} == {None, 0, 1, 2}
    for numbers, low, high in (
        ([one.snr_db for one in draws], 5, 20),
        ([one.gain_db for one in draws], -10, 3),
        ([one.noise_start for one in draws], 0, 1),
    ):
        assert low <= min(numbers) < low + 0.02 * (high - low) and high - 0.02 * (high - low) < max(numbers) <= high
        assert np.mean(numbers) == pytest.approx((low + high) / 2, abs=0.03 * (high - low))


def test_draws_of_several_are_those_of_each_and_change_with_the_epoch() -> None:
    rows = np.array([5, 0, 900])
    assert draw(NOISY, rows) == [draw(NOISY, rows[position : position + 1])[0] for position in range(3)]
    assert draw(NOISY, rows) != draw(NOISY, rows, epoch=1)


def test_nothing_is_drawn_from_nothing() -> None:
    draws = draw_interference(NOISY, seed=0, epoch=0, utterances=np.arange(50), num_impulses=0, num_noises=0)
    assert all(one.noise is None and one.impulse is None and one.gain_db == 0 for one in draws)


@pytest.mark.parametrize("knobs", [{"noise_snr_min_db": 30}, {"gain_min_db": 1}])
def test_ranges_the_wrong_way_round_are_refused(knobs: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"is above (noise_snr|gain)_max_db"):
        AugmentConfig.model_validate(knobs)


@pytest.mark.parametrize("container", ["WAV", "FLAC", "OGG"])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_stretch_is_cut_from_the_middle_and_goes_round_at_the_end(
    encode: Callable[..., bytes], container: str, channels: int
) -> None:
    waveform = np.repeat(speech(30_000)[:, None], channels, axis=1)
    encoded = encode(waveform, container=container)
    whole = decode_audio(encoded, sample_rate_hz=16_000)
    for start, num_samples in ((0.0, 1000), (0.5, 15_000), (0.9, 20_000), (0.25, 29_999), (0.3, 30_000), (0.7, 95_000)):
        begin = int(start * 30_000)
        expected = np.tile(whole, 5)[begin : begin + num_samples]
        stretch = decode_stretch(encoded, sample_rate_hz=16_000, start=start, num_samples=num_samples)
        np.testing.assert_allclose(stretch, expected, atol=1e-6)


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 44_100])
@pytest.mark.parametrize("num_samples", [1, 7_777, 16_000, 60_001])
def test_a_stretch_at_another_rate_has_the_length_asked_for(
    encode: Callable[..., bytes], rate_hz: int, num_samples: int
) -> None:
    encoded = encode(speech(rate_hz * 2), rate_hz)
    stretch = decode_stretch(encoded, sample_rate_hz=16_000, start=0.4, num_samples=num_samples)
    assert stretch.shape == (num_samples,) and stretch.dtype == np.float32


def test_a_truncated_recording_is_refused(encode: Callable[..., bytes]) -> None:
    encoded = encode(speech(30_000), container="FLAC")
    with pytest.raises(AudioError):
        decode_stretch(encoded[: len(encoded) // 3], sample_rate_hz=16_000, start=0.5, num_samples=10_000)
