"""Random changes to training utterances.

Every draw is a pure function of (seed, epoch, utterance): there is no generator whose state could depend on the order
of work, the number of workers or a restart.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from jasper_ray.config.speech import AugmentConfig

# Separate streams, so that no two decisions share a draw. Streams from 100 up belong to planning and training.
SPEED_STREAM, SPEED_CHOICE_STREAM, NOISE_STREAM, MASK_STREAM = 1, 2, 3, 4
# Speeds lie on a grid. soxr resamples by ratios of small numbers 1.6 times faster than by any other (8,077 to
# 4,970 times real time, one core of an AMD EPYC, 2026-11), and a hop of 10 ms at 16 kHz stays whole in samples.
SPEED_STEPS = 160
# 65 s at 16 kHz (4 MB). One table instead of fresh normals: drawing them would cost more than all other features.
NOISE_TABLE_SAMPLES = 2**20
NOISE_TABLE_SEED = 20210701


class Mask(NamedTuple):  # made in half the time of a frozen dataclass, and an epoch has millions
    """A rectangle of the features that is set to zero."""

    first_bin: int
    num_bins: int
    first_frame: int
    num_frames: int


class UtteranceDraws(NamedTuple):
    """All that chance decides about one utterance in one epoch."""

    speed: float
    """Playing speed; above 1 is shorter."""
    noise_offset: int
    """Where in the noise table the utterance's dither begins."""
    masks: tuple[Mask, ...]
    folded: bool = False
    """Whether the speed is folded into the spectrum where that is possible, instead of resampling."""


