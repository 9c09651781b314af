import numpy as np
import pytest
import torch

from jasper_ray.audio.augment import (
    NOISE_TABLE_SAMPLES,
    Mask,
    UtteranceDraws,
    apply_masks,
    dither_noise,
    draw_speeds,
    draw_utterance,
    draw_utterances,
    uniform,
)
from jasper_ray.config.speech import AugmentConfig

SPECAUGMENT = AugmentConfig(freq_masks=2, time_masks=2)


def draw(config: AugmentConfig, *, utterance: int = 0, epoch: int = 0, num_frames: int = 500) -> UtteranceDraws:
    return draw_utterance(config, seed=7, epoch=epoch, utterance=utterance, num_frames=num_frames, num_mels=64)


def test_uniform_depends_on_every_argument_and_on_nothing_else() -> None:
    assert uniform(1, 2, 3) == uniform(1, 2, 3)
    numbers = {float(uniform(*arguments)) for arguments in [(1, 2, 3), (2, 1, 3), (1, 3, 2), (1, 2), (1, 2, 3, 0)]}
    assert len(numbers) == 5


def test_uniform_of_arrays_is_that_of_their_elements() -> None:
    utterances = np.arange(50)
    together = uniform(3, 1, 0, utterances)
    assert together.tolist() == [float(uniform(3, 1, 0, int(utterance))) for utterance in utterances]
    assert uniform(3, np.arange(4)[:, None], np.arange(5)).shape == (4, 5)


def test_uniform_values_are_these_for_ever() -> None:
    # A change would make a resumed run differ from its own beginning.
    assert uniform(0, 1, 2, np.arange(3)).tolist() == pytest.approx(
        [0.4975138992679691, 0.1973699239902641, 0.10517677042542595], abs=0
    )


def test_uniform_fills_the_unit_interval_evenly_and_without_correlation() -> None:
    numbers = uniform(5, np.arange(300)[:, None], np.arange(300)).ravel()
    assert 0 <= numbers.min() < numbers.max() < 1
    counts, _ = np.histogram(numbers, bins=100, range=(0, 1))
    assert counts.std() < 1.5 * np.sqrt(len(numbers) / 100)
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.01


def test_speeds_fill_their_range_and_their_share() -> None:
    config = AugmentConfig(speed_min=0.85, speed_max=1.15, speed_probability=0.25)
    speeds = draw_speeds(config, seed=0, epoch=0, utterances=np.arange(20_000))
    assert speeds.min() >= 0.85
    assert speeds.max() <= 1.15
    assert (speeds != 1).mean() == pytest.approx(0.25, abs=0.02)
    assert speeds[speeds != 1].mean() == pytest.approx(1.0, abs=0.005)


def test_discrete_speeds_are_the_ends_and_one_equally_often() -> None:
    config = AugmentConfig(speed_min=0.9, speed_max=1.1, speed_discrete=True)
    speeds, counts = np.unique(draw_speeds(config, seed=0, epoch=0, utterances=np.arange(30_000)), return_counts=True)
    assert speeds.tolist() == [0.9, 1.0, 1.1]
    np.testing.assert_allclose(counts / 30_000, 1 / 3, atol=0.02)


def test_speed_is_one_when_it_is_not_asked_for() -> None:
    assert (draw_speeds(AugmentConfig(), seed=0, epoch=0, utterances=np.arange(100)) == 1.0).all()


def test_an_utterances_speed_is_the_one_that_planning_saw() -> None:
    config = AugmentConfig(speed_min=0.85, speed_max=1.15)
    planned = draw_speeds(config, seed=7, epoch=3, utterances=np.array([11, 4, 2]))
    assert [draw(config, utterance=row, epoch=3).speed for row in (11, 4, 2)] == planned.tolist()


def test_draws_change_with_epoch_and_utterance_and_repeat_otherwise() -> None:
    assert draw(SPECAUGMENT, utterance=1, epoch=2) == draw(SPECAUGMENT, utterance=1, epoch=2)
    assert draw(SPECAUGMENT, utterance=1, epoch=2) != draw(SPECAUGMENT, utterance=1, epoch=3)
    assert draw(SPECAUGMENT, utterance=1, epoch=2) != draw(SPECAUGMENT, utterance=2, epoch=2)