def uniform(seed: int, *counters: int | NDArray[np.int64]) -> NDArray[np.float64]:
    """Numbers in [0, 1) that depend on nothing but the arguments.

    Args:
        seed: The run's seed.
        *counters: What the draw is for (stream, epoch, utterance, ...); they broadcast against each other.

    Returns:
        float64 of the broadcast shape.

    Source: the mixing function of SplitMix64 (Steele, Lea, Flood 2014), chained over the counters.
    """
    words = [_words(seed), *(_words(counter) for counter in counters)]
    shape = np.broadcast_shapes(*(np.shape(counter) for counter in counters))
    state = np.zeros(1, np.uint64)
    for word in words:
        state = _mix((state ^ word) + np.uint64(0x9E3779B97F4A7C15))
    numbers = (state >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return numbers.reshape(shape)


def draw_speeds(config: AugmentConfig, *, seed: int, epoch: int, utterances: NDArray[np.int64]) -> NDArray[np.float64]:
    """Playing speeds of utterances (manifest rows); exactly 1.0 where the speed is not changed."""
    choice = uniform(seed, SPEED_CHOICE_STREAM, epoch, utterances)
    if config.speed_discrete:
        speeds = np.array([config.speed_min, 1.0, config.speed_max])[(choice * 3).astype(np.int64)]
    else:
        speeds = config.speed_min + choice * (config.speed_max - config.speed_min)
        speeds = np.clip(np.round(speeds * SPEED_STEPS) / SPEED_STEPS, config.speed_min, config.speed_max)
    changed = uniform(seed, SPEED_STREAM, epoch, utterances) < config.speed_probability
    return np.where(changed, speeds, 1.0)


def draw_utterance(
    config: AugmentConfig, *, seed: int, epoch: int, utterance: int, num_frames: int, num_mels: int
) -> UtteranceDraws:
    """All draws for one utterance.

    Args:
        config: What is drawn.
        seed: The run's seed.
        epoch: Epoch, from 0.
        utterance: Manifest row.
        num_frames: Feature frames of the utterance at its drawn speed; masks lie within them, not within the padding
            of a batch.
        num_mels: Mel bins.
    """
    (draws,) = draw_utterances(
        config,
        seed=seed,
        epoch=epoch,
        utterances=np.array([utterance]),
        speeds=draw_speeds(config, seed=seed, epoch=epoch, utterances=np.array([utterance])),
        num_frames=np.array([num_frames]),
        num_mels=num_mels,
    )
    return draws


def draw_utterances(
    config: AugmentConfig,
    *,
    seed: int,
    epoch: int,
    utterances: NDArray[np.int64],
    speeds: NDArray[np.float64],
    num_frames: NDArray[np.int64],
    num_mels: int,
) -> list[UtteranceDraws]:
    """All draws for several utterances, the same as one by one; `speeds` are theirs by `draw_speeds`."""
    offsets = (uniform(seed, NOISE_STREAM, epoch, utterances) * NOISE_TABLE_SAMPLES).astype(np.int64).tolist()
    count = config.freq_masks + config.time_masks + config.cutout_masks
    masks: list[tuple[Mask, ...]] = [()] * len(utterances)
    if count:
        chances = uniform(seed, MASK_STREAM, epoch, utterances[:, None], np.arange(4 * count))
        rectangles = chances.reshape(len(utterances), count, 4).tolist()
        pairs = zip(rectangles, num_frames.tolist(), strict=True)
        masks = [_place_masks(config, chances=one, num_frames=frames, num_mels=num_mels) for one, frames in pairs]
    folded = config.speed_method == "folded"
    return [UtteranceDraws(*draws, folded) for draws in zip(speeds.tolist(), offsets, masks, strict=True)]


def dither_noise(num_samples: int, offset: int) -> NDArray[np.float32]:
    """`(num_samples,)` standard normal values, not to be written to: a stretch of one fixed table that repeats."""
    table = _noise_table()
    offset %= NOISE_TABLE_SAMPLES
    if offset + num_samples <= NOISE_TABLE_SAMPLES:
        return table[offset : offset + num_samples]
    repeats = 2 + num_samples // NOISE_TABLE_SAMPLES
    return np.tile(table, repeats)[offset : offset + num_samples]


def apply_masks(features: Tensor, masks: tuple[Mask, ...]) -> Tensor:
    """A copy of features `(F, T)` with the masked rectangles set to zero, the mean after normalisation."""
    if not masks:
        return features
    features = features.clone()
    for mask in masks:
        bins = slice(mask.first_bin, mask.first_bin + mask.num_bins)
        features[bins, mask.first_frame : mask.first_frame + mask.num_frames] = 0
    return features


def _place_masks(
    config: AugmentConfig, *, chances: list[list[float]], num_frames: int, num_mels: int
) -> tuple[Mask, ...]:
    """Bands, then stretches, then rectangles; masks of width 0 are left out."""
    longest = min(config.time_mask_max_frames, int(config.time_mask_max_share * num_frames))
    masks = []
    for number, (bin_width, bin_place, frame_width, frame_place) in enumerate(chances):
        first_bin, bins = 0, num_mels
        first_frame, frames = 0, num_frames
        is_band = number < config.freq_masks
        is_stretch = not is_band and number < config.freq_masks + config.time_masks
        if is_band:
            bins = _width(bin_width, config.freq_mask_min_bins, min(config.freq_mask_max_bins, num_mels))
        elif not is_stretch:
            bins = _width(bin_width, 0, min(config.cutout_max_bins, num_mels))
            frames = _width(frame_width, 0, min(config.cutout_max_frames, num_frames))
        else:
            frames = _width(frame_width, config.time_mask_min_frames, longest)
        first_bin = int(bin_place * (num_mels - bins + 1))
        first_frame = int(frame_place * (num_frames - frames + 1))
        if bins and frames:
            masks.append(Mask(first_bin, bins, first_frame, frames))
    return tuple(masks)


def _width(chance: float, narrowest: int, widest: int) -> int:
    """A whole number from `narrowest` to `widest`, both possible; `widest` wins where a short utterance lowers it."""
    narrowest = min(narrowest, widest)
    return narrowest + int(chance * (widest - narrowest + 1))


def _words(counter: int | NDArray[np.int64]) -> NDArray[np.uint64]:
    if isinstance(counter, int):
        return np.array([counter & 0xFFFFFFFFFFFFFFFF], np.uint64)
    return np.atleast_1d(counter).astype(np.uint64)


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = words ^ (words >> np.uint64(31))
    return mixed


@lru_cache(maxsize=1)
def _noise_table() -> NDArray[np.float32]:
    return np.random.default_rng(NOISE_TABLE_SEED).standard_normal(NOISE_TABLE_SAMPLES, dtype=np.float32)