def test_specaugment_widths_are_uniform_with_both_ends_and_masks_stay_inside() -> None:
    masks = [mask for row in range(3000) for mask in draw(SPECAUGMENT, utterance=row).masks]
    bands = [mask for mask in masks if mask.num_frames == 500]
    stretches = [mask for mask in masks if mask.num_bins == 64]
    # Width 0 leaves no mask, so 1 to 20 of 0 to 20 and 1 to 75 of 0 to 75 are seen.
    assert {mask.num_bins for mask in bands} == set(range(1, 21))
    assert {mask.num_frames for mask in stretches} == set(range(1, 76))
    assert len(bands) / 6000 == pytest.approx(20 / 21, abs=0.02)
    assert np.mean([mask.num_frames for mask in stretches]) == pytest.approx(38, abs=1)
    assert min(mask.first_bin for mask in bands) == 0
    assert max(mask.first_bin + mask.num_bins for mask in bands) == 64
    assert min(mask.first_frame for mask in stretches) == 0
    assert max(mask.first_frame + mask.num_frames for mask in stretches) == 500


@pytest.mark.parametrize("num_frames", [1, 3, 50])
def test_time_masks_of_short_utterances_respect_the_share(num_frames: int) -> None:
    config = AugmentConfig(time_masks=4, time_mask_min_frames=5, time_mask_max_share=0.5)
    for row in range(200):
        for mask in draw(config, utterance=row, num_frames=num_frames).masks:
            assert 0 < mask.num_frames <= num_frames * 0.5
            assert mask.first_frame + mask.num_frames <= num_frames


def test_cutout_draws_rectangles_inside_the_features() -> None:
    config = AugmentConfig(cutout_masks=5, cutout_max_bins=20, cutout_max_frames=5)
    masks = [mask for row in range(500) for mask in draw(config, utterance=row).masks]
    assert {mask.num_bins for mask in masks} == set(range(1, 21))
    assert {mask.num_frames for mask in masks} == set(range(1, 6))
    assert max(mask.first_bin + mask.num_bins for mask in masks) == 64


def test_no_masks_are_drawn_unless_asked_for() -> None:
    assert draw(AugmentConfig()).masks == ()


def test_masks_set_their_rectangles_to_zero_in_a_copy() -> None:
    features = torch.ones(8, 10)
    masked = apply_masks(features, (Mask(2, 3, 4, 5),))
    assert masked.sum() == 80 - 15
    assert masked[2:5, 4:9].sum() == 0
    assert features.sum() == 80


def test_dither_noise_is_standard_normal_and_repeats() -> None:
    noise = dither_noise(200_000, 12_345)
    assert noise.dtype == np.float32
    assert noise.mean() == pytest.approx(0, abs=0.01)
    assert noise.std() == pytest.approx(1, abs=0.01)
    np.testing.assert_array_equal(noise, dither_noise(200_000, 12_345))


def test_dither_noise_goes_on_past_the_end_of_its_table() -> None:
    across = dither_noise(10, NOISE_TABLE_SAMPLES - 4)
    np.testing.assert_array_equal(across[4:], dither_noise(6, 0))
    assert dither_noise(2 * NOISE_TABLE_SAMPLES + 5, 3).shape == (2 * NOISE_TABLE_SAMPLES + 5,)


def test_draws_for_several_utterances_are_those_of_each_alone() -> None:
    config = AugmentConfig(speed_min=0.9, speed_max=1.1, freq_masks=2, time_masks=2, cutout_masks=1)
    rows, num_frames = np.array([5, 0, 900]), np.array([700, 3, 90])
    speeds = draw_speeds(config, seed=7, epoch=2, utterances=rows)
    together = draw_utterances(
        config, seed=7, epoch=2, utterances=rows, speeds=speeds, num_frames=num_frames, num_mels=64
    )
    alone = [
        draw_utterance(config, seed=7, epoch=2, utterance=row, num_frames=frames, num_mels=64)
        for row, frames in zip(rows.tolist(), num_frames.tolist(), strict=True)
    ]
    assert together == alone and any(draws.masks for draws in together)
